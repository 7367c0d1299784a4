"""RoPE of q and k, and the store of k and v, in one launch."""

import torch
from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.launch import Instance, LaunchPlan, elem, f32, i32, i64, kernel
from workbench.ops.contract import HeadNorm

HEAD_DIMS = (64, 96, 128, 256)
INSTANCES = tuple(
    Instance("store_kv", "rope_store", {"ELEM": e, "HEAD_DIM": d, "QK_NORM": norm})
    for e, d in ((0, 64), (0, 96), (0, 128), (0, 256), (1, 128))
    for norm in (0, 1)
)
# the angles are float64 and sincos keeps a table in local memory: once a step, not hot
TABLE = tuple(Instance("store_kv", "rope_table", {"HEAD_DIM": d}, hot=False) for d in HEAD_DIMS)


def rope_table(positions: Tensor, inv_freq: Tensor, scale: float, dim: int) -> Tensor:
    """cos and sin of `positions` [n] int64 as [n, D / 2, 2] float32, times `scale`."""
    need(inv_freq.shape == (dim // 2,), f"inv_freq [{dim // 2}] float32", inv_freq)
    table = torch.empty((len(positions), dim // 2, 2), dtype=torch.float32, device=positions.device)
    if len(positions):
        kernel("store_kv", "rope_table", positions.device, HEAD_DIM=dim)(
            LaunchPlan.cover(len(positions) * dim // 2, 128),
            positions, inv_freq, f32(scale), table, i32(len(positions)),
        )  # fmt: skip
    return table


def rope_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    norm: HeadNorm | None = None,
) -> Tensor:
    """q [T, Q, D] turned; k and v [T, H, D] written to `slots` [T] of `keys` and `values` [slots,
    H, D]; nothing of a token whose slot is negative.

    Tokens of q, k and v may be strided, as in a fused projection.
    """
    tokens, heads, dim = q.shape
    need(dim in HEAD_DIMS, f"head_dim of {HEAD_DIMS} (others: ops='cpu')", dim)
    for x in (q, k, v):
        need(x.stride(2) == 1 and x.stride(1) == dim and x.stride(0) % 2 == 0, "packed heads", x)
    need(keys.is_contiguous() and values.is_contiguous(), "packed pools", keys, values)
    out = torch.empty((tokens, heads, dim), dtype=q.dtype, device=q.device)
    work = tokens * (heads + 2 * k.shape[1])
    if work:
        defines = {"ELEM": elem(q.dtype), "HEAD_DIM": dim, "QK_NORM": int(norm is not None)}
        kernel("store_kv", "rope_store", q.device, **defines)(
            LaunchPlan.warps(work, 1 if work < 1024 else 4),
            q, k, v, i64(q.stride(0)), i64(k.stride(0)), i64(v.stride(0)), table, slots, out,
            keys, values,
            norm and norm.q, norm and norm.k, f32(norm.eps if norm else 0.0),
            i32(tokens), i32(heads), i32(k.shape[1]),
        )  # fmt: skip
    return out
