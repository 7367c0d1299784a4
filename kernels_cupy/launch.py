"""Launching: typed arguments, a plan of blocks, and the table of what each op is compiled for."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kernels_cupy import bridge
from kernels_cupy.compile import compile_cubin
from kernels_cupy.errors import KernelError, need

ARCHS = ("sm_80", "sm_90a", "sm_120")
ELEM = {torch.bfloat16: 0, torch.float16: 1}  # -DELEM of dtype.cuh
EMULATE_WGMMA = False  # set by tests: which variant a CPU device runs
i32, i64, f32 = np.int32, np.int64, np.float32


@dataclass(frozen=True, slots=True)
class Instance:
    """One way in which a source is compiled. CI builds each for `archs` without a GPU."""

    source: str
    entry: str
    defines: Mapping[str, int] = field(default_factory=dict)
    archs: Sequence[str] = ARCHS
    hot: bool = True  # a spill fails the tests


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Blocks, threads a block and bytes of dynamic shared memory."""

    grid: tuple[int, int, int]
    threads: int
    shared: int = 0

    @classmethod
    def cover(cls, items: int, threads: int, each: int = 1, shared: int = 0) -> "LaunchPlan":
        """Enough blocks of `threads` for `items`, a thread taking `each` of them."""
        return cls((max(1, -(-items // (threads * each))), 1, 1), threads, shared)

    @classmethod
    def warps(cls, items: int, each_block: int = 4) -> "LaunchPlan":
        """A warp an item."""
        return cls((max(1, -(-items // each_block)), 1, 1), 32 * each_block)


class Kernel(Protocol):
    """A loaded entry. Pointers are tensors (or None), scalars are i32, i64 or f32."""

    def __call__(self, plan: LaunchPlan, *args: Any) -> None: ...


def elem(dtype: torch.dtype) -> int:
    need(dtype in ELEM, "the CUDA kernels serve bfloat16 and float16 (fp32: use ops='cpu')", dtype)
    return ELEM[dtype]


def kernel(source: str, entry: str, device: torch.device, **defines: int) -> Kernel:
    """The entry, compiled for `device` and loaded; a CPU device gives the emulated build."""
    return _load(source, entry, tuple(sorted(defines.items())), device.type, device.index or 0)


def multiprocessors(device: torch.device) -> int:
    if device.type == "cpu":
        return 3  # of the emulator: few, odd, so that work is split and straddles
    return int(_properties(device.index or 0).multi_processor_count)


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block can ask for."""
    if device.type == "cpu":
        return 227 << 10
    return int(_properties(device.index or 0).shared_memory_per_block_optin)


def has_wgmma(device: torch.device) -> bool:
    """Hopper's warpgroup products; the emulator has them too, on request."""
    if device.type == "cpu":
        return EMULATE_WGMMA
    return bool(_properties(device.index or 0).major == 9)


@cache
def _properties(index: int) -> Any:
    return torch.cuda.get_device_properties(index)


@cache
def _load(
    source: str, entry: str, defines: tuple[tuple[str, int], ...], kind: str, index: int
) -> Kernel:
    if kind == "cpu":
        from kernels_cupy.emulate import emulated

        return emulated(source, entry, dict(defines))
    return CudaKernel(source, entry, dict(defines), index)


class CudaKernel:
    """An entry of a cubin, loaded by CuPy and launched on torch's current stream."""

    def __init__(self, source: str, entry: str, defines: Mapping[str, int], index: int) -> None:
        import cupy

        p = _properties(index)
        arch = f"sm_{p.major}{p.minor}" + ("a" if p.major == 9 else "")
        self.name = entry
        self.index = index
        self.compiled = compile_cubin(source, defines, arch)
        self.function = cupy.RawModule(path=str(self.compiled.path)).get_function(entry)
        self.shared = 48 << 10

    def __call__(self, plan: LaunchPlan, *args: Any) -> None:
        if plan.shared > self.shared:
            self._opt_in(plan.shared)
        bridge.follow(self.index)
        if _SHOW_PLAN:
            sys.stderr.write(f"{self.name} {plan}\n")
        packed = tuple(_argument(a) for a in args)
        self.function(plan.grid, (plan.threads, 1, 1), packed, shared_mem=plan.shared)

    def _opt_in(self, shared: int) -> None:
        limit = _properties(self.index).shared_memory_per_block_optin
        if shared > limit:
            raise KernelError(
                f"{self.name}: {shared} bytes of shared memory a block wanted, "
                f"{_properties(self.index).name} has {limit}; use fewer stages or a smaller tile"
            )
        self.function.max_dynamic_shared_size_bytes = shared
        self.shared = shared


_SHOW_PLAN = "plan" in os.environ.get("WORKBENCH_SHOW", "").split(",")


def _argument(a: Any) -> Any:
    if isinstance(a, Tensor):
        return a.data_ptr()
    if a is None:
        return 0
    if isinstance(a, np.generic):
        return a
    raise TypeError(f"a kernel argument must be a tensor, None, i32, i64 or f32; got {a!r}")
