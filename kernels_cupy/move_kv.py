"""Moves of KV entries between slots, keys turned by a shift of positions, all layers in one
launch.
"""

from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.launch import Instance, LaunchPlan, elem, i32, i64, kernel

INSTANCES = tuple(
    Instance("move_kv", "move_kv", {"ELEM": e, "HEAD_DIM": d, "KV_HEADS": h})
    for e, d, h in ((0, 64, 3), (0, 96, 4), (0, 128, 8), (0, 256, 4), (1, 128, 8))
)


def move_kv(
    k_from: Tensor,
    v_from: Tensor,
    k_to: Tensor,
    v_to: Tensor,
    src: Tensor,
    dst: Tensor,
    table: Tensor | None,
) -> None:
    """Copy entries `src` [n] to `dst` [n] of pools [L, slots, H, D]; `table` [n, D / 2, 2] turns
    the keys.

    No entry of `dst` may be one of `src` within the same pool.
    """
    layers, slots, heads, dim = k_from.shape
    for x in (k_from, v_from, k_to, v_to):
        need(
            x.is_contiguous() and x.shape[2:] == (heads, dim), "packed pools of one kind", x, k_from
        )
    need(dim % 16 == 0, "move_kv: head_dim of whole pairs of 16-byte chunks", dim)
    entries = len(src)
    if entries == 0:
        return
    width = heads * dim
    kernel(
        "move_kv", "move_kv", k_from.device, ELEM=elem(k_from.dtype), HEAD_DIM=dim, KV_HEADS=heads
    )(
        LaunchPlan((-(-entries // 4), layers, 1), 128),
        k_from, v_from, k_to, v_to, src, dst, table, i32(entries), i64(slots * width),
        i64(k_to.shape[1] * width),
    )  # fmt: skip
