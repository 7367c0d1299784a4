"""The specification: plain loops over rows, tokens, heads, entries, in float64: slow on purpose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.forward import ForwardBatch, Pool, Segment

from .contract import HeadNorm, Linear, Rotary, Sampled, SamplerRow


@dataclass(frozen=True, slots=True, eq=False)
class ReferencePlan:
    batch: ForwardBatch
    pool: Any
    rotary: Rotary

    def slot(self, pages: Sequence[int], entry: int) -> int:
        size = self.pool.layout.page_size
        return int(pages[entry // size] * size + entry % size)


class ReferenceLinear:
    form = "as loaded"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        y = x.double() @ self._weight.double().T
        if self._bias is not None:
            y = y + self._bias.double()
        return y.to(x.dtype)


class ReferenceOps:
    """`ops.contract.Ops`, to be read first and compared with."""

    name = "reference"

    def prepare(self, batch: ForwardBatch, pool: Pool, rotary: Rotary) -> ReferencePlan:
        return ReferencePlan(batch, pool, rotary)

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        return ReferenceLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.double()
        mean_square = (wide * wide).sum(-1, keepdim=True) / x.shape[-1]
        return (wide / (mean_square + eps).sqrt() * weight.double()).to(x.dtype)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        total = (x.double() + residual.double()).to(x.dtype)
        return self.rms_norm(total, weight, eps), total

    def rope_store(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: Any,
        layer: int,
        norm: HeadNorm | None = None,
    ) -> Tensor:
        out = torch.empty_like(q)
        if norm is not None:  # rounded once, after the turn
            q = self.rms_norm(q.double(), norm.q, norm.eps)
            k = self.rms_norm(k.double(), norm.k, norm.eps)
        keys, values = plan.pool.keys[layer], plan.pool.values[layer]
        for t, position in enumerate(plan.batch.positions.tolist()):
            slot = int(plan.batch.slots[t])
            for head in range(q.shape[1]):
                out[t, head] = turn(q[t, head], position, plan.rotary.inv_freq, plan.rotary.scale)
            for head in range(k.shape[1]):
                keys[slot, head] = turn(
                    k[t, head], position, plan.rotary.inv_freq, plan.rotary.scale
                )
                values[slot, head] = v[t, head]
        return out

    def attention(
        self, q: Tensor, plan: Any, layer: int, scale: float, sliding_window: int | None
    ) -> Tensor:
        batch, out = plan.batch, torch.empty_like(q)
        starts = batch.query_start.tolist()
        group = q.shape[1] // plan.pool.layout.kv_heads
        for row in range(batch.rows):
            new = starts[row + 1] - starts[row]
            pages = batch.block_tables[row].tolist()
            attached = batch.attached[row] if batch.attached else ()
            tree, before = batch.tree(row), int(batch.kv_lens[row]) - new
            for j in range(new):
                entry = before + j
                first = 0 if sliding_window is None else max(0, entry - sliding_window + 1)
                own = [Segment(pages, first, entry + 1, 0)]
                if tree is not None:
                    read = [before + i for i in range(new) if int(tree[j]) >> i & 1]
                    own = [Segment(pages, e, e + 1, 0) for e in read]
                    own.insert(0, Segment(pages, 0, before, 0))
                for head in range(q.shape[1]):
                    t = starts[row] + j
                    kv_head = head // group
                    out[t, head] = self._read(
                        q[t, head], kv_head, (*attached, *own), plan, layer, scale
                    )
        return out

    def _read(
        self,
        q: Tensor,
        kv_head: int,
        segments: Sequence[Segment],
        plan: Any,
        layer: int,
        scale: float,
    ) -> Tensor:
        """One query [D] over all entries of the segments."""
        keys, values = plan.pool.keys[layer], plan.pool.values[layer]
        scores: list[float] = []
        read: list[Tensor] = []
        for segment in segments:
            for entry in range(segment.start, segment.stop):
                slot = plan.slot(segment.pages, entry)
                key = keys[slot, kv_head].double()
                if segment.shift:
                    key = turn(key, segment.shift, plan.rotary.inv_freq, 1.0)
                scores.append(scale * float(q.double() @ key))
                read.append(values[slot, kv_head].double())
        highest = max(scores)
        weights = [math.exp(score - highest) for score in scores]
        total = sum(weights)
        out = torch.zeros_like(read[0])
        for weight, value in zip(weights, read, strict=True):
            out += weight / total * value
        return out.to(q.dtype)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        half = gate_up.shape[-1] // 2
        gate, up = gate_up[..., :half].double(), gate_up[..., half:].double()
        return (gate / (1 + (-gate).exp()) * up).to(gate_up.dtype)

    def route(self, logits: Tensor, k: int, normalise: bool) -> tuple[Tensor, Tensor]:
        probabilities = torch.softmax(logits.float(), -1)
        experts = torch.empty(len(logits), k, dtype=torch.int64)
        weights = torch.empty(len(logits), k)
        for t, row in enumerate(probabilities.tolist()):
            best = sorted(range(len(row)), key=lambda e: (-row[e], e))[:k]
            total = sum(row[e] for e in best) if normalise else 1.0
            experts[t] = torch.tensor(best)
            weights[t] = torch.tensor([row[e] / total for e in best])
        return experts, weights

    def expert_mlp(
        self, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        out = torch.zeros(x.shape, dtype=torch.float64)
        for t in range(len(x)):
            for expert, weight in sorted(
                zip(experts[t].tolist(), weights[t].tolist(), strict=True)
            ):
                inner = self.silu_mul(gate_up[expert].double() @ x[t].double())
                out[t] += weight * (down[expert].double() @ inner)
        return out.to(x.dtype)

    def sample(
        self,
        logits: Tensor,
        rows: Sequence[SamplerRow],
        mask: Tensor | None,
        seen: Sequence[Tensor],
        bias: Sequence[tuple[Tensor, Tensor] | None],
        uniforms: Tensor,
        top_n: int,
    ) -> Sampled:
        results = []
        for r, row in enumerate(rows):
            values = _adjusted(
                logits[r].tolist(), row, set(seen[r].tolist()) if r < len(seen) else set(),
                bias[r] if r < len(bias) else None,
            )  # fmt: skip
            if mask is not None:
                words = mask[r].tolist()
                allowed = [bool(words[i // 32] >> (i % 32) & 1) for i in range(len(values))]
                if not any(allowed):
                    raise ValueError(f"sample: the mask of row {r} allows no token")
                values = [v if ok else -math.inf for v, ok in zip(values, allowed, strict=True)]
            results.append(_drawn(values, row, float(uniforms[r]), top_n))
        tokens, logprobs, entropies, ids, tops = zip(*results, strict=True)
        return Sampled(
            torch.tensor(tokens), torch.tensor(logprobs), torch.tensor(entropies),
            torch.tensor(ids), torch.tensor(tops),
        )  # fmt: skip


def turn(x: Tensor, position: int, inv_freq: Tensor, scale: float) -> Tensor:
    """x [D] turned to `position`, pair by pair: (i, i + D/2)."""
    half = x.shape[0] // 2
    out = torch.empty(x.shape, dtype=torch.float64)
    for i in range(half):
        # the angle is float32, as in the nets' own training code
        angle = float((torch.tensor(float(position)) * inv_freq[i].float()).item())
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        a, b = float(x[i]), float(x[i + half])
        out[i], out[i + half] = a * cos - b * sin, b * cos + a * sin
    return out.to(x.dtype)


def _adjusted(
    values: list[float], row: SamplerRow, seen: set[int], bias: tuple[Tensor, Tensor] | None
) -> list[float]:
    values = list(values)
    for token in seen:
        value = values[token]
        penalty = row.repetition_penalty
        values[token] = (value / penalty if value > 0 else value * penalty) - row.presence_penalty
    if bias is not None:
        for token, amount in zip(bias[0].tolist(), bias[1].tolist(), strict=True):
            values[token] += amount
    return values


def _softmax(values: Sequence[float]) -> list[float]:
    highest = max(values)
    weights = [math.exp(value - highest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]


def _drawn(
    values: list[float], row: SamplerRow, uniform: float, top_n: int
) -> tuple[int, float, float, list[int], list[float]]:
    """(token, its logprob, entropy, the top ids, their logprobs)."""
    probabilities = _softmax(values)
    logprobs = [math.log(p) if p > 0 else -math.inf for p in probabilities]
    entropy = -sum(p * math.log(p) for p in probabilities if p > 0)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    token = order[0]
    if row.temperature > 0:
        kept = [i for i in order if values[i] > -math.inf]
        if row.top_k > 0:
            kept = kept[: row.top_k]
        share = _softmax([values[i] / row.temperature for i in kept])
        if row.top_p < 1.0:
            n = next((n for n in range(1, len(kept)) if sum(share[:n]) >= row.top_p), len(kept))
            kept = kept[:n]
            share = [p / sum(share[:n]) for p in share[:n]]
        kept = [i for i, p in zip(kept, share, strict=True) if p >= row.min_p * share[0]]
        share = _softmax([values[i] / row.temperature for i in kept])
        below = 0.0
        token = kept[-1]
        for i, p in zip(kept, share, strict=True):
            below += p
            if uniform < below:
                token = i
                break
    top = order[:top_n]
    return token, logprobs[token], entropy, top, [logprobs[i] for i in top]
