"""Our .cu files executed on a CPU: for tests without a GPU and for the kernel tutorial.

`shim.h` gives the CUDA built-ins a meaning in C++; g++ compiles the unmodified source against it,
and the result is launched with the arguments of the CUDA kernel. Slow (about 10 µs a CUDA thread
and more with many barriers): for small shapes only.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kernels_cupy.compile import CUDA, cache_dir, define_flags, digest
from kernels_cupy.errors import CompileError, KernelError
from kernels_cupy.launch import LaunchPlan

SHIM = Path(__file__).parent / "shim.h"


class Emulated:
    """An entry of a `.cu` compiled for the CPU. Pointers are CPU tensors."""

    def __init__(self, source: str, entry: str, defines: Mapping[str, int]) -> None:
        self.name = entry
        self._library = ctypes.CDLL(str(_build(source, entry, defines)))

    def __call__(self, plan: LaunchPlan, *args: Any) -> None:
        cells = [_cell(a) for a in args]
        pointers = (ctypes.c_void_p * len(cells))(*(c.ctypes.data for c in cells))
        grid = (ctypes.c_uint * 3)(*plan.grid)
        block = (ctypes.c_uint * 3)(plan.threads, 1, 1)
        if self._library.emulated_launch(grid, block, ctypes.c_uint(plan.shared), pointers):
            raise KernelError(f"{self.name}: threads wait for a barrier that not all of them reach")


def emulated(source: str, entry: str, defines: Mapping[str, int]) -> Emulated:
    return Emulated(source, entry, defines)


def _cell(a: Any) -> np.ndarray[Any, Any]:
    if isinstance(a, Tensor):
        return np.array([a.data_ptr()], dtype=np.uint64)
    if a is None:
        return np.zeros(1, dtype=np.uint64)
    if isinstance(a, np.generic):
        return np.array([a])
    raise TypeError(f"a kernel argument must be a tensor, None, i32, i64 or f32; got {a!r}")


def _build(source: str, entry: str, defines: Mapping[str, int]) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        raise KernelError("g++ wanted to emulate kernels on the CPU, none found; install it")
    flags = ("-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-x", "c++", *define_flags(defines))
    library = cache_dir() / f"{entry}-cpu-{digest(source, SHIM.read_text(), entry, *flags)}.so"
    if library.exists():
        return library
    text = (
        f'#include "{SHIM}"\n#include "{source}.cu"\n'
        'extern "C" int emulated_launch(const unsigned* grid, const unsigned* block, '
        "unsigned shared, void** args) "
        f"{{ return emulate::launch({entry}, grid, block, shared, args); }}\n"
    )
    fresh = library.with_suffix(f".{id(text)}.tmp")
    command = [compiler, *flags, f"-I{CUDA}", "-", "-o", str(fresh)]
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if run.returncode:
        raise CompileError(f"{source}.cu does not compile for the emulator:\n{run.stderr[:4000]}")
    fresh.rename(library)
    return library
