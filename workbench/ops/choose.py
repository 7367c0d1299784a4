"""Which implementation of the ops serves this machine, and why."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

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
    if importlib.util.find_spec("cupy") is None:
        if backend == "cuda":
            raise ValueError(
                "backend 'cuda' wants CuPy, which is not installed; "
                "`pip install reasoning-workbench[cuda13]` (or [cuda12]), or use 'torch-cuda'"
            )
        return Choice("torch-cuda", "cuda", "ops: torch on the CUDA device (no CuPy found)", CpuOps)
    asked = "asked for" if backend == "cuda" else "a CUDA device and CuPy were found"
    return Choice("cuda", "cuda", f"ops: cuda kernels ({asked})", _cuda_ops)


def _cuda_ops(form: Form) -> Any:
    from kernels_cupy import CudaOps

    return CudaOps()
