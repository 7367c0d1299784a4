"""Attention of many new tokens over paged entries: prefill and its chunks, causal among the new."""

import math

import torch
from torch import Tensor

from kernels_cupy.launch import (
    Instance,
    LaunchPlan,
    elem,
    f32,
    has_wgmma,
    i32,
    kernel,
    multiprocessors,
    shared_limit,
)
from kernels_cupy.paged_attention import DECLARED, page_log2, parts
from kernels_cupy.plan import AttentionPlan

WARPS = 4
WGMMA_DIMS = (64, 128)  # of Hopper's variant, whose tiles also have 128 query rows


def settings(head_dim: int, limit: int) -> dict[str, int]:
    """Query rows a warp, entries a step and blocks a multiprocessor."""
    s = {"HEAD_DIM": head_dim, "M_TILES": 2, "N": 64, "RESIDENT": 2}
    if head_dim == 256:
        s |= {"M_TILES": 1, "RESIDENT": 1}
    if shared_bytes(s) > limit:  # consumer cards
        s |= {"N": 32, "RESIDENT": 1, "M_TILES": 1 if head_dim > 96 else 2}
    return s


def block_rows(head_dim: int, limit: int) -> int:
    """Query rows (tokens x heads of a group) of a tile."""
    return 16 * WARPS * settings(head_dim, limit)["M_TILES"]


def shared_bytes(s: dict[str, int]) -> int:
    return (16 * WARPS * s["M_TILES"] + 4 * s["N"]) * (s["HEAD_DIM"] + 8) * 2


INSTANCES = tuple(
    Instance("extend_attention", "extend_attention", {"ELEM": e, **settings(d, limit)}, (arch,))
    for e, d in DECLARED
    for limit, arch in ((163 << 10, "sm_80"), (227 << 10, "sm_90a"), (99 << 10, "sm_120"))
)
INSTANCES += tuple(
    Instance(
        "extend_attention_wgmma",
        "extend_attention_wgmma",
        {"ELEM": e, "HEAD_DIM": d, "PARTS": as_parts},
        ("sm_90a",),
    )
    for e, d in ((0, 64), (0, 128), (1, 128))
    for as_parts in (0, 1)
)


def extend_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    plan: AttentionPlan,
    page_size: int,
    scale: float,
    window: int | None,
) -> None:
    """Write `out` [T, Q, D] for the tokens that `plan` has tiles for; shapes as
    `paged_attention`.
    """
    if plan.tiles is None:
        return
    _, heads, dim = q.shape
    kv_heads = k.shape[1]
    if dim in WGMMA_DIMS and has_wgmma(q.device):
        _by_warpgroup(q, k, v, out, plan, page_size, scale, window, plan.tiles, 0)
        return
    s = settings(dim, shared_limit(q.device))
    kernel("extend_attention", "extend_attention", q.device, ELEM=elem(q.dtype), **s)(
        LaunchPlan((plan.tiles.shape[0], kv_heads, 1), 32 * WARPS, shared_bytes(s)),
        q, k, v, out, plan.tables, plan.tiles, i32(plan.tables.shape[1]), i32(page_size),
        i32(page_log2(page_size)), i32(kv_heads), i32(heads // kv_heads),
        f32(scale * math.log2(math.e)), i32(window or 0), plan.ancestors,
    )  # fmt: skip


def shared_prefix_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, page_size: int, scale: float
) -> None:
    """Parts of the tokens that read shared prefixes together."""
    if plan.shared_tiles is not None:
        _by_warpgroup(q, k, v, None, plan, page_size, scale, None, plan.shared_tiles, 1)


def serves_shared_prefixes(dim: int, device: torch.device) -> bool:
    """Else items of paged_attention serve them."""
    return dim in WGMMA_DIMS and has_wgmma(device)


def _by_warpgroup(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    plan: AttentionPlan,
    page_size: int,
    scale: float,
    window: int | None,
    tiles: Tensor,
    as_parts: int,
) -> None:
    _, heads, dim = q.shape
    kv_heads = k.shape[1]
    part, lse = parts(q, plan)
    defines = {"ELEM": elem(q.dtype), "HEAD_DIM": dim, "PARTS": as_parts}
    name, work = "extend_attention_wgmma", tiles.shape[0] * kv_heads
    kernel(name, name, q.device, **defines)(
        LaunchPlan((min(work, multiprocessors(q.device)), 1, 1), 384, 1024 + 6 * 128 * dim * 2),
        q, k, v, out, plan.tables, tiles, i32(work), i32(plan.tables.shape[1]), i32(page_size),
        i32(page_log2(page_size)), i32(kv_heads), i32(heads // kv_heads),
        f32(scale * math.log2(math.e)), i32(window or 0), plan.shared_list, part, lse,
        plan.ancestors,
    )  # fmt: skip
