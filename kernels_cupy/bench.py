"""`bench kernels`: each op against the floor of its bytes or FLOPs and against peers, in one run.

`python -m kernels_cupy.bench [--part decode,shared,…]` prints a JSON row a measurement: `value` and
`floor` in microseconds, `floor_ratio` = floor / value, `ratio` = the peer's time / ours.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels_cupy import bridge
from kernels_cupy import sample as sampling
from kernels_cupy.attention import attention, plan_attention
from kernels_cupy.expert_mlp import expert_mlp
from kernels_cupy.move_kv import move_kv
from kernels_cupy.plan import shared_prefixes
from kernels_cupy.rms_norm import add_rms_norm
from kernels_cupy.route import route
from kernels_cupy.silu_mul import silu_mul
from kernels_cupy.store_kv import rope_store, rope_table
from kernels_cupy.timing import Ceilings, copies, graph_time, measure_ceilings
from workbench.forward import ForwardBatch
from workbench.ops.contract import SamplerRow

BF16 = torch.bfloat16
HEADS, KV_HEADS, DIM = 32, 8, 128
SDPA = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


@dataclass(slots=True)
class Bench:
    """What the sections share: the device, its ceilings, and how a row is written."""

    device: torch.device
    ceilings: Ceilings
    where: dict[str, str] = field(default_factory=dict)

    def row(
        self, metric: str, shape: str, us: float, floor: float, peers: dict[str, float], **more: Any
    ) -> dict[str, Any]:
        """One row; `peers` are their times in microseconds."""
        name, best = min(peers.items(), key=lambda p: p[1]) if peers else (None, None)
        return {
            "metric": metric, "shape": shape, "impl": "cuda", "value": round(us, 2), "unit": "us",
            "peer": name, "ratio": best and round(best / us, 3), "floor": round(floor, 2),
            "floor_ratio": round(floor / us, 3), **more,
            "peers": {k: round(v, 2) for k, v in peers.items()}, **self.where,
        }  # fmt: skip

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=BF16, device=self.device)


def _batch(lens: int, rows: int, new: int, tables: Tensor) -> ForwardBatch:
    none = torch.zeros(0, dtype=torch.int64)
    starts = torch.arange(rows + 1) * new
    return ForwardBatch(none, none, none, starts, torch.full((rows,), lens), tables)


def _plan(b: Bench, batch: ForwardBatch, page: int, share: bool) -> Any:
    shared = shared_prefixes(batch, page, 4 * KV_HEADS * DIM) if share else []
    return plan_attention(batch, None, HEADS, KV_HEADS, DIM, b.device, None, shared)


def _sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def _tried(peers: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Times of the peers that run here; one that refuses the shape is left out."""
    times = {}
    for name, time in peers.items():
        try:
            times[name] = time()
        except (RuntimeError, ImportError, AttributeError) as e:
            sys.stderr.write(f"{name}: {str(e).splitlines()[0][:120]}\n")
    return times


def decode(b: Bench) -> Iterator[dict[str, Any]]:
    """Paged decode, 32 query and 8 KV heads of 128, pages in random order."""
    shapes = ((1, 8192), (1, 131072), (8, 8192), (64, 4096), (64, 32768), (256, 2048))
    for rows, lens in shapes:
        size = rows * lens * KV_HEADS * DIM * 4
        q = [b.random(rows, HEADS, DIM) for _ in range(copies(size, b.device))]
        peers = _contiguous_decode(b, rows, lens, len(q))
        for page in (16, 64, 1) if rows == 64 and lens == 4096 else (16, 64):
            need = rows * lens // page
            pools = [[b.random(need * page, KV_HEADS, DIM) for _ in range(2)] for _ in q]
            tables = torch.randperm(need).view(rows, -1)
            plan, out = _plan(b, _batch(lens, rows, 1, tables), page, False), torch.empty_like(q[0])
            calls = [
                partial(attention, x, kv[0], kv[1], out, plan, page, DIM**-0.5, None)
                for x, kv in zip(q, pools, strict=True)
            ]
            us = graph_time(calls)
            floor = b.ceilings.floor(size)
            shape = f"{rows} x {lens}, page {page}"
            yield b.row("decode attention", shape, us, floor, peers, bytes=size)
            torch.cuda.empty_cache()


def _contiguous_decode(b: Bench, rows: int, lens: int, count: int) -> dict[str, float]:
    kv = [[b.random(rows, KV_HEADS, lens, DIM) for _ in range(2)] for _ in range(count)]
    q = b.random(rows, HEADS, 1, DIM)
    return _tried(
        {
            f"SDPA {name}, contiguous": partial(
                graph_time, [partial(_sdpa, backend, q, k, v, False) for k, v in kv], 4.0, 5
            )
            for name, backend in SDPA.items()
        }
    )


def shared(b: Bench) -> Iterator[dict[str, Any]]:
    """Branches of one tree: common pages read once for all of them; the peer is our own plain
    kernel.
    """
    for rows, prefix, own in ((64, 8192, 512), (16, 32768, 256), (256, 2048, 128), (8, 8192, 512)):
        page = 16
        need = (prefix + rows * own) // page
        order = torch.randperm(need)
        common, rest = order[: prefix // page], order[prefix // page :]
        tables = torch.cat([common.expand(rows, -1), rest.view(rows, -1)], 1)
        batch, size = _batch(prefix + own, rows, 1, tables), need * page * KV_HEADS * DIM * 4
        pools = [
            [b.random(need * page, KV_HEADS, DIM) for _ in range(2)]
            for _ in range(copies(size, b.device))
        ]
        q = b.random(rows, HEADS, DIM)
        out = torch.empty_like(q)

        plans = [_plan(b, batch, page, share) for share in (True, False)]
        us, plain = (
            graph_time(
                [partial(attention, q, k, v, out, p, page, DIM**-0.5, None) for k, v in pools]
            )
            for p in plans
        )
        floor = b.ceilings.floor(size) + 1e6 * b.ceilings.ramp
        yield b.row(
            "shared prefix", f"{rows} x ({prefix} + {own})", us, floor, {"own plain kernel": plain},
            bytes=size,
        )  # fmt: skip


def prefill(b: Bench) -> Iterator[dict[str, Any]]:
    """Causal prefill over pages, and a chunk of 4096 on 32k cached."""
    for rows, new, lens in ((1, 4096, 4096), (4, 4096, 4096), (1, 32768, 32768), (1, 4096, 36864)):
        page, need = 16, rows * lens // 16
        kv = [b.random(need * page, KV_HEADS, DIM) for _ in range(2)]
        plan = _plan(b, _batch(lens, rows, new, torch.randperm(need).view(rows, -1)), page, False)
        q = b.random(rows * new, HEADS, DIM)
        out = torch.empty_like(q)
        flops = 4 * DIM * HEADS * rows * new * (lens - new + new / 2)
        us = graph_time(
            [partial(attention, q, kv[0], kv[1], out, plan, page, DIM**-0.5, None)], repeats=5
        )
        peers: dict[str, float] = {}
        if new == lens:
            x = [b.random(rows, h, lens, DIM) for h in (HEADS, KV_HEADS, KV_HEADS)]
            calls = {
                f"SDPA {name}, contiguous": partial(_sdpa, backend, x[0], x[1], x[2], True)
                for name, backend in SDPA.items()
            }
            peers = _tried({name: partial(graph_time, [c], 4.0, 5) for name, c in calls.items()})
        yield b.row(
            "prefill attention", f"{rows} x {new} new of {lens}, page {page}", us,
            b.ceilings.arithmetic(flops), peers, flops=flops, tflops=round(flops / us / 1e6, 1),
        )  # fmt: skip


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
            peers = _tried({"torch grouped_mm": partial(graph_time, grouped, 4.0, 5)})
            yield b.row(
                "experts", f"{experts} x {inner}, top {k}, {tokens} tokens", us,
                max(floor, b.ceilings.arithmetic(flops)), peers, bytes=size, flops=flops, hit=hit,
            )  # fmt: skip
        torch.cuda.empty_cache()


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
        uniforms = torch.rand(count, dtype=torch.float64, device=b.device)
        for name, kind in kinds.items():
            rows = [kind] * count
            settings = sampling.settings(rows).to(b.device)
            flat = sampling.may_be_flat(rows)
            draw = partial(sampling.draw, top_n=5, flat=flat)
            us = graph_time([partial(draw, x, settings, None, uniforms) for x in logits])
            theirs = [partial(_torch_draw, x, name) for x in logits]
            peers = _tried({"torch": partial(graph_time, theirs, 4.0, 5)})
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


SECTIONS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "decode": decode, "shared": shared, "prefill": prefill, "moe": moe, "compact": compact,
    "sample": sample, "small": small,
}  # fmt: skip


def commit() -> str:
    """Of the checkout; WORKBENCH_COMMIT names it where git is not at hand."""
    if named := os.environ.get("WORKBENCH_COMMIT"):
        return named
    run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def facts(device: torch.device) -> dict[str, str]:
    """Where and when: the fields that every row bears."""
    return {
        "machine": os.uname().machine, "device": torch.cuda.get_device_name(device),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the sections in `args.part` (all without one), ceilings first."""
    sections = args.part.split(",") if args.part else list(SECTIONS)
    if unknown := [s for s in sections if s not in SECTIONS]:
        raise ValueError(f"bench kernels has the parts {', '.join(SECTIONS)}; got {unknown}")
    device = bridge.require()
    ceilings = measure_ceilings(device)
    where = facts(device)
    b = Bench(device, ceilings, where)
    for name, value, unit in (
        ("read", ceilings.read / 1e12, "TB/s"), ("copy", ceilings.copy / 1e12, "TB/s"),
        ("bf16 product", ceilings.matmul / 1e12, "TFLOP/s"), ("ramp", ceilings.ramp * 1e6, "us"),
    ):  # fmt: skip
        yield {
            "metric": "ceiling",
            "shape": name,
            "impl": "device",
            "value": round(value, 3),
            "unit": unit,
            **where,
        }
    for section in sections:
        yield from SECTIONS[section](b)
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default=None)
    for row in rows(parser.parse_args()):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
