"""A sparse layer's feed-forward: pairs sorted by expert, two grouped products, an ordered sum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.launch import Instance, LaunchPlan, elem, has_wgmma, i32, kernel

STAGES = {2: 3, 4: 2}  # by groups of 8 tokens
FEW = 32  # tokens an expert up to which weights are streamed past narrow tiles
MANY = 256  # tokens an expert from which on tiles are twice as wide
INSTANCES = (
    *(
        Instance("expert_mlp", "expert_gemm", {"ELEM": e, "GATED": g, "COLUMNS": c, "STAGES": s})
        for e, g in ((0, 0), (0, 1), (1, 1))
        for c, s in STAGES.items()
    ),
    *(
        Instance(
            "expert_mlp_wgmma",
            "expert_gemm_wgmma",
            {"ELEM": e, "GATED": g, "HALVES": h},
            ("sm_90a",),
        )
        for e, g in ((0, 0), (0, 1), (1, 1))
        for h in (1, 2)
    ),
    *(Instance("expert_mlp", "combine", {"ELEM": e}) for e in (0, 1)),
    Instance("expert_mlp", "group_pairs"),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Pairs sorted by expert: `order` [n] pair of a row, `place` [n] its inverse, tiles [<= bound,
    4].
    """

    order: Tensor
    place: Tensor
    tiles: Tensor
    count: Tensor
    bound: int


def expert_mlp(
    x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """x [T, M] through experts [T, k] with weights [T, k]; gate_up [E, 2F, M], down [E, M, F]."""
    tokens, width = x.shape
    inner, k = down.shape[2], experts.shape[1]
    need(gate_up.shape == (down.shape[0], 2 * inner, width), "gate_up [E, 2F, M]", gate_up, down)
    need(width % 64 == 0 and inner % 64 == 0, "M and F of whole 64s", width, inner)
    need(down.shape[0] <= 1024 and k <= 32, "at most 1024 experts, 32 a token", down.shape[0], k)
    experts, weights = experts.contiguous(), weights.contiguous()
    for t in (x, gate_up, down):
        need(t.is_contiguous(), "expert_mlp: packed tensors", t)
    out = torch.empty_like(x)
    if tokens == 0:
        return out
    wide = has_wgmma(x.device) and tokens * k > FEW * down.shape[0]
    wide = wide and width % 128 == 0 and inner % 64 == 0
    if wide:
        many = tokens * k >= MANY * down.shape[0] and width % 256 == 0 and inner % 128 == 0
        columns = 2 if many else 1  # halves of a tile's weight rows
    else:
        columns = 2 if tokens * k <= 16 * down.shape[0] else 4
    groups = _group(experts, down.shape[0], 128 if wide else 8 * columns)
    hidden = torch.empty((tokens * k, inner), dtype=x.dtype, device=x.device)
    y = torch.empty((tokens * k, width), dtype=x.dtype, device=x.device)
    gemm = _wide if wide else _narrow
    gemm(x, gate_up, hidden, groups, k, 1, columns)
    gemm(hidden, down, y, groups, k, 0, columns)
    kernel("expert_mlp", "combine", x.device, ELEM=elem(x.dtype))(
        LaunchPlan((tokens, 1, 1), 256), y, groups.place, weights, out, i32(k), i32(width)
    )
    return out


def _group(experts: Tensor, count: int, tile_tokens: int) -> _Groups:
    pairs, device = experts.numel(), experts.device
    bound = pairs // tile_tokens + min(count, pairs)  # at most one part-filled tile an expert
    ints = torch.empty(2 * pairs + 4 * bound + 1, dtype=torch.int32, device=device)
    tiles, order, place, total = ints.split([4 * bound, pairs, pairs, 1])
    kernel("expert_mlp", "group_pairs", device)(
        LaunchPlan((1, 1, 1), 1024),
        experts, order, place, tiles, total, i32(pairs), i32(count), i32(tile_tokens),
    )  # fmt: skip
    return _Groups(order, place, tiles, total, bound)


def _narrow(
    x: Tensor, w: Tensor, y: Tensor, groups: _Groups, k: int, gated: int, columns: int
) -> None:
    outputs, stages = y.shape[1], STAGES[columns]
    shared = 128 + 4 * stages * (64 + 8 * columns) * 128
    defines = {"ELEM": elem(x.dtype), "GATED": gated, "COLUMNS": columns, "STAGES": stages}
    kernel("expert_mlp", "expert_gemm", x.device, **defines)(
        LaunchPlan((groups.bound, outputs // (32 if gated else 64), 1), 128, shared),
        x, w, y, groups.order, groups.tiles, groups.count, i32(x.shape[1]), i32(outputs), i32(k),
    )  # fmt: skip


def _wide(
    x: Tensor, w: Tensor, y: Tensor, groups: _Groups, k: int, gated: int, halves: int
) -> None:
    outputs = y.shape[1]
    blocks = (groups.bound * (outputs // (halves * (64 if gated else 128))), 1, 1)
    defines = {"ELEM": elem(x.dtype), "GATED": gated, "HALVES": halves}
    kernel("expert_mlp_wgmma", "expert_gemm_wgmma", x.device, **defines)(
        LaunchPlan(blocks, 256, 1024 + (halves + 2) * (1 + halves) * (16 << 10)),
        x, w, y, groups.order, groups.tiles, groups.count, i32(x.shape[1]), i32(outputs), i32(k),
    )  # fmt: skip
