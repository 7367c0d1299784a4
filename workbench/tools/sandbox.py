"""Python in a subprocess, killed as a group.

What holds against any code: the wall-time limit (the whole session's process group is killed), the
limits of the kernel on memory, CPU time, file size and, for a user other than root, processes; and
no network where the kernel lets us make an empty network namespace (`unshare`). What holds against
ordinary code, but not against somebody who sets out to break Python itself: an audit hook that
refuses sockets, new processes, foreign-function calls, and opening anything outside the scratch
folder and Python's own files (names of files elsewhere can still be probed with `stat`). It is a
seat belt for a model's code, not a prison.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.tools.contract import ToolError

_GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True, slots=True)
class Python:
    """Runs `code`; gives back what it printed. Limits are hard."""

    name: str = "python"
    description: str = "Run a short Python program and read what it prints."
    seconds: float = 5.0  # wall time
    memory: int = 512 << 20  # bytes of address space
    file_bytes: int = 1 << 20  # of any file, standard output included
    processes: int = 0  # besides its own
    max_output: int = 2000  # characters given back

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "type": "object",
            "properties": {"code": {"type": "string"}},
            "required": ["code"],
            "additionalProperties": False,
        }

    def __call__(self, **arguments: Any) -> Any:
        with tempfile.TemporaryDirectory(prefix="sandbox-") as scratch:
            return self._run(str(arguments["code"]), Path(scratch))

    def _run(self, code: str, scratch: Path) -> Any:
        work = scratch / "work"
        work.mkdir()
        limits = {
            "memory": self.memory,
            "cpu": int(self.seconds) + 1,
            "file_bytes": self.file_bytes,
            "processes": self.processes,
            "allowed": [str(work), *_own_files()],
        }
        (scratch / "code.py").write_text(code, "utf-8")
        command = [
            *_no_network(),
            sys.executable,
            "-I",
            "-S",
            "-B",
            str(_GUARD),
            json.dumps(limits),
        ]
        out, err = scratch / "out", scratch / "err"
        with (
            out.open("wb") as stdout,
            err.open("wb") as stderr,
            (scratch / "code.py").open("rb") as stdin,
        ):
            process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=work,
                env={"PATH": "/usr/bin:/bin"}, start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(self.seconds)
            except subprocess.TimeoutExpired as error:
                raise ToolError(
                    f"no end within {self.seconds:g} s; the process group was killed"
                ) from error
            finally:
                _kill(process)
        printed = out.read_bytes().decode("utf-8", "replace")[: self.max_output]
        if status:
            raise ToolError(_reason(status, err.read_bytes().decode("utf-8", "replace")))
        return {"output": printed}


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End everything in the group, also what outlived its parent."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(status: int, errors: str) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}; a limit was reached"
    last = errors.strip().splitlines()
    return (last[-1] if last else f"exit status {status}")[:300]


@cache
def _own_files() -> tuple[str, ...]:
    """Where Python's own library lies."""
    roots = {sys.prefix, sys.base_prefix, str(Path(os.__file__).parent)}
    return tuple(
        sorted(
            {os.path.realpath(root) for root in roots if root not in ("/", "/usr")}
            | {os.path.realpath(str(Path(os.__file__).parent))}
        )
    )


@cache
def _no_network() -> tuple[str, ...]:
    """A prefix that runs a command in an empty network namespace; empty where that is not
    possible."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    prefix = (unshare, "--user", "--map-root-user", "--net")
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if tried.returncode == 0 else ()


def guarantees() -> list[str]:
    """What this machine holds a program to, in words."""
    root = os.geteuid() == 0
    return [
        "wall time: the process group is killed",
        "memory, CPU time, file size: limits of the kernel",
        "processes: " + ("an audit hook (the kernel's limit does not bind root)" if root else
                         "a limit of the kernel and an audit hook"),
        f"network: {'an empty namespace and ' if _no_network() else ''}an audit hook",
        "files outside the scratch folder: an audit hook",
    ]  # fmt: skip
