"""One decoder for all families: it reads `ModelShape` and knows no family by name."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.forward import FEW, ForwardBatch, ForwardOutput, NetFacts, Pool
from workbench.kv.layout import KVLayout
from workbench.kv.pool import TorchPool
from workbench.ops.contract import HeadNorm, Linear, Ops, Recipe, Replays, Rotary, Unrounded

from .landing import Landing
from .lora import Adapter, load_adapter
from .overrides import Overrides, StepOverrides, why_not_captured
from .shape import ModelShape, unserved

FEW_ON_DEVICE = 256  # as `forward.FEW`: launches decide, or the weights' way from memory
MakePool = Callable[[KVLayout, Tensor, torch.device], Pool]  # of frequencies [D / 2]


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    router: Tensor  # [E, M]
    gate_up: Tensor  # [E, 2F, M]
    down: Tensor  # [E, M, F]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer's weights, packed; q, k, v fused, gate and up fused."""

    attention_norm: Tensor  # [M]
    qkv: Linear
    o: Linear
    mlp_norm: Tensor  # [M]
    q_norm: Tensor | None  # [D] or [Q * D]
    k_norm: Tensor | None  # [D] or [H * D]
    gate_up: Linear | None  # of a dense layer
    down: Linear | None
    experts: Experts | None  # of a sparse one


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A whole net's weights, packed for one `Ops`."""

    embedding: Tensor  # [V, M]
    layers: tuple[Layer, ...]
    norm: Tensor  # [M]
    head: Linear


@dataclass(slots=True, eq=False)
class _Taken:
    """What a step collects on its way: hidden states, residuals of early exits, router choices."""

    routing: bool = False  # wanted
    hidden: dict[int, Tensor] = field(default_factory=dict)
    exits: dict[int, Tensor] = field(default_factory=dict)
    routed: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)  # layer, [T, k] twice


class Decoder:
    """A `forward.Forward` over any `Ops` whose pool has order "token"."""

    def __init__(
        self,
        shape: ModelShape,
        net: Net,
        ops: Ops,
        *,
        name: str,
        dtype: torch.dtype,
        device: torch.device,
        make_pool: MakePool = TorchPool,
    ) -> None:
        self.name, self.ops, self.dtype, self.device = name, ops, dtype, device
        self.sample = ops.sample  # where the logits lie
        self.ahead = device.type == "cuda"
        self.few_tokens = FEW_ON_DEVICE if self.ahead else FEW
        self.eager: Counter[str] = Counter()  # why steps were not replayed
        self.facts: NetFacts = shape
        self._make_pool = make_pool
        self.adapters: dict[str, Adapter] = {}
        self.rotary: Rotary = shape.rope.rotary(shape.head_dim)
        self._net, self._shape = net, shape
        sizes = (shape.heads, shape.kv_heads, shape.kv_heads)
        self._split = [n * shape.head_dim for n in sizes]
        self._norms = [self._head_norm(layer) for layer in net.layers]
        self._overrides = Overrides(shape.layers)
        self._windows = tuple(dict.fromkeys(shape.sliding))

    def _head_norm(self, layer: Layer) -> HeadNorm | None:
        if self._shape.qk_norm != "per-head" or layer.q_norm is None or layer.k_norm is None:
            return None
        return HeadNorm(layer.q_norm, layer.k_norm, self._shape.norm_eps)

    def layout(self, pages: int, page_size: int) -> KVLayout:
        s = self._shape
        return KVLayout(s.layers, pages, page_size, s.kv_heads, s.head_dim, self.dtype)

    def new_pool(self, layout: KVLayout) -> Pool:
        return self._make_pool(layout, self.rotary.inv_freq, self.device)

    def unserved(self, batch: ForwardBatch) -> str | None:
        return unserved(self._shape, batch, self.adapters)

    @torch.no_grad()
    def __call__(
        self, batch: ForwardBatch, pool: Pool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        step = self._overrides.resolve(batch, self.adapters)
        if isinstance(self.ops, Replays):
            reason = why_not_captured(batch, step)
            if reason is None:
                pulse()
                results = self.ops.replay(batch, pool, self.rotary, self._recipe(batch, step))
                if results is not None:
                    return self._replayed(results)
            self.eager[reason or "many new tokens"] += 1
        step = step.on(self.device)
        plan = self.ops.prepare(batch, pool, self.rotary)
        taken = _Taken(batch.routing)
        x, delta = self._embed(batch), None
        for index in range(step.last):
            pulse()
            x, delta = self._layer(index, x, delta, plan, step, taken)
            if self._touched(index, step, batch):
                x, delta = self._after(index, x + delta, step, batch, taken), None
        return self._output(x if delta is None else x + delta, batch, step, taken)

    def _recipe(self, batch: ForwardBatch, step: StepOverrides) -> Recipe:
        """The step from device tensors alone; its results are the head's product, and
        the router's choices [layers, T, k] where they are wanted."""
        routing = batch.routing and self._shape.moe is not None

        def body(
            ids: Tensor, plan: object, indexes: Sequence[Tensor], asked: Tensor | None
        ) -> tuple[Tensor, ...]:
            taken, own = _Taken(routing), step.over(indexes)
            x, delta = F.embedding(ids, self._net.embedding), None
            for index in range(self._shape.layers):
                x, delta = self._layer(index, x, delta, plan, own, taken)
            normed, _ = self._add_norm(x, delta, self._net.norm)
            logits = self._logits(normed if asked is None else normed[asked])
            if not taken.routed:
                return (logits,)
            _, experts, weights = zip(*taken.routed, strict=True)
            return logits, torch.stack(experts), torch.stack(weights)

        net, pads = (self, step.net, routing), self._shape.moe is None
        asked: Tensor | None = batch.logit_rows
        if np.array_equal(batch.logit_rows.numpy(), np.arange(batch.tokens)):
            asked = None
        return Recipe(net, self._shape.heads, self._windows, step.indexes, asked, pads, body)

    def _replayed(self, results: tuple[Tensor, ...]) -> ForwardOutput:
        logits = results[0].clone() if results[0].dtype == torch.float32 else results[0].float()
        moe = self._shape.moe
        if len(results) == 1 or moe is None:
            return ForwardOutput(logits)
        sparse = [index for index, is_sparse in enumerate(moe.layers) if is_sparse]
        return ForwardOutput(logits, {}, Landing(sparse, *results[1:]))

    def _embed(self, batch: ForwardBatch) -> Tensor:
        ids = batch.token_ids if batch.drawn is None else batch.drawn
        x = F.embedding(ids.to(self.device), self._net.embedding)  # [T, M]
        if batch.vectors is not None and batch.vector_rows is not None:
            x[batch.vector_rows.to(self.device)] = batch.vectors.to(self.device, x.dtype)
        return x

    def _layer(
        self,
        index: int,
        x: Tensor,
        delta: Tensor | None,
        plan: object,
        step: StepOverrides,
        taken: _Taken,
    ) -> tuple[Tensor, Tensor]:
        """(residual, what is still to be added to it) after the layer."""
        layer, shape, ops = self._net.layers[index], self._shape, self.ops
        normed, x = self._add_norm(x, delta, layer.attention_norm)
        qkv = step.adapted(layer.qkv(normed), normed, index, "qkv")
        q, k, v = self._heads(layer, qkv)
        q = ops.rope_store(q, k, v, plan, index, self._norms[index])
        attended = ops.attention(q, plan, index, shape.attention_scale, shape.sliding[index])
        attended = attended.view(attended.shape[0], -1)
        out = step.adapted(layer.o(attended), attended, index, "o")
        normed, x = self._add_norm(x, out, layer.mlp_norm)
        if layer.experts is not None:
            return x, self._experts(layer.experts, normed, index, taken)
        assert layer.gate_up is not None and layer.down is not None
        inner = ops.silu_mul(step.adapted(layer.gate_up(normed), normed, index, "gate_up"))
        return x, step.adapted(layer.down(inner), inner, index, "down")

    def _add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        if delta is None:
            return self.ops.rms_norm(x, weight, self._shape.norm_eps), x
        return self.ops.add_rms_norm(delta, x, weight, self._shape.norm_eps)

    def _heads(self, layer: Layer, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, (Q + 2H) D] -> q [T, Q, D], k and v [T, H, D], clipped; normed where it is done over
        the full width."""
        shape, tokens = self._shape, qkv.shape[0]
        if layer.q_norm is not None and layer.k_norm is not None and shape.qk_norm == "full-width":
            q, k, v = torch.split(qkv, self._split, 1)
            q = self.ops.rms_norm(q, layer.q_norm, shape.norm_eps)
            k = self.ops.rms_norm(k, layer.k_norm, shape.norm_eps)
            qkv = torch.cat([q, k, v], 1)
        if shape.clip_qkv is not None:
            qkv = qkv.clamp(-shape.clip_qkv, shape.clip_qkv)
        heads = qkv.view(tokens, -1, shape.head_dim)
        q, k, v = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads], 1)
        return q, k, v

    def _experts(self, experts: Experts, x: Tensor, index: int, taken: _Taken) -> Tensor:
        moe = self._shape.moe
        assert moe is not None
        chosen, weights = self.ops.route(F.linear(x, experts.router), moe.k, moe.norm_topk_prob)
        if taken.routing:
            taken.routed.append((index, chosen, weights))
        return self.ops.expert_mlp(x, chosen, weights, experts.gate_up, experts.down)

    def _touched(self, index: int, step: StepOverrides, batch: ForwardBatch) -> bool:
        return index in batch.hidden_layers or index in step.steering or index + 1 in step.exits

    def _after(
        self, index: int, x: Tensor, step: StepOverrides, batch: ForwardBatch, taken: _Taken
    ) -> Tensor:
        for tokens, vector in step.steering.get(index, ()):
            x[tokens] += vector.to(self.device, x.dtype)
        if index in batch.hidden_layers:
            taken.hidden[index] = x[batch.hidden_rows.to(self.device)].float().cpu()
        if index + 1 in step.exits:
            taken.exits[index + 1] = x[step.exits[index + 1]]
        return x

    def _output(
        self, x: Tensor, batch: ForwardBatch, step: StepOverrides, taken: _Taken
    ) -> ForwardOutput:
        for layers, residual in taken.exits.items():
            x[step.exits[layers]] = residual
        if -1 in batch.hidden_layers:
            last = self._final(x, batch.hidden_rows)
            taken.hidden[-1] = last.float().cpu()
        logits = self._logits(self._final(x, batch.logit_rows)).float()
        if not taken.routed:
            return ForwardOutput(logits, taken.hidden)
        sparse, experts, weights = zip(*taken.routed, strict=True)
        routing = Landing(sparse, torch.stack(experts), torch.stack(weights))
        return ForwardOutput(logits, taken.hidden, routing)

    def _logits(self, normed: Tensor) -> Tensor:
        head = self._net.head
        return head.float32(normed) if isinstance(head, Unrounded) else head(normed)

    def _final(self, x: Tensor, rows: Tensor) -> Tensor:
        if len(rows) != x.shape[0] or len(rows) > 1:
            x = x[rows.to(self.device)]
        return self.ops.rms_norm(x, self._net.norm, self._shape.norm_eps)

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids.to(self.device), self._net.embedding).float()

    @torch.no_grad()
    def project(self, hidden: Tensor, normed: bool) -> Tensor:
        x = hidden.to(self.device, self.dtype)
        if not normed:
            x = self.ops.rms_norm(x, self._net.norm, self._shape.norm_eps)
        return self._logits(x).float()

    def load_adapter(self, name: str, path: Path) -> None:
        """Load a PEFT directory under `name`, for `Override(adapter=name)`. Raises ModelError."""
        self.adapters[name] = load_adapter(name, path, self._shape, self.dtype, self.device)
