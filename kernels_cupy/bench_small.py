"""`bench kernels`: compaction, sampling, and the small ops of a layer."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels_cupy import sample as sampling
from kernels_cupy.bench_rows import BF16, DIM, HEADS, KV_HEADS, Bench, tried
from kernels_cupy.move_kv import move_kv
from kernels_cupy.rms_norm import add_rms_norm
from kernels_cupy.route import route
from kernels_cupy.silu_mul import silu_mul
from kernels_cupy.store_kv import rope_store, rope_table
from kernels_cupy.timing import graph_time
from workbench.ops.contract import SamplerRow


def compact(b: Bench) -> Iterator[dict[str, Any]]:
    """Keep every tenth token of all layers, keys turned to their new places."""
    inv_freq = (10000.0 ** (-torch.arange(0, DIM, 2).float() / DIM)).to(b.device)
    for tokens, layers in ((65536, 32), (262144, 32), (1048576, 16)):  # 32 would not fit in 140 GB
        yield _compaction(b, tokens, layers, inv_freq)
        torch.cuda.empty_cache()


def _compaction(b: Bench, tokens: int, layers: int, inv_freq: Tensor) -> dict[str, Any]:
    keep = tokens // 10
    k, v = (b.random(layers, tokens, KV_HEADS, DIM) for _ in range(2))
    to = [torch.empty(layers, keep, KV_HEADS, DIM, dtype=BF16, device=b.device) for _ in range(2)]
    src = torch.randperm(tokens, device=b.device)[:keep].sort().values
    dst = torch.arange(keep, device=b.device)
    size = 4 * layers * keep * KV_HEADS * DIM * 2
    us = graph_time([partial(_compacted, k, v, to, src, dst, inv_freq)], repeats=5)
    peers = {"torch index_select, not turned": graph_time([partial(_gathered, k, v, to, src)])}
    floor, shape = 1e6 * size / b.ceilings.copy, f"{tokens} tokens, {layers} layers"
    return b.row("compaction", shape, us, floor, peers, bytes=size)


def _compacted(
    k: Tensor, v: Tensor, to: list[Tensor], src: Tensor, dst: Tensor, inv_freq: Tensor
) -> None:
    move_kv(k, v, to[0], to[1], src, dst, rope_table(dst - src, inv_freq, 1.0, DIM))


def _gathered(k: Tensor, v: Tensor, to: list[Tensor], src: Tensor) -> None:
    for layer in range(k.shape[0]):
        torch.index_select(k[layer], 0, src, out=to[0][layer])
        torch.index_select(v[layer], 0, src, out=to[1][layer])


def sample(b: Bench) -> Iterator[dict[str, Any]]:
    """A draw with log-probability, entropy and the top 5; the floor is one read of the logits."""
    vocabulary, kinds = 151936, {
        "greedy": SamplerRow(),
        "top-k 50, top-p 0.9": SamplerRow(temperature=1.0, top_k=50, top_p=0.9),
        "top-p 0.9": SamplerRow(temperature=1.0, top_p=0.9),
        "plain": SamplerRow(temperature=1.0),
        "min-p 0.1": SamplerRow(temperature=1.0, min_p=0.1),
    }  # fmt: skip
    for count in (64, 1):
        logits = [torch.randn(count, vocabulary, device=b.device) * 3 for _ in range(6)]
        # evenly over [0, 1): a plain row's cost depends on how far down its number falls
        order = torch.arange(count, dtype=torch.float64, device=b.device) * 0.618034
        numbers = [(order + (i + 0.5) / len(logits)) % 1 for i in range(len(logits))]
        for name, kind in kinds.items():
            rows = [kind] * count
            settings = sampling.settings(rows).to(b.device)
            flat = sampling.may_be_flat(rows)
            draw = partial(sampling.draw, top_n=5, flat=flat)
            us = graph_time(
                [partial(draw, x, settings, None, u) for x, u in zip(logits, numbers, strict=True)]
            )
            theirs = [partial(_torch_draw, x, name) for x in logits]
            peers = tried({"torch": partial(graph_time, theirs, 4.0, 5)})
            size = 4 * count * vocabulary
            shape = f"{count} x {vocabulary}, {name}"
            yield b.row("sampling", shape, us, b.ceilings.floor(size), peers, bytes=size)


def _torch_draw(logits: Tensor, kind: str) -> Tensor:
    if kind == "greedy":
        return logits.argmax(-1)
    if kind.startswith("top-k"):
        values, ids = logits.topk(50)
        p = values.softmax(-1)
        p = p * (p.cumsum(-1) - p < 0.9)
    elif kind == "top-p 0.9":
        values, ids = logits.sort(descending=True)
        p = values.softmax(-1)
        p = p * (p.cumsum(-1) - p < 0.9)
    else:
        p = logits.softmax(-1)
        if kind.startswith("min-p"):
            p = p * (p >= 0.1 * p.amax(-1, keepdim=True))
        ids = torch.arange(p.shape[1], device=p.device).expand_as(p)
    noise = torch.empty_like(p).exponential_()
    return ids.gather(1, (p / noise).argmax(-1, keepdim=True))


def small(b: Bench) -> Iterator[dict[str, Any]]:
    """Router, norms, RoPE with the store, SiLU: a kernel's ramp and little else at few tokens."""
    slots = torch.arange(4096, device=b.device)
    table = torch.randn(4096, DIM // 2, 2, device=b.device)
    pool = [b.random(4096, KV_HEADS, DIM) for _ in range(2)]
    for tokens in (1, 64, 2048):
        logits, weight = b.random(tokens, 128), b.random(4096)
        x, y, wide = b.random(tokens, 4096), b.random(tokens, 4096), b.random(tokens, 24576)
        q, k, v = b.random(tokens, HEADS + 2 * KV_HEADS, DIM).split([HEADS, KV_HEADS, KV_HEADS], 1)
        store = partial(rope_store, q, k, v, table[:tokens], slots[:tokens], pool[0], pool[1])
        ops: dict[str, tuple[Callable[[], object], Callable[[], object] | None, int]] = {
            "router 128, top 8": (
                partial(route, logits, 8, True),
                partial(_torch_route, logits),
                tokens * 352,
            ),
            "sum and RMSNorm 4096": (
                partial(add_rms_norm, x, y, weight, 1e-6),
                partial(_torch_norm, x, y, weight),
                tokens * 4096 * 8,
            ),
            "SiLU 12288": (partial(silu_mul, wide), partial(_torch_silu, wide), tokens * 12288 * 6),
            "RoPE and store": (store, None, tokens * 48 * DIM * 4),
        }
        for name, (ours, theirs, size) in ops.items():
            peers = {"torch": graph_time([theirs])} if theirs else {}
            us, floor = graph_time([ours]), b.ceilings.floor(size)
            shape = f"{name}, {tokens} tokens"
            yield b.row("small ops", shape, us, floor, peers, bytes=size, note="in the L2")


def _torch_route(logits: Tensor) -> object:
    return logits.float().softmax(-1).topk(8)


def _torch_norm(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x + y, (x.shape[-1],), weight, 1e-6)


def _torch_silu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up
