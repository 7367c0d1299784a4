"""Stand-ins that compute: a tiny net, a scripted one, bytes as tokens, a clock that one steps.

`TinyForward` is a real decoder of two layers that reads K and V through block tables alone, in
plain loops; `TinyForward.dense` is the same net without pages, written apart from it: the
oracle.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from workbench.engine.engine import Engine
from workbench.engine.sequence import Branch
from workbench.events import Event
from workbench.forward import PLAIN, ForwardBatch, ForwardOutput, Override, Segment
from workbench.kv.layout import KVLayout
from workbench.ops.contract import Sampled, SamplerRow
from workbench.words import RequestId

T = TypeVar("T")
F64 = torch.float64


class ByteTokenizer:
    """A token a byte, and one end token."""

    end = 256
    vocabulary = 257

    def encode(self, text: str) -> list[int]:
        """`<end>` becomes the end token."""
        parts = text.split("<end>")
        ids = [list(part.encode()) for part in parts]
        return [token for i, part in enumerate(ids) for token in ([self.end] if i else []) + part]

    def bytes_of(self, token: int) -> bytes:
        return b"<end>" if token == self.end else bytes([token])


class StepClock:
    """Seconds that pass only when told."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 0.0
        self.tick = tick  # passes at each look

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@dataclass(frozen=True)
class Facts:
    layers: int = 2
    width: int = 16
    vocabulary: int = ByteTokenizer.vocabulary
    window: int = 512
    experts: int = 0


class FakePool:
    """K and V as float64 [L, P * S, H, D], nothing clever."""

    def __init__(self, layout: KVLayout, inv_freq: Tensor) -> None:
        self.layout = layout
        shape = (layout.layers, layout.slots, layout.kv_heads, layout.head_dim)
        self.k, self.v = torch.zeros(shape, dtype=F64), torch.zeros(shape, dtype=F64)
        self.inv_freq = inv_freq

    def _slots(self, pages: Sequence[int]) -> Tensor:
        size = self.layout.page_size
        return torch.tensor([p * size + i for p in pages for i in range(size)], dtype=torch.int64)

    def copy_pages(self, src: Sequence[int], dst: Sequence[int]) -> None:
        for memory in (self.k, self.v):
            memory[:, self._slots(dst)] = memory[:, self._slots(src)].clone()

    def move(self, src: Tensor, dst: Tensor, shift: int) -> None:
        k = turn(self.k[:, src], torch.full((len(src),), shift), self.inv_freq)
        v = self.v[:, src].clone()
        self.k[:, dst], self.v[:, dst] = k, v

    def save(self, pages: Sequence[int]) -> tuple[Tensor, Tensor]:
        slots = self._slots(pages)
        return self.k[:, slots].clone(), self.v[:, slots].clone()

    def load(self, pages: Sequence[int], saved: tuple[Tensor, Tensor]) -> None:
        slots = self._slots(pages)
        self.k[:, slots], self.v[:, slots] = saved

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        return self.k[layer, slots].float(), self.v[layer, slots].float()

    def poison(self, slots: Tensor) -> None:
        self.k[:, slots], self.v[:, slots] = torch.nan, torch.nan


def turn(x: Tensor, positions: Tensor, inv_freq: Tensor) -> Tensor:
    """x [..., n, H, D] turned by RoPE to `positions` [n]; pairs are (i, i + D/2)."""
    angle = positions.to(F64)[:, None] * inv_freq  # [n, D/2]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


@dataclass(frozen=True)
class DenseToken:
    """One token for the dense oracle: what it is, where it stands and whom it sees."""

    token: int
    position: int
    vector: Tensor | None = None


class TinyForward:
    """A decoder with random float64 weights: 2 layers, 2 query heads over 1 KV head of 8 dims."""

    name = "tiny"

    def __init__(self, facts: Facts = Facts(), seed: int = 0) -> None:
        self.facts = facts
        self.heads, self.kv_heads, self.head_dim = 2, 1, 8
        g = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=F64) / shape[-1] ** 0.5

        m, layers = facts.width, facts.layers
        self.table = weight(facts.vocabulary, m) * m**0.5
        self.q = weight(layers, self.heads * self.head_dim, m) * 2
        self.k = weight(layers, self.kv_heads * self.head_dim, m) * 2
        self.v = weight(layers, self.kv_heads * self.head_dim, m)
        self.o = weight(layers, m, self.heads * self.head_dim)
        self.up, self.down = weight(layers, 2 * m, m), weight(layers, m, 2 * m)
        self.head = weight(facts.vocabulary, m) * 3
        self.adapter = weight(layers, m, m) * 0.5  # what any adapter adds
        self.inv_freq = 0.3 ** torch.arange(self.head_dim // 2, dtype=F64)
        self.calls: list[ForwardBatch] = []
        self.before: Callable[[ForwardBatch, FakePool], None] | None = None

    # ---- the protocol ----

    def layout(self, pages: int, page_size: int) -> KVLayout:
        return KVLayout(self.facts.layers, pages, page_size, self.kv_heads, self.head_dim, F64)

    def new_pool(self, layout: KVLayout) -> FakePool:
        return FakePool(layout, self.inv_freq)

    def unserved(self, batch: ForwardBatch) -> str | None:
        return None

    def embed(self, ids: Tensor) -> Tensor:
        return self.table[ids].float()

    def project(self, hidden: Tensor, normed: bool) -> Tensor:
        x = hidden.to(F64)
        return ((x if normed else norm(x)) @ self.head.T).float()

    def __call__(
        self, batch: ForwardBatch, pool: FakePool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        self.calls.append(batch)
        if self.before is not None:
            self.before(batch, pool)
        x = self.table[batch.token_ids].clone()
        if batch.vectors is not None:
            x[batch.vector_rows] = batch.vectors.to(F64)
        hidden: dict[int, Tensor] = {}
        ended = x.clone()  # where a row leaves early, its state stays
        row_of = torch.repeat_interleave(torch.arange(batch.rows), batch.query_start.diff())
        overrides = list(batch.overrides) or [PLAIN] * batch.rows
        for layer in range(self.facts.layers):
            if layer:
                pulse()
            x = self._layer(x, layer, batch, pool, row_of, overrides)
            leaving = [o.exit_layer is None or layer < o.exit_layer for o in overrides]
            goes_on = torch.tensor(leaving)[row_of]
            x = torch.where(goes_on[:, None], x, ended)
            ended = x.clone()
            if layer in batch.hidden_layers:
                hidden[layer] = x[batch.hidden_rows].float()
        x = norm(x)
        if -1 in batch.hidden_layers:
            hidden[-1] = x[batch.hidden_rows].float()
        return ForwardOutput((x[batch.logit_rows] @ self.head.T).float(), hidden)

    def _layer(
        self, x: Tensor, layer: int, batch: ForwardBatch, pool: FakePool, row_of: Tensor,
        overrides: list[Override],
    ) -> Tensor:  # fmt: skip
        q, k, v = self._project_in(x, layer)
        q, k = turn(q, batch.positions, self.inv_freq), turn(k, batch.positions, self.inv_freq)
        pool.k[layer, batch.slots], pool.v[layer, batch.slots] = k, v
        size = pool.layout.page_size
        mixed = torch.zeros(batch.tokens, self.heads * self.head_dim, dtype=F64)
        for b in range(batch.rows):
            first, past = int(batch.query_start[b]), int(batch.query_start[b + 1])
            extra_k, extra_v = self._segments(
                batch.attached[b] if batch.attached else (), layer, pool
            )
            for j in range(first, past):
                seen = int(batch.kv_lens[b]) - (past - first) + (j - first) + 1
                slots = [
                    int(batch.block_tables[b, e // size]) * size + e % size for e in range(seen)
                ]
                keys = torch.cat([extra_k, pool.k[layer, slots]])
                values = torch.cat([extra_v, pool.v[layer, slots]])
                mixed[j] = attend(q[j], keys, values)
        return self._rest(x, mixed, layer, [overrides[b] for b in row_of.tolist()])

    def _segments(
        self, segments: Sequence[Segment], layer: int, pool: FakePool
    ) -> tuple[Tensor, Tensor]:
        size = pool.layout.page_size
        ks = [torch.zeros(0, self.kv_heads, self.head_dim, dtype=F64)]
        vs = list(ks)
        for s in segments:
            slots = [s.pages[e // size] * size + e % size for e in range(s.start, s.stop)]
            ks.append(turn(pool.k[layer, slots], torch.full((len(slots),), s.shift), self.inv_freq))
            vs.append(pool.v[layer, slots])
        return torch.cat(ks), torch.cat(vs)

    # ---- the net, shared by both ways ----

    def _project_in(self, x: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        h = norm(x)
        q = (h @ self.q[layer].T).view(-1, self.heads, self.head_dim)
        k = (h @ self.k[layer].T).view(-1, self.kv_heads, self.head_dim)
        v = (h @ self.v[layer].T).view(-1, self.kv_heads, self.head_dim)
        return q, k, v

    def _rest(self, x: Tensor, mixed: Tensor, layer: int, overrides: Sequence[Override]) -> Tensor:
        x = x + mixed @ self.o[layer].T
        x = x + torch.tanh(norm(x) @ self.up[layer].T) @ self.down[layer].T
        for i, override in enumerate(overrides):
            if override.adapter is not None:
                x[i] = x[i] + override.scale * (self.adapter[layer] @ norm(x[i]))
            for steering in override.steering:
                if steering.layer == layer:
                    x[i] = x[i] + steering.vector.to(F64)
        return x

    # ---- the oracle ----

    def dense(
        self, tokens: Sequence[int], *, positions: Sequence[int] | None = None,
        vectors: Mapping[int, Tensor] | None = None, override: Override = PLAIN,
    ) -> Tensor:  # fmt: skip
        """Logits [n, V] of a text without pages: one causal pass, a mask instead of tables."""
        n = len(tokens)
        where = torch.arange(n) if positions is None else torch.tensor(positions)
        ids = torch.tensor([t if t < self.facts.vocabulary else 0 for t in tokens])
        x = self.table[ids].clone()
        for i, vector in (vectors or {}).items():
            x[i] = vector.to(F64)
        sees = torch.ones(n, n).tril().bool()
        for layer in range(override.exit_layer or self.facts.layers):
            q, k, v = self._project_in(x, layer)
            q, k = turn(q, where, self.inv_freq), turn(k, where, self.inv_freq)
            scores = torch.einsum("qhd,kd->hqk", q, k[:, 0]) / self.head_dim**0.5
            weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
            mixed = torch.einsum("hqk,kd->qhd", weights, v[:, 0]).reshape(n, -1)
            x = self._rest(x, mixed, layer, [override] * n)
        return (norm(x) @ self.head.T).float()


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query [Q, D] over n entries [n, 1, D], head by head."""
    heads = []
    for head in q:
        weights = (keys[:, 0] @ head / q.shape[-1] ** 0.5).softmax(0)
        heads.append(weights @ values[:, 0])
    return torch.cat(heads)


class ScriptedModel:
    """A forward that says what a script wants: ``{"2+2=": "4<end>"}``.

    It keeps token ids where others keep keys, so it reads its text through block tables like any
    net. The next token is the one that follows, in some script's prompt and reply, the longest
    text that ends the resident one; among equal places, the first that has not been said.
    """

    name = "scripted"

    def __init__(self, scripts: Mapping[str, str], window: int = 512, encode: Any = None) -> None:
        self.facts = Facts(layers=1, width=2, window=window)
        encode = encode or ByteTokenizer().encode
        self.texts = [
            (encode(prompt), encode(prompt) + encode(reply)) for prompt, reply in scripts.items()
        ]
        self.said = [len(prompt) for prompt, _ in self.texts]
        self.calls: list[ForwardBatch] = []

    def layout(self, pages: int, page_size: int) -> KVLayout:
        return KVLayout(1, pages, page_size, 1, 2, F64)

    def new_pool(self, layout: KVLayout) -> FakePool:
        return FakePool(layout, torch.zeros(1, dtype=F64))

    def unserved(self, batch: ForwardBatch) -> str | None:
        return None

    def embed(self, ids: Tensor) -> Tensor:
        return torch.zeros(len(ids), 2)

    def project(self, hidden: Tensor, normed: bool) -> Tensor:
        return torch.zeros(len(hidden), self.facts.vocabulary)

    def __call__(
        self, batch: ForwardBatch, pool: FakePool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        self.calls.append(batch)
        pool.k[0, batch.slots, 0, 0] = batch.token_ids.to(F64)
        size = pool.layout.page_size
        logits = torch.zeros(len(batch.logit_rows), self.facts.vocabulary)
        for r, packed in enumerate(batch.logit_rows.tolist()):
            b = int((batch.query_start <= packed).sum()) - 1
            seen = int(batch.kv_lens[b]) - int(batch.query_start[b + 1]) + packed + 1
            slots = [int(batch.block_tables[b, e // size]) * size + e % size for e in range(seen)]
            logits[r, self._next([int(x) for x in pool.k[0, slots, 0, 0]])] = 20.0
        return ForwardOutput(logits)

    def _next(self, text: list[int]) -> int:
        best: tuple[int, bool, int, int] | None = None
        for number, (_, script) in enumerate(self.texts):
            for place in range(1, len(script)):
                same = 0
                while same < min(place, len(text)) and script[place - 1 - same] == text[-1 - same]:
                    same += 1
                found = (min(same, 64), place >= self.said[number], -place, number)
                if same and (best is None or found > best):
                    best = found
        if best is None:
            return ByteTokenizer.end
        number, place = best[3], -best[2]
        self.said[number] = max(self.said[number], place)
        return self.texts[number][1][place]


def plain_sample(
    logits: Tensor, rows: Sequence[SamplerRow], mask: Tensor | None, seen: Sequence[Tensor],
    bias: Sequence[tuple[Tensor, Tensor] | None], uniforms: Tensor, top_n: int,
) -> Sampled:  # fmt: skip
    """`Ops.sample`, token by token."""
    logits = logits.clone()
    for r, row in enumerate(rows):
        for token in set(seen[r].tolist()):
            value = logits[r, token]
            penalised = (
                value / row.repetition_penalty if value > 0 else value * row.repetition_penalty
            )
            logits[r, token] = penalised - row.presence_penalty
        added = bias[r]
        if added is not None:
            logits[r].index_add_(0, added[0], added[1])
        if mask is not None:
            allowed = [bool(int(mask[r, t // 32]) >> (t % 32) & 1) for t in range(logits.shape[1])]
            if not any(allowed):
                raise ValueError(f"row {r}'s mask allows nothing")
            logits[r, ~torch.tensor(allowed)] = -torch.inf
    logprobs = logits.log_softmax(-1)
    tokens = []
    for r, row in enumerate(rows):
        if row.temperature == 0:
            tokens.append(int(logits[r].argmax()))
            continue
        p = (logits[r] / row.temperature).double().softmax(-1)
        p, ids = p.sort(descending=True, stable=True)
        keep = (p.cumsum(0) - p < row.top_p) & (p >= row.min_p * p[0])
        if row.top_k:
            keep[row.top_k :] = False
        cumulated = (p * keep).cumsum(0)
        place = int(torch.searchsorted(cumulated, uniforms[r] * cumulated[-1], right=True))
        tokens.append(int(ids[min(place, int(keep.sum()) - 1)]))
    token = torch.tensor(tokens)
    top = logprobs.topk(min(top_n, logits.shape[1]))
    entropy = torch.special.entr(logprobs.exp()).sum(-1)
    return Sampled(
        token, logprobs.gather(1, token[:, None])[:, 0], entropy, top.indices, top.values
    )


# ---- an engine to try things on ----


@dataclass
class Bench:
    """An engine over a fake, what it told, and a request."""

    engine: Engine
    forward: Any
    told: list[Event] = field(default_factory=list)
    request: RequestId = field(default=RequestId(0))

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.told if isinstance(event, kind)]


def bench(
    forward: Any = None, *, pages: int = 64, page_size: int = 4, seed: int = 0, **settings: Any
) -> Bench:
    forward = forward or TinyForward()
    forward.before = None  # of another bench
    tokenizer = ByteTokenizer()
    told: list[Event] = []
    engine = Engine(
        forward,
        pages=pages,
        page_size=page_size,
        emit=told.append,
        detokenize=tokenizer.bytes_of,
        tokenize=tokenizer.encode,
        eos={tokenizer.end},
        **{"ops_sample": plain_sample, **settings},
    )
    request = engine.new_request(title="test", strategy="none", params="{}", seed=seed)
    return Bench(engine, forward, told, request)


class HasEngine(Protocol):
    @property
    def engine(self) -> Engine: ...


def drive(bench: HasEngine, work: Coroutine[Any, Any, T]) -> T:
    """Run a strategy with the engine beside it, as a session does, and audit what is left."""

    async def both() -> T:
        loop = asyncio.create_task(bench.engine.run())
        try:
            return await asyncio.wait_for(work, timeout=60)
        finally:
            bench.engine.close_loop()
            await loop

    result = asyncio.run(both())
    bench.engine.audit()
    return result


def poison_unowned(bench: Bench) -> None:
    """From now on every pass finds NaN in each slot that no stored entry and no cached page
    owns."""

    def before(batch: ForwardBatch, pool: FakePool) -> None:
        memory = bench.engine.memory
        size = memory.page_size
        owned = {page * size + i for page in memory.prefix.pages for i in range(size)}
        for branch in memory.branches.values():
            if branch.saved is None:
                owned.update(memory.slots(branch, 0, branch.stored).tolist())
                if branch.island:
                    owned.update(memory.slots(branch, *branch.island).tolist())
        pool.poison(torch.tensor(sorted(set(range(pool.layout.slots)) - owned), dtype=torch.int64))

    bench.forward.before = before


def text_of(branch: Branch) -> list[int]:
    """The token ids in the branch's working memory."""
    return [branch.tokens[i] for i in branch.resident]
