"""Which implementation of the ops serves this machine, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.kv.layout import KVLayout

from .cpu import CpuOps
from .packing import Form

BACKENDS = ("auto", "cpu", "torch-cuda", "cuda")


@dataclass(frozen=True, slots=True)
class Choice:
    """`name` as shown: "cpu"; "torch-cuda" (these torch ops on a GPU); "cuda" (our kernels)."""

    name: str
    device: str
    reason: str
    make: Callable[[Form], Any]  # an `Ops`
    make_pool: Callable[[KVLayout, Tensor, torch.device], Any] | None = (
        None  # a `Pool`; None: torch's
    )


def choose(backend: str = "auto") -> Choice:
    """Raises ValueError for a backend that is unknown or that this machine cannot run."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "cpu":
        return Choice("cpu", "cpu", "ops: cpu (asked for)", CpuOps)
    if not torch.cuda.is_available():
        if backend != "auto":
            raise ValueError(f"backend {backend!r} wants a CUDA device, torch sees none; use 'cpu'")
        return Choice("cpu", "cpu", "ops: cpu (no CUDA device found)", CpuOps)
    if backend == "torch-cuda":
        return Choice("torch-cuda", "cuda", "ops: torch on the CUDA device (asked for)", CpuOps)
    from kernels_cupy import why_not

    if why := why_not():
        if backend == "cuda":
            raise ValueError(f"backend 'cuda' cannot run here: {why}; or use 'torch-cuda'")
        return Choice("torch-cuda", "cuda", f"ops: torch on the CUDA device ({why})", CpuOps)
    asked = "asked for" if backend == "cuda" else "a CUDA device and CuPy were found"
    return Choice("cuda", "cuda", f"ops: our CUDA kernels ({asked})", _cuda_ops, _cuda_pool)


def _cuda_ops(form: Form) -> Any:
    from kernels_cupy import CudaOps

    return CudaOps()


def _cuda_pool(layout: KVLayout, inv_freq: Tensor, device: torch.device) -> Any:
    from kernels_cupy import CudaPool

    return CudaPool(layout, inv_freq, device)
