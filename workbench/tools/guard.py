"""First code in the sandbox's process: takes on its limits, then runs the program on standard
input.

Run as a script by `sandbox.py` with the limits as JSON; imports the standard library alone.
"""

import json
import os
import resource
import sys

_FORBIDDEN = (
    "socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
    "os.kill", "os.startfile", "ctypes.", "pty.", "signal.pthread_kill", "webbrowser.", "ftplib.",
    "os.putenv", "os.chroot", "os.setxattr", "syslog.",
)  # fmt: skip
_NO_IMPORT = {
    "_posixsubprocess",
    "_ctypes",
    "ctypes",
    "_multiprocessing",
    "_socket",
    "_testcapi",
    "cffi",
}
_PATHS = {
    "open": 1, "os.listdir": 1, "os.scandir": 1, "os.chdir": 1, "os.mkdir": 1, "os.remove": 1,
    "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.rename": 2,
    "os.link": 2, "os.symlink": 2, "sqlite3.connect": 1, "glob.glob": 1, "os.walk": 1,
}  # fmt: skip


def limit(limits: dict) -> None:  # type: ignore[type-arg]
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def guard(allowed: list[str]) -> None:
    real, inside = os.path.realpath, tuple(root + os.sep for root in allowed)
    fspath, is_int = os.fspath, int

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "import" and str(arguments[0]) in _NO_IMPORT:
            raise ImportError(f"{arguments[0]} is not allowed in the sandbox")
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed in the sandbox")
        for path in arguments[: _PATHS.get(event, 0)]:
            if isinstance(path, is_int) or path is None:
                continue
            where = real(os.fsdecode(fspath(path)))  # type: ignore[call-overload]
            if not (where + os.sep).startswith(inside) and where != os.devnull:
                raise PermissionError(f"{event} of {path!r} is not allowed in the sandbox")

    sys.addaudithook(hook)


def main() -> None:
    limits = json.loads(sys.argv[1])
    program = compile(sys.stdin.read(), "<program>", "exec")
    sys.argv = ["program"]
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    limit(limits)
    guard(limits["allowed"])
    exec(program, {"__name__": "__main__"})


main()
