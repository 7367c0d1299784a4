"""Triton peers of `bench kernels`, plain but not careless: split paged decode and a fused sparse
feed-forward. For measurements only; importing needs Triton.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _decode_split(
    q, k, v, table, part, lse, entries, width, splits, scale_log2,
    PAGE: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    each = tl.cdiv(tl.cdiv(entries, N), splits) * N
    first, stop = split * each, tl.minimum(entries, (split + 1) * each)
    g, d, n = tl.arange(0, 16), tl.arange(0, DIM), tl.arange(0, N)
    q_head = (row * HEADS + head) * GROUP + g
    query = tl.load(q + q_head[:, None] * DIM + d, mask=g[:, None] < GROUP, other=0.0)
    top = tl.full([16], float("-inf"), tl.float32)
    total, out = tl.zeros([16], tl.float32), tl.zeros([16, DIM], tl.float32)
    for start in range(first, stop, N):
        e = start + n
        page = tl.load(table + row * width + e // PAGE, mask=e < stop, other=0)
        at = ((page * PAGE + e % PAGE) * HEADS + head)[:, None] * DIM + d
        keys = tl.load(k + at, mask=e[:, None] < stop, other=0.0)
        s = tl.where(e[None, :] < stop, tl.dot(query, keys.T) * scale_log2, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        p, fade = tl.exp2(s - higher[:, None]), tl.exp2(top - higher)
        total = total * fade + tl.sum(p, 1)
        values = tl.load(v + at, mask=e[:, None] < stop, other=0.0)
        out = out * fade[:, None] + tl.dot(p.to(values.dtype), values)
        top = higher
    to = q_head * splits + split
    tl.store(part + to[:, None] * DIM + d, out / total[:, None], mask=g[:, None] < GROUP)
    tl.store(lse + to, top + tl.log2(total), mask=g < GROUP)


@triton.jit
def _decode_merge(part, lse, out, splits, DIM: tl.constexpr, S: tl.constexpr):
    head, s, d = tl.program_id(0), tl.arange(0, S), tl.arange(0, DIM)
    weight = tl.load(lse + head * splits + s, mask=s < splits, other=float("-inf"))
    share = tl.exp2(weight - tl.max(weight, 0))
    rows = tl.load(
        part + (head * splits + s)[:, None] * DIM + d, mask=s[:, None] < splits, other=0.0
    )
    mean = tl.sum(rows * share[:, None], 0) / tl.sum(share, 0)
    tl.store(out + head * DIM + d, mean.to(out.dtype.element_ty))


def decode_calls(
    q: list[Tensor], pools: list[list[Tensor]], tables: Tensor, entries: int, page: int, sms: int
) -> tuple[list[Callable[[], object]], Tensor]:
    """A call for each of q [B, Q, D] with its keys and values [slots, H, D], rows of `entries`
    through `tables` [B, W]; and where the last one's result lies.
    """
    rows, heads, dim = q[0].shape
    kv_heads = pools[0][0].shape[1]
    pages, out = tables.to(q[0].device, torch.int32), torch.empty_like(q[0])
    tiles = -(-entries // 64)
    each = -(-tiles // max(1, min(tiles // 2, 4 * sms // (rows * kv_heads))))
    splits = -(-tiles // each)  # none is empty
    part = torch.empty(rows * heads * splits, dim, device=out.device)
    lse = torch.empty(rows * heads * splits, device=out.device)
    scale = dim**-0.5 * 1.4426950408889634

    def call(x: Tensor, k: Tensor, v: Tensor) -> None:
        _decode_split[(rows, kv_heads, splits)](
            x, k, v, pages, part, lse, entries, pages.shape[1], splits, scale, PAGE=page,
            HEADS=kv_heads, GROUP=heads // kv_heads, DIM=dim, N=64, num_warps=4, num_stages=3,
        )  # fmt: skip
        _decode_merge[(rows * heads,)](
            part, lse, out, splits, DIM=dim, S=triton.next_power_of_2(splits), num_warps=4
        )

    return [partial(call, x, kv[0], kv[1]) for x, kv in zip(q, pools, strict=True)], out


@triton.jit
def _expert_product(
    x, w, y, order, ends, starts, inner, outputs, k,
    GATED: tl.constexpr, EXPERTS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    tile, e = tl.program_id(0), tl.arange(0, EXPERTS)
    tiles_until = tl.load(ends + e)
    expert = tl.sum((tiles_until <= tile).to(tl.int32), 0)
    if expert < EXPERTS:
        before = tl.sum(tl.where(e == expert - 1, tiles_until, 0), 0)
        row = tl.load(starts + expert) + (tile - before) * M + tl.arange(0, M)
        live = row < tl.load(starts + expert + 1)
        source = tl.load(order + row, mask=live, other=0) // k if GATED else row
        n, c = tl.program_id(1) * N + tl.arange(0, N), tl.arange(0, K)
        at_x = x + source[:, None].to(tl.int64) * inner + c
        weights = w + expert.to(tl.int64) * outputs * inner * (2 if GATED else 1)
        at_w = weights + n[None, :] * inner + c[:, None]
        sums, ups = tl.zeros([M, N], tl.float32), tl.zeros([M, N], tl.float32)
        for _ in range(0, inner, K):
            a = tl.load(at_x, mask=live[:, None], other=0.0)
            sums = tl.dot(a, tl.load(at_w), sums)
            if GATED:
                ups = tl.dot(a, tl.load(at_w + outputs * inner), ups)
            at_x += K
            at_w += K
        if GATED:
            sums = sums * tl.sigmoid(sums) * ups
        at_y = y + row[:, None].to(tl.int64) * outputs + n
        tl.store(at_y, sums.to(y.dtype.element_ty), mask=live[:, None])


@triton.jit
def _expert_sum(y, place, weights, out, width, CHOICES: tl.constexpr, N: tl.constexpr):
    token, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros([N], tl.float32)
    for j in range(CHOICES):
        at = tl.load(place + token * CHOICES + j).to(tl.int64) * width + n
        total += tl.load(weights + token * CHOICES + j) * tl.load(y + at).to(tl.float32)
    tl.store(out + token * width + n, total.to(out.dtype.element_ty))


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """Pairs sorted by expert, made before the clock starts: the peer's routing costs nothing."""

    order: Tensor  # int32 [n]: pair of a sorted row
    place: Tensor  # int32 [n]: its inverse
    starts: Tensor  # int32 [E + 1]: first row of an expert
    ends: Tensor  # int32 [E]: tiles up to each expert's last
    tiles: int
    rows: int  # of a tile


def sorted_pairs(experts: Tensor, count: int) -> Sorted:
    """Of choices [T, k]."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=count)
    rows = 16 if flat.numel() <= 32 * count else 128
    ends = ((counts + rows - 1) // rows).cumsum(0)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    made = [t.int() for t in (order, order.argsort(), starts, ends)]
    return Sorted(made[0], made[1], made[2], made[3], int(ends[-1]), rows)


def expert_mlp(x: Tensor, s: Sorted, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """As `Ops.expert_mlp`, of pairs that are sorted already."""
    tokens, width = x.shape
    inner, k, few = down.shape[2], weights.shape[1], s.rows == 16
    hidden = torch.empty(tokens * k, inner, dtype=x.dtype, device=x.device)
    y = torch.empty(tokens * k, width, dtype=x.dtype, device=x.device)
    out = torch.empty_like(x)
    for source, w, to, gated in ((x, gate_up, hidden, True), (hidden, down, y, False)):
        n = 64 if few or gated else 128
        _expert_product[(s.tiles, to.shape[1] // n)](
            source, w, to, s.order, s.ends, s.starts, source.shape[1], to.shape[1], k, GATED=gated,
            EXPERTS=down.shape[0], M=s.rows, N=n, K=128 if few else 64, num_warps=4 if few else 8,
            num_stages=3 if few else 4,
        )  # fmt: skip
    _expert_sum[(tokens, width // 1024)](
        y, s.place, weights, out, width, CHOICES=k, N=1024, num_warps=4
    )
    return out
