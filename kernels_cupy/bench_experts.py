"""`bench kernels`: a sparse layer's feed-forward."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels_cupy.bench_rows import Bench, agree, tried
from kernels_cupy.expert_mlp import expert_mlp
from kernels_cupy.route import route
from kernels_cupy.timing import graph_time


def moe(b: Bench) -> Iterator[dict[str, Any]]:
    """A sparse layer's feed-forward; the floor is two kernels over the bytes of the experts hit."""
    for experts, k, width, inner in ((128, 8, 2048, 768), (8, 2, 4096, 14336)):
        gate_up = b.random(experts, 2 * inner, width) * width**-0.5
        down = b.random(experts, width, inner) * inner**-0.5
        for tokens in (1, 16, 128, 2048):
            x = b.random(tokens, width)
            picks = [route(b.random(tokens, experts), k, True) for _ in range(8)]
            hit = sum(len(p[0].unique()) for p in picks) / len(picks)
            flops, size = tokens * k * 6 * width * inner, hit * 6 * width * inner
            floor = b.ceilings.floor(size) + 1e6 * b.ceilings.ramp
            us = graph_time([partial(expert_mlp, x, e, w, gate_up, down) for e, w in picks])
            grouped = [partial(_grouped, x, e, w, gate_up, down) for e, w in picks]
            peers = tried(
                {
                    "torch grouped_mm": partial(graph_time, grouped, 4.0, 5),
                    "Triton, pairs sorted beforehand": partial(_triton, x, picks, gate_up, down),
                }
            )
            yield b.row(
                "experts", f"{experts} x {inner}, top {k}, {tokens} tokens", us,
                max(floor, b.ceilings.arithmetic(flops)), peers, bytes=size, flops=flops, hit=hit,
            )  # fmt: skip
        torch.cuda.empty_cache()


def _triton(x: Tensor, picks: list[tuple[Tensor, Tensor]], gate_up: Tensor, down: Tensor) -> float:
    from kernels_cupy import peers_triton as peer

    calls = [
        partial(peer.expert_mlp, x, peer.sorted_pairs(e, len(down)), w, gate_up, down)
        for e, w in picks
    ]
    agree("Triton", calls[0](), expert_mlp(x, *picks[0], gate_up, down))
    return graph_time(calls, repeats=5)


def _grouped(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The same through torch's grouped product, as transformers composes it."""
    k, count = experts.shape[1], gate_up.shape[0]
    chosen, order = experts.flatten().sort()
    ends = torch.searchsorted(chosen, torch.arange(count, device=x.device), right=True).int()
    gate, up = torch._grouped_mm(x[order // k], gate_up.transpose(1, 2), offs=ends).chunk(2, -1)
    y = torch._grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)
    y = (y * weights.flatten()[order, None]).to(x.dtype)
    out = torch.empty_like(y).index_copy_(0, order, y)
    return out.view(len(x), k, -1).sum(1)
