"""Attention of few query rows over many paged entries: decode, shared prefixes, attached
segments.
"""

import math

from torch import Tensor

from kernels_cupy import scratch
from kernels_cupy.launch import (
    Instance,
    LaunchPlan,
    elem,
    f32,
    i32,
    kernel,
    multiprocessors,
    shared_limit,
)
from kernels_cupy.plan import NARROW, AttentionPlan, ItemTables

HEAD_DIMS = (64, 96, 128, 256)
# compiled in CI: bfloat16 in every head_dim, float16, which differs in one instruction, in one
DECLARED = ((0, 64), (0, 96), (0, 128), (0, 256), (1, 128))
WARPS = 4
EARLY = 24  # results that a merge has under way in registers, where these suffice


def wide_rows(head_dim: int) -> int:
    """Query rows of an item of a shared prefix: what the registers hold."""
    return 32 if head_dim <= 64 else 16 if head_dim <= 128 else NARROW


def settings(head_dim: int, rows: int, limit: int) -> dict[str, int]:
    """Stages of the ring and blocks a multiprocessor, by what its shared memory holds."""
    stages, resident = (2, 1) if head_dim == 256 else (3, 2)
    if head_dim == 128 and rows <= NARROW:
        stages = 2  # 64 KB under way on an SM are enough; more only queue
    if rows > NARROW and head_dim > 64:
        resident = 1
    each = shared_bytes(head_dim, rows, stages) + 2048  # what the system and the tables take
    if resident * each > limit + 1024:
        stages = 2 if shared_bytes(head_dim, rows, 2) <= limit else 1
        each = shared_bytes(head_dim, rows, stages) + 2048
        resident = max(1, min(resident, (limit + 1024) // each))
    s = {"HEAD_DIM": head_dim, "ROWS": rows, "STAGES": stages, "RESIDENT": resident}
    return s | {"EARLY": EARLY} if head_dim == 128 and rows <= NARROW else s


def page_log2(page_size: int) -> int:
    """-1 where the page size is no power of two."""
    return page_size.bit_length() - 1 if page_size & (page_size - 1) == 0 else -1


def shared_bytes(head_dim: int, rows: int, stages: int) -> int:
    """The warps' rings of K and V, and the room in which their results are merged."""
    ring = WARPS * stages * 2 * 16 * (head_dim + 8) * 2
    return ring + WARPS * rows * ((32 if head_dim % 64 else 64) + 4) * 4


INSTANCES = tuple(
    Instance("paged_attention", "paged_attention", {"ELEM": e, **settings(d, rows, limit)}, (arch,))
    for arch, limit in (("sm_80", 163 << 10), ("sm_90a", 227 << 10), ("sm_120", 99 << 10))
    for e, d in DECLARED
    for rows in sorted({NARROW, wide_rows(d)})
)
INSTANCES += tuple(
    Instance("merge_parts", "merge_parts", {"ELEM": e, "HEAD_DIM": d}) for e, d in DECLARED
)


def paged_attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, plan: AttentionPlan, page_size: int, scale: float
) -> None:
    """Write `out` [T, Q, D], or parts, for the tokens that `plan` has items for.

    q [T, Q, D] packed; k and v [slots, H, D] of one layer, packed.
    """
    part, lse = parts(q, plan)
    for launch in plan.launches:
        _launch(launch, q, k, v, out, plan, page_size, scale, part, lse)


def parts(q: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    """Room for the results of tokens that several items serve: [n, Q, D] and their log2 weights [n,
    Q].
    """
    rows = plan.parts * q.shape[1]
    return (
        scratch.floats(q.device, "part", scratch.round_up(rows * q.shape[2])),
        scratch.floats(q.device, "part lse", scratch.round_up(rows)),
    )


def merge_parts(q: Tensor, out: Tensor, plan: AttentionPlan) -> None:
    """Write `out` for the tokens that have several parts."""
    if plan.merge_tokens is None:
        return
    _, heads, dim = q.shape
    count = plan.merge_tokens.shape[0]
    kernel("merge_parts", "merge_parts", q.device, ELEM=elem(q.dtype), HEAD_DIM=dim)(
        LaunchPlan.warps(count * heads),
        *parts(q, plan), plan.merge_tokens, plan.merge_starts, out, i32(count), i32(heads),
    )  # fmt: skip


def _launch(
    launch: ItemTables,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    plan: AttentionPlan,
    page_size: int,
    scale: float,
    part: Tensor,
    lse: Tensor,
) -> None:
    dim, kv_heads = q.shape[2], k.shape[1]
    s = settings(dim, launch.width, shared_limit(q.device))
    blocks = max(multiprocessors(q.device) * s["RESIDENT"] // kv_heads, 1) * kv_heads
    rows = 2 * blocks * launch.width
    items = launch.items.shape[0]
    kernel("paged_attention", "paged_attention", q.device, ELEM=elem(q.dtype), **s)(
        LaunchPlan((blocks, 1, 1), 32 * WARPS, shared_bytes(dim, launch.width, s["STAGES"])),
        q, k, v, out, plan.tables, launch.prefix, launch.items, launch.rows,
        plan.ancestors, plan.turns,
        scratch.floats(q.device, "partial", rows * dim),
        scratch.floats(q.device, "stats", rows * 2), part, lse,
        scratch.counters(q.device, "items", scratch.round_up(items * kv_heads)),
        i32(items), i32(plan.tables.shape[1]), i32(page_size), i32(page_log2(page_size)),
        i32(kv_heads), i32(q.shape[1] // kv_heads), f32(scale * math.log2(math.e)),
    )  # fmt: skip
