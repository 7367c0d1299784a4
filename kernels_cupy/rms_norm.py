"""RMSNorm and RMSNorm of a sum."""

import torch
from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.launch import Instance, LaunchPlan, elem, f32, i32, i64, kernel

NARROW = 512  # up to this width a warp takes a row
INSTANCES = tuple(
    Instance("rms_norm", "rms_norm", {"ELEM": e, "ADD": add, "CHUNKS": chunks})
    for e, add, chunks in ((0, 0, 1), (0, 1, 1), (0, 1, 2), (1, 1, 1))
) + tuple(
    Instance("rms_norm", "rms_norm_narrow", {"ELEM": 0, "ADD": 0, "CHUNKS": chunks})
    for chunks in (1, 2)
)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[..., N] over the last axis. Of [T, h, N] the first axis may be strided (heads of a fused
    qkv).
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    inner, outer = _rows(x)
    _launch(x, None, weight, y, None, eps, inner, outer)
    return y


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual), the sum rounded first."""
    need(x.is_contiguous() and residual.is_contiguous(), "add_rms_norm: packed rows", x, residual)
    need(x.shape == residual.shape, "add_rms_norm: equal shapes", x, residual)
    y, total = torch.empty_like(x), torch.empty_like(x)
    _launch(x, residual, weight, y, total, eps, 1, x.shape[-1])
    return y, total


def _rows(x: Tensor) -> tuple[int, int]:
    """Rows that follow each other, and the stride between such runs, in elements."""
    n = x.shape[-1]
    if x.is_contiguous():
        return 1, n
    packed = x.dim() == 3 and x.stride(2) == 1 and x.stride(1) == n
    need(packed or (x.dim() == 2 and x.stride(1) == 1), "rms_norm: rows must be packed", x)
    return (x.shape[1], x.stride(0)) if packed else (1, x.stride(0))


def _launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    y: Tensor,
    total: Tensor | None,
    eps: float,
    inner: int,
    outer: int,
) -> None:
    n = x.shape[-1]
    rows = x.numel() // n
    need(n % 8 == 0 and outer % 8 == 0, "rms_norm: a width of whole 16-byte chunks", x)
    need(
        weight.shape == (n,) and weight.dtype == x.dtype, "rms_norm: weight of x's type", weight, x
    )
    if rows == 0:
        return
    narrow = n <= NARROW
    threads = 32 if narrow else min(1024, -(-n // 256) * 32)
    chunks = -(-n // (8 * threads))
    need(chunks <= 4, "rms_norm: at most 32768 elements a row", x)
    plan = LaunchPlan.warps(rows) if narrow else LaunchPlan((rows, 1, 1), threads)
    entry = "rms_norm_narrow" if narrow else "rms_norm"
    defines = {"ELEM": elem(x.dtype), "ADD": int(residual is not None), "CHUNKS": chunks}
    kernel("rms_norm", entry, x.device, **defines)(
        plan, x, residual, weight, y, total, i32(n), f32(eps), i32(inner), i64(outer), i32(rows)
    )
