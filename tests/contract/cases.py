"""One table of cases for every operation of `ops.contract`; implementations join in `test_ops.py`.

A case's `run(ops, make_pool, device, dtype)` gives named tensors; those of `ops.reference` are the
measure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.forward import ForwardBatch, Segment
from workbench.kv.layout import KVLayout
from workbench.model.shape import Rope
from workbench.ops.contract import HeadNorm, SamplerRow

MakePool = Callable[[KVLayout, Tensor, torch.device], Any]
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    op: str
    name: str
    run: Callable[[Any, MakePool, torch.device, torch.dtype], Results]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(seed))


# ---- row-wise operations ----


def norm_case(rows: Sequence[int], width: int) -> Case:
    def run(ops: Any, _: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        x = (normal(1, *rows, width) * 3).to(device, dtype)
        weight = (1 + 0.2 * normal(2, width)).to(device, dtype)
        return {"out": ops.rms_norm(x, weight, 1e-5)}

    return Case("rms_norm", f"{[*rows, width]}", run)


def add_norm_case(rows: int, width: int) -> Case:
    def run(ops: Any, _: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        x, residual = (normal(s, rows, width).to(device, dtype) * 2 for s in (3, 4))
        weight = (1 + 0.2 * normal(5, width)).to(device, dtype)
        kept = residual.clone()
        normed, total = ops.add_rms_norm(x, residual, weight, 1e-6)
        assert torch.equal(residual, kept), "the residual that came in belongs to the caller"
        return {"normed": normed, "sum": total}

    return Case("add_rms_norm", f"[{rows}, {width}]", run)


def silu_case(rows: int, width: int) -> Case:
    def run(ops: Any, _: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        return {"out": ops.silu_mul((normal(6, rows, 2 * width) * 2).to(device, dtype))}

    return Case("silu_mul", f"[{rows}, 2 x {width}]", run)


def linear_case(rows: int, inward: int, outward: int, biased: bool) -> Case:
    def run(ops: Any, _: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        weight = (normal(7, outward, inward) * inward**-0.5).to(device, dtype)
        bias = normal(8, outward).to(device, dtype) if biased else None
        linear = ops.pack(weight, bias)
        assert (linear.in_features, linear.out_features) == (inward, outward)
        return {"out": linear(normal(9, rows, inward).to(device, dtype))}

    return Case("linear", f"[{rows}, {inward}] -> {outward}{' + bias' if biased else ''}", run)


# ---- experts ----


def route_case(experts: int, k: int, normalise: bool, equal: bool = False) -> Case:
    def run(ops: Any, _: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        logits = torch.zeros(5, experts) if equal else normal(10, 33, experts) * 2
        chosen, weights = ops.route(logits.to(device, dtype), k, normalise)
        return {"experts": chosen, "weights": weights}

    what = f"{k} of {experts}{', normalised' if normalise else ''}{', all equal' if equal else ''}"
    return Case("route", what, run)


def expert_case(tokens: int, experts: int, k: int, width: int, ffn: int) -> Case:
    def run(ops: Any, _: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        x = normal(11, tokens, width).to(device, dtype)
        gate_up = (normal(12, experts, 2 * ffn, width) * width**-0.5).to(device, dtype)
        down = (normal(13, experts, width, ffn) * ffn**-0.5).to(device, dtype)
        order = normal(14, tokens, experts).argsort(-1)[:, :k].to(device)
        weights = torch.softmax(normal(15, tokens, k), -1).to(device)
        return {"out": ops.expert_mlp(x, order, weights, gate_up, down)}

    return Case("expert_mlp", f"{tokens} tokens, {k} of {experts}", run)


# ---- the paged cache ----


PLAIN_ROPE = Rope(10000.0)


@dataclass(frozen=True)
class Paged:
    """Rows as (entries before, new tokens), over pages in random order."""

    rows: tuple[tuple[int, int], ...]
    page_size: int
    heads: int = 6
    kv_heads: int = 2
    dim: int = 64
    window: int | None = None
    rope: Rope = PLAIN_ROPE
    attached: bool = False  # each row reads the one before it, turned
    trees: bool = False  # rows of 2 to 64 new tokens are trees: token i hangs on (i - 1) // 2
    fused: bool = False  # q, k, v are views of one tensor, as a fused projection leaves them

    def build(
        self, make_pool: MakePool, device: torch.device, dtype: torch.dtype
    ) -> tuple[ForwardBatch, Any, Tensor, Tensor, Tensor]:
        lens = [before + new for before, new in self.rows]
        counts = [-(-n // self.page_size) for n in lens]
        pages = sum(counts) + 3  # some belong to nobody
        layout = KVLayout(2, pages, self.page_size, self.kv_heads, self.dim, dtype)
        pool = make_pool(layout, self.rope.rotary(self.dim).inv_freq, device)
        pool.poison(torch.arange(layout.slots))
        free = torch.randperm(pages, generator=torch.manual_seed(16)).tolist()
        tables, slots, positions, starts = [], [], [], [0]
        for (before, new), count in zip(self.rows, counts, strict=True):
            mine, free = free[:count], free[count:]
            tables.append(mine)
            every = [mine[e // self.page_size] * self.page_size + e % self.page_size
                     for e in range(before + new)]  # fmt: skip
            old = torch.tensor(every[:before], dtype=torch.int64, device=device)
            for memory, seed in ((pool.keys, 17), (pool.values, 18)):
                stored = normal(seed + before, before, self.kv_heads, self.dim)
                memory[1][old] = stored.to(device, dtype)
            slots += every[before:]
            positions += [before + j + 3 for j in range(new)]  # positions are given, not counted
            starts.append(len(slots))
        width = max(counts)
        batch = ForwardBatch(
            torch.zeros(len(slots), dtype=torch.int64), torch.tensor(positions),
            torch.tensor(slots), torch.tensor(starts), torch.tensor(lens),
            torch.tensor([t + [0] * (width - len(t)) for t in tables]),
            attached=self._segments(tables, lens),
            ancestors=torch.tensor(self._ancestors()) if self.trees else None,
        )  # fmt: skip
        total = self.heads + 2 * self.kv_heads
        qkv = normal(19, len(slots), total, self.dim).to(device, dtype)
        q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], 1)
        if not self.fused:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        return batch, pool, q, k, v

    def _ancestors(self) -> list[int]:
        masks: list[int] = []
        for _, new in self.rows:
            mine: list[int] = []
            for i in range(new if 2 <= new <= 64 else 0):
                mine.append(1 << i | (mine[(i - 1) // 2] if i > 1 else 0))
            masks += mine or [0] * new
        return masks

    def _segments(self, tables: list[list[int]], lens: list[int]) -> list[list[Segment]]:
        if not self.attached:
            return []
        parts: list[list[Segment]] = [[]]
        for row in range(1, len(tables)):
            start = 1 if lens[row - 1] > 2 else 0
            parts.append([Segment(tables[row - 1], start, lens[row - 1], 5 - 2 * row)])
        return parts


def store_case(name: str, paged: Paged, normed: bool = False) -> Case:
    def run(ops: Any, make_pool: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        batch, pool, q, k, v = paged.build(make_pool, device, dtype)
        plan = ops.prepare(batch, pool, paged.rope.rotary(paged.dim))
        norm = None
        if normed:
            weights = (1 + 0.3 * normal(23, 2, paged.dim)).to(device, dtype)
            norm = HeadNorm(weights[0], weights[1], 1e-6)
        turned = ops.rope_store(q, k, v, plan, 1, norm)
        stored_k, stored_v = pool.read(1, batch.slots)
        untouched = pool.read(0, batch.slots)[0]
        assert bool(untouched.isnan().all()), "another layer was written"
        return {"q": turned, "k": stored_k.cpu().to(dtype), "v": stored_v.cpu().to(dtype)}

    return Case("rope_store", name, run)


def attention_case(name: str, paged: Paged) -> Case:
    def run(ops: Any, make_pool: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        batch, pool, q, k, v = paged.build(make_pool, device, dtype)
        plan = ops.prepare(batch, pool, paged.rope.rotary(paged.dim))
        turned = ops.rope_store(q, k, v, plan, 1)
        out = ops.attention(turned.contiguous(), plan, 1, paged.dim**-0.5, paged.window)
        return {"out": out.view(len(q), paged.heads, paged.dim)}

    return Case("attention", name, run)


YARN = Rope(10000.0, "yarn", factor=4.0, original_window=32)
DECODE = ((0, 1), (1, 1), (15, 1), (16, 1), (40, 1))
MIXED = ((0, 9), (5, 1), (12, 4), (33, 1), (0, 1), (20, 7))
PAGED: dict[str, Paged] = {
    "one row decodes": Paged(((37, 1),), 16, fused=True),
    "one row, one token": Paged(((0, 1),), 16),
    "rows decode": Paged(DECODE, 16),
    "rows decode, page size 1": Paged(DECODE, 1),
    "rows decode, page size 5": Paged(DECODE, 5, fused=True),
    "a prompt": Paged(((0, 19),), 8, fused=True),
    "a prompt's second chunk": Paged(((13, 11),), 8),
    "mixed": Paged(MIXED, 4),
    "mixed, window 7": Paged(MIXED, 4, window=7),
    "mixed, window 1": Paged(MIXED, 4, window=1),
    "decode, window 7": Paged(DECODE, 4, window=7),
    "a prompt, window 5": Paged(((0, 17),), 4, window=5),
    "all heads have their KV": Paged(MIXED, 4, heads=4, kv_heads=4),
    "one KV head": Paged(MIXED, 4, heads=3, kv_heads=1, dim=128),
    "a long chunk": Paged(((9, 130),), 16, heads=2, kv_heads=1, dim=96),
    "yarn": Paged(MIXED, 4, rope=YARN),
    "attached": Paged(((6, 1), (9, 1), (0, 1)), 4, attached=True),
    "attached, many tokens": Paged(((6, 1), (3, 5), (0, 4), (8, 1)), 3, attached=True),
    "attached, window 3": Paged(((6, 1), (9, 1), (4, 3)), 4, attached=True, window=3),
    "trees of tokens": Paged(((20, 7), (33, 1), (0, 5), (3, 40), (8, 2)), 4, trees=True),
    "trees of tokens, attached": Paged(((6, 1), (9, 6), (4, 1)), 4, attached=True, trees=True),
    "attached, yarn": Paged(((6, 1), (9, 2)), 4, attached=True, rope=YARN),
}


# ---- sampling ----

SAMPLERS: dict[str, SamplerRow] = {
    "greedy": SamplerRow(),
    "temperature": SamplerRow(temperature=0.8),
    "top-k": SamplerRow(temperature=1.3, top_k=5),
    "top-k of one": SamplerRow(temperature=1.0, top_k=1),
    "top-p": SamplerRow(temperature=1.0, top_p=0.6),
    "tiny top-p": SamplerRow(temperature=1.0, top_p=1e-6),
    "min-p": SamplerRow(temperature=1.0, min_p=0.2),
    "all filters": SamplerRow(temperature=0.9, top_k=20, top_p=0.9, min_p=0.05),
    "penalties": SamplerRow(1.4, 0.6, 0.7),
    "greedy with penalties": SamplerRow(2.0, 1.0),
}


def sample_case(name: str, names: Sequence[str], masked: bool, biased: bool) -> Case:
    vocabulary = 101  # no multiple of 32

    def run(ops: Any, _: MakePool, device: torch.device, dtype: torch.dtype) -> Results:
        rows = [SAMPLERS[n] for n in names for _ in range(6)]
        count = len(rows)
        logits = (normal(20, count, vocabulary) * 2.5).to(device)
        mask = None
        if masked:
            allowed = normal(21, count, 128) > 0.3
            allowed[:, 7] = True
            bits = allowed.view(count, 4, 32).long() << torch.arange(32)
            mask = bits.sum(-1).to(torch.int32).to(device)
        seen = [torch.arange(r % 9) * 5 for r in range(count)]
        bias = [
            (torch.tensor([3, 50]), torch.tensor([2.0, -3.0])) if biased and r % 2 else None
            for r in range(count)
        ]
        uniforms = torch.rand(count, generator=torch.manual_seed(22), dtype=torch.float64)
        got = ops.sample(logits, rows, mask, seen, bias, uniforms, 4)
        got.wait()
        return {
            "token": got.token, "logprob": got.logprob, "entropy": got.entropy,
            "top_ids": got.top_ids, "top_logprobs": got.top_logprobs,
        }  # fmt: skip

    return Case("sample", name, run)


CASES: list[Case] = [
    norm_case((3,), 16), norm_case((1,), 576), norm_case((7, 5), 64), norm_case((33,), 96),
    add_norm_case(1, 64), add_norm_case(19, 576),
    silu_case(1, 24), silu_case(17, 1536),
    linear_case(1, 64, 96, False), linear_case(5, 48, 33, True), linear_case(40, 128, 64, True),
    route_case(8, 2, True), route_case(64, 8, False), route_case(6, 6, True),
    route_case(8, 3, True, equal=True),
    expert_case(1, 4, 2, 64, 128), expert_case(21, 8, 3, 128, 64), expert_case(9, 16, 1, 64, 64),
    *(store_case(name, paged) for name, paged in PAGED.items()),
    *(store_case(f"{n}, normed", PAGED[n], True) for n in ("one row decodes", "mixed", "yarn")),
    *(attention_case(name, paged) for name, paged in PAGED.items()),
    *(sample_case(name, [name], False, False) for name in SAMPLERS),
    sample_case("mixed rows under masks", list(SAMPLERS), True, False),
    sample_case("mixed rows with bias", list(SAMPLERS), False, True),
    sample_case("mixed rows with both", list(SAMPLERS), True, True),
]  # fmt: skip
