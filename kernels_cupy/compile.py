"""CUDA C++ to cubin with NVRTC: no device, no nvcc, no driver needed.

CuPy's own disk cache hashes the source text but not the headers that it includes, so a changed
header would give a stale kernel; here the key covers the include closure, the constants, the target
and the compiler's version.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels_cupy.errors import CompileError, KernelError

CUDA = Path(__file__).parent / "cuda"
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_ERROR = re.compile(
    r"^(?P<file>.+?)\((?P<line>\d+)\): (?:catastrophic )?error:? (?P<what>.*)$", re.M
)
_ENTRY = re.compile(
    r"Compiling entry function '(?P<entry>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas reports of one kernel, per thread: registers and bytes of local memory."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A cubin on disk and what the compiler said about it."""

    path: Path
    arch: str
    resources: Mapping[str, Resources]  # by entry
    log: str


def closure(name: str) -> dict[str, str]:
    """Texts of `cuda/<name>.cu` and of all that it includes, by path relative to `cuda/`."""
    texts: dict[str, str] = {}
    todo = [f"{name}.cu"]
    while todo:
        relative = todo.pop()
        if relative not in texts:
            texts[relative] = (CUDA / relative).read_text()
            todo += _INCLUDE.findall(texts[relative])
    return texts


def digest(name: str, *salt: str) -> str:
    """Key of a build: the include closure and whatever else decides the machine code."""
    h = hashlib.sha256()
    for relative, text in sorted(closure(name).items()):
        h.update(f"{relative}\0{text}\0".encode())
    for word in salt:
        h.update(f"{word}\0".encode())
    return h.hexdigest()[:24]


def cache_dir() -> Path:
    root = os.environ.get("WORKBENCH_CACHE") or Path.home() / ".cache" / "reasoning-workbench"
    path = Path(root) / "kernels"
    path.mkdir(parents=True, exist_ok=True)
    return path


def define_flags(defines: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"-D{key}={value}" for key, value in sorted(defines.items()))


def compile_cubin(name: str, defines: Mapping[str, int], arch: str) -> Compiled:
    """Compile `cuda/<name>.cu` for `arch` ("sm_80", "sm_90a", …), or find it in the cache."""
    nvrtc = _nvrtc()
    version = nvrtc.getVersion()
    options = (
        f"--gpu-architecture={arch}",
        "-std=c++17",
        f"-I{CUDA}",
        "--ptxas-options=--verbose",
        *(("--no-cache",) if version >= (12, 9) else ()),  # else ptxas stays silent on a hit
        *define_flags(defines),
    )
    key = digest(name, *(o for o in options if not o.startswith("-I")), repr(version))
    cubin = cache_dir() / f"{name}-{arch}-{key}.cubin"
    report = cubin.with_suffix(".json")
    if not (cubin.exists() and report.exists()):
        code, log = _run(nvrtc, name, options)
        _show(name, options, log)
        resources = {k: asdict(v) for k, v in parse_resources(log).items()}
        _write(report, json.dumps({"resources": resources, "log": log}).encode())
        _write(cubin, code)
    said = json.loads(report.read_text())
    resources_read = {k: Resources(**v) for k, v in said["resources"].items()}
    return Compiled(cubin, arch, resources_read, said["log"])


def parse_resources(log: str) -> dict[str, Resources]:
    """Registers, stack and spills by entry, from ptxas' verbose report in NVRTC's log."""
    return {
        m["entry"]: Resources(
            int(m["registers"]), int(m["stack"]), int(m["stores"]), int(m["loads"])
        )
        for m in _ENTRY.finditer(log)
    }


def _run(nvrtc: Any, name: str, options: tuple[str, ...]) -> tuple[bytes, str]:
    source = CUDA / f"{name}.cu"
    program = nvrtc.createProgram(source.read_text(), str(source), (), ())
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        raise _named(source, nvrtc.getProgramLog(program)) from None
    else:
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)


def _named(source: Path, log: str) -> CompileError:
    found = _ERROR.search(log)
    if found is None:
        return CompileError(f"{source.name}: NVRTC failed without naming a line:\n{log}")
    path, number = Path(found["file"]), int(found["line"])
    text = path.read_text().splitlines()[number - 1].strip() if path.exists() else ""
    return CompileError(f"{path.name}:{number}: {found['what']}\n    {text}\n\n{log}")


def _show(name: str, options: tuple[str, ...], log: str) -> None:
    if "source" in os.environ.get("WORKBENCH_SHOW", "").split(","):
        text = (CUDA / f"{name}.cu").read_text()
        sys.stderr.write(f"== {name} {' '.join(options)}\n{text}\n{log}\n")


def _write(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:
        f.write(data)
    os.replace(f.name, path)  # two processes may compile the same kernel


def _nvrtc() -> Any:
    try:
        from cupy_backends.cuda.libs import nvrtc
    except ImportError as e:
        raise KernelError(
            f"NVRTC wanted, CuPy's binding is missing ({e}); install cupy-cuda13x or cupy-cuda12x"
        ) from e
    return nvrtc
