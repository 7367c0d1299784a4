"""From a `ForwardBatch` to the words that the native step reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.cpu import fields as f
from workbench.cpu.adapters import NativeAdapter
from workbench.cpu.attend import together
from workbench.cpu.dots import COLS, PANEL, RECORD, ROWS
from workbench.cpu.pool import DimPool
from workbench.cpu.turns import Turns
from workbench.forward import ForwardBatch, Routing
from workbench.model.shape import ModelShape

Words = NDArray[np.int64]
LINE = 64
EMPTY = torch.empty(0)
BUFFERS = np.array([
    f.QKV_OUT, f.ATTENDED, f.HIDDEN, f.NORMED, f.PANEL, f.SMALL, f.OWN_BYTES, f.SCRATCH,
    f.SCRATCH_BYTES, f.ZEROS, f.BARRIER,
])  # fmt: skip


@dataclass(slots=True, eq=False)
class Workspace:
    """Buffers of the step, grown when a batch wants more and kept between steps."""

    grown: int = 0  # how often a buffer has moved
    _buffers: dict[str, tuple[int, int, NDArray[np.uint8]]] = field(default_factory=dict)

    def room(self, name: str, size: int) -> int:
        """Address of a buffer of at least `size` bytes, on a cache line."""
        address, held, _ = self._buffers.get(name, (0, -1, None))
        return address if held >= size else self._grow(name, size)

    def _grow(self, name: str, size: int) -> int:
        held = size + size // 2
        try:
            memory = np.zeros(held + LINE, np.uint8)
        except MemoryError as error:
            raise MemoryError(
                f"the step wants {size >> 20} MiB for {name!r}, which this machine cannot "
                "give; take fewer rows or a smaller chunk"
            ) from error
        start = int(memory.ctypes.data)
        start += -start % LINE
        self._buffers[name] = start, held, memory
        self.grown += 1
        return start


@dataclass(slots=True, eq=False)
class StepPlan:
    """One step's plan. Keeps alive what its addresses point at."""

    words: Words
    run: int  # layers
    logits: Tensor  # [R, V padded to tiles]
    normed: Tensor  # [R + S, M], final norm of the wanted rows; S only where layer -1 is asked for
    hidden: dict[int, Tensor]
    held: list[object]
    routing: list[Routing] = field(default_factory=list)

    @property
    def address(self) -> int:
        return int(self.words.ctypes.data)


def check(batch: ForwardBatch, pool: DimPool, vocabulary: int) -> None:
    """Addresses are made from these numbers, so they must be right. Raises ValueError."""
    layout = pool.layout
    for name, values, limit in (
        ("token_ids", batch.token_ids, vocabulary), ("slots", batch.slots, layout.slots),
        ("block_tables", batch.block_tables, layout.pages),
        ("kv_lens", batch.kv_lens, batch.block_tables.shape[1] * layout.page_size + 1),
    ):  # fmt: skip
        given: Words = values.numpy()
        if given.size and not 0 <= int(given.min()) <= int(given.max()) < limit:
            raise ValueError(
                f"{name}: wanted values of 0 to {limit - 1}, got {int(given.min())} to "
                f"{int(given.max())}"
            )


class Planner:
    """Makes plans for one net over one kind of pool."""

    def __init__(self, shape: ModelShape, static: Words, turns: Turns, threads: int) -> None:
        self.shape, self.turns, self.threads = shape, turns, threads
        self.space = Workspace()
        self._static = static
        self._zeros = np.zeros(ROWS * 4 * 2, np.uint8)
        self._barrier = np.zeros(32, np.int64)
        self._small = 0  # ranks of the step's widest adapter
        self._rooms: dict[tuple[int, ...], Words] = {}  # by sizes: words of the buffers' addresses
        self._constants(256)

    def plan(
        self, batch: ForwardBatch, pool: DimPool, adapters: Mapping[str, NativeAdapter]
    ) -> StepPlan:
        if batch.tokens >= len(self._counting):
            self._constants(2 * batch.tokens)
        words = self._static.copy()
        plan = StepPlan(
            words, self.shape.layers, EMPTY, EMPTY, {}, [batch, pool, self._counting, self._nothing]
        )
        self._pool(words, pool)
        self._tokens(plan, batch)
        self._reads(plan, batch, pool)
        self._adapters(plan, batch, adapters)
        exits = self._events(plan, batch)
        self._outputs(plan, batch, exits)
        self._experts(plan, batch)
        self._room(words, batch.tokens)
        return plan

    def _constants(self, count: int) -> None:
        """What most plans share: 0, 1, 2 …, and as many zeros."""
        count = max(count, self.shape.layers + 1)
        self._counting, self._nothing = np.arange(count + 1), np.zeros(count, np.int64)
        self._counting_at = int(self._counting.ctypes.data)
        self._nothing_at = int(self._nothing.ctypes.data)

    def projection(self, hidden: Tensor, normed: bool) -> StepPlan:
        """A plan of no layers: logits of residual states."""
        words = self._static.copy()
        rows = hidden.float().contiguous()
        plan = StepPlan(words, 0, EMPTY, EMPTY, {}, [rows])
        wanted = rows.data_ptr() + np.arange(len(rows), dtype=np.int64) * self.shape.width * 4
        if normed:
            words[f.FINAL_NORM] = 0
        self._wanted(plan, wanted, len(rows))
        self._room(words, max(1, len(rows)))
        words[f.RUN] = 0
        return plan

    # parts of a plan

    def _pool(self, words: Words, pool: DimPool) -> None:
        at, size = pool.layout, pool.layout.dtype.itemsize
        head = at.head_dim * at.page_size * size
        words[f.K_POOL], words[f.V_POOL] = pool.k.data_ptr(), pool.v.data_ptr()
        words[f.HEAD_BYTES], words[f.PAGE_BYTES] = head, head * at.kv_heads
        words[f.LAYER_BYTES] = head * at.kv_heads * at.pages
        words[f.SLOTS] = at.page_size

    def _room(self, words: Words, tokens: int) -> None:
        """Addresses of the buffers, for the step's sizes."""
        rows = max(tokens, int(words[f.WANTED_ROWS]))
        sizes = (tokens, rows, self._small, self.space.grown)
        found = self._rooms.get(sizes)
        if found is not None:
            words[BUFFERS] = found
            return
        self._measure(words, tokens, rows)
        if self.space.grown != sizes[-1]:  # a buffer has moved: what was kept is of no use
            self._rooms.clear()
        self._rooms[*sizes[:3], self.space.grown] = words[BUFFERS].copy()

    def _measure(self, words: Words, tokens: int, rows: int) -> None:
        s, space = self.shape, self.space
        wide = max(s.width, s.heads * s.head_dim, s.ffn)
        qkv = (s.heads + 2 * s.kv_heads) * s.head_dim
        pairs = tokens * s.moe.k if s.moe else 0
        expert = s.moe.ffn if s.moe else 0
        words[f.QKV_OUT] = space.room("qkv", tokens * qkv * 4)
        words[f.ATTENDED] = space.room("attended", tokens * s.heads * s.head_dim * 4)
        words[f.HIDDEN] = space.room("hidden", max(tokens * s.ffn, pairs * expert) * 4)
        values = max(rows * wide, pairs * max(s.width, expert))
        normed, panel, small = tokens * wide * 4, values // COLS * RECORD, tokens * self._small * 4
        alone = tokens == 1 and s.moe is None
        own = [size + -size % LINE for size in (normed, panel, small)]
        start = space.room("panel", sum(own) * (self.threads if alone else 1))
        words[f.NORMED], words[f.PANEL], words[f.SMALL] = start + np.cumsum([0, *own[:2]])
        words[f.OWN_BYTES] = sum(own) if alone else 0
        turned = together(s.heads // s.kv_heads) * s.head_dim
        scratch = max(2 * PANEL * ROWS, turned, -(-s.experts // ROWS) * ROWS) * 4 + LINE
        scratch += -scratch % LINE
        words[f.SCRATCH] = space.room("scratch", scratch * self.threads)
        words[f.SCRATCH_BYTES] = scratch
        words[f.ZEROS] = self._zeros.ctypes.data
        words[f.BARRIER] = self._barrier.ctypes.data + -self._barrier.ctypes.data % LINE

    def _experts(self, plan: StepPlan, batch: ForwardBatch) -> None:
        """Room for the routers' choices: kept for every layer where they are asked for."""
        moe, words, space = self.shape.moe, plan.words, self.space
        if moe is None:
            return
        pairs = batch.tokens * moe.k
        if batch.routing:
            experts = torch.empty(plan.run, batch.tokens, moe.k, dtype=torch.int64)
            shares = torch.empty(plan.run, batch.tokens, moe.k)
            words[f.CHOSEN], words[f.SHARES] = experts.data_ptr(), shares.data_ptr()
            words[f.ROUTE_STEP] = pairs
            plan.routing = [
                Routing(layer, experts[layer], shares[layer])
                for layer in range(plan.run)
                if self.shape.sparse(layer)
            ]
        else:
            words[f.CHOSEN] = space.room("chosen", pairs * 8)
            words[f.SHARES] = space.room("shares", pairs * 4)
        words[f.STARTS] = space.room("starts", (moe.count + 1) * 8)
        words[f.CURSORS] = space.room("cursors", moe.count * 8)
        words[f.ACTIVE] = space.room("active", (moe.count + 1) * 8)
        words[f.OWNERS] = space.room("owners", pairs * 8)
        words[f.PORTIONS] = space.room("portions", pairs * 4)

    def _tokens(self, plan: StepPlan, batch: ForwardBatch) -> None:
        words, tokens = plan.words, batch.tokens
        ids, slots = batch.token_ids.contiguous(), batch.slots.contiguous()
        words[f.VECTOR_OF] = self._nothing_at
        if batch.vectors is not None and batch.vector_rows is not None:
            vectors = np.zeros(tokens, np.int64)
            given = batch.vectors.float().contiguous()
            steps = np.arange(len(given), dtype=np.int64) * self.shape.width * 4
            vectors[batch.vector_rows.numpy()] = given.data_ptr() + steps
            words[f.VECTOR_OF] = vectors.ctypes.data
            plan.held += [given, vectors]
        words[f.TOKENS] = tokens
        words[f.X] = self.space.room("x", tokens * self.shape.width * 4)
        words[f.TOKEN_IDS], words[f.SLOT_OF] = ids.data_ptr(), slots.data_ptr()
        plan.held += [ids, slots]

    def _reads(self, plan: StepPlan, batch: ForwardBatch, pool: DimPool) -> None:
        """Which entries each token reads, and the turns of q and k."""
        words, tokens = plan.words, batch.tokens
        starts, lens = batch.query_start.numpy(), batch.kv_lens.numpy()
        tables, positions = batch.block_tables.contiguous(), batch.positions.numpy()
        count = self._counting[:tokens]
        row_of = count if batch.rows == tokens else np.repeat(count[: batch.rows], np.diff(starts))
        segments = np.empty((tokens, f.SEGMENT_WORDS), np.int64)
        segments[:, f.SEGMENT_TABLE] = tables.data_ptr() + row_of * (tables.shape[1] * 8)
        segments[:, f.SEGMENT_START] = 0
        segments[:, f.SEGMENT_STOP] = lens[row_of] - (starts[row_of + 1] - 1 - count)
        if batch.ancestors is not None:
            trees = np.empty((tokens, f.TREE_WORDS), np.int64)
            trees[:, f.TREE_BITS] = batch.ancestors.numpy()
            trees[:, f.TREE_BEFORE] = (lens - np.diff(starts))[row_of]
            words[f.TREES] = trees.ctypes.data
            plan.held.append(trees)
        longest, words[f.SEGMENT_OF] = int(lens.max(initial=0)), self._counting_at
        if any(batch.attached):
            segments, bounds, shifts, longest = self._attached(plan, batch, segments, row_of)
            words[f.SEGMENT_OF] = bounds.ctypes.data
            read_at = np.repeat(positions, np.diff(bounds)) - shifts
            cos, sin = self.turns.addresses(np.concatenate([positions, read_at]))
            segments[:, f.SEGMENT_COS], segments[:, f.SEGMENT_SIN] = cos[tokens:], sin[tokens:]
            plan.held.append(bounds)
        else:
            cos, sin = self.turns.addresses(positions)
            segments[:, f.SEGMENT_COS], segments[:, f.SEGMENT_SIN] = cos, sin
        words[f.COS_OF], words[f.SIN_OF] = cos.ctypes.data, sin.ctypes.data
        words[f.SEGMENTS] = segments.ctypes.data
        stride = -(-longest * 4 // LINE) * LINE + LINE
        words[f.SCORE_STRIDE] = stride
        most = together(self.shape.heads // self.shape.kv_heads)
        words[f.SCORES] = self.space.room("scores", stride * most * self.threads)
        plan.held += [tables, segments, cos, sin]

    def _attached(
        self, plan: StepPlan, batch: ForwardBatch, own: Words, row_of: Words
    ) -> tuple[Words, Words, Words, int]:
        """Each token's own entries first, then the row's segments in order."""
        others: list[Words] = []
        shifts: list[list[int]] = []
        for row in batch.attached:
            pages = [np.array(s.pages, np.int64) for s in row]
            plan.held += pages
            lines = [
                (p.ctypes.data, s.start, s.stop, 0, 0) for p, s in zip(pages, row, strict=True)
            ]
            others.append(np.array(lines, np.int64).reshape(-1, f.SEGMENT_WORDS))
            shifts.append([0, *(s.shift for s in row)])
        parts = [part for t, row in enumerate(row_of) for part in (own[t : t + 1], others[row])]
        segments = np.concatenate(parts)
        counts = [len(shifts[row]) for row in row_of]
        sizes = segments[:, f.SEGMENT_STOP] - segments[:, f.SEGMENT_START]
        bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        totals = np.add.reduceat(sizes, bounds[:-1])
        flat = np.array([shift for row in row_of for shift in shifts[row]], np.int64)
        return segments, bounds, flat, int(totals.max())

    def _adapters(
        self, plan: StepPlan, batch: ForwardBatch, adapters: Mapping[str, NativeAdapter]
    ) -> None:
        words, tokens = plan.words, batch.tokens
        self._small = 0
        words[f.ADAPTER_OF] = words[f.ADAPTER_SCALE] = self._nothing_at
        if all(row.adapter is None for row in batch.overrides):
            return
        of, scale = np.zeros(tokens, np.int64), np.zeros(tokens, np.float32)
        rank = 0
        starts = batch.query_start.tolist()
        for row, override in enumerate(batch.overrides):
            if override.adapter is not None and override.scale != 0.0:
                adapter = adapters[override.adapter]
                of[starts[row] : starts[row + 1]] = adapter.address
                scale[starts[row] : starts[row + 1]] = override.scale
                rank = max(rank, adapter.rank)
        words[f.ADAPTED] = int(rank > 0)
        words[f.ADAPTER_OF], words[f.ADAPTER_SCALE] = of.ctypes.data, scale.ctypes.data
        words[f.SMALL_BYTES] = rank * 4
        self._small = rank
        plan.held += [of, scale]

    def _events(self, plan: StepPlan, batch: ForwardBatch) -> dict[int, int]:
        """Steering, early exits and hidden states; returns where exiting tokens' rows are kept."""
        shape = self.shape
        exits: dict[int, int] = {}
        events: list[tuple[int, int, int, int]] = []  # layer, kind, token, address
        starts = batch.query_start.tolist()
        for row, override in enumerate(batch.overrides):
            span = range(starts[row], starts[row + 1])
            for steer in override.steering:
                vector = steer.vector.float().contiguous()
                plan.held.append(vector)
                events += [(steer.layer, f.ADD, t, vector.data_ptr()) for t in span]
            if override.exit_layer is not None and override.exit_layer < shape.layers:
                exits |= dict.fromkeys(span, override.exit_layer)
        if len(exits) == batch.tokens and exits:
            plan.run = max(exits.values())
        base = self.space.room("exits", len(exits) * shape.width * 4)
        places = {t: base + n * shape.width * 4 for n, t in enumerate(exits)}
        hidden = batch.hidden_rows.tolist()
        for layer in batch.hidden_layers:
            if 0 <= layer < plan.run:
                kept = plan.hidden[layer] = torch.empty(len(hidden), shape.width)
                events += [
                    (layer, f.KEEP, t, kept.data_ptr() + n * shape.width * 4)
                    for n, t in enumerate(hidden)
                ]
        events += [(exits[t] - 1, f.KEEP, t, place) for t, place in places.items()]
        plan.words[f.RUN], plan.words[f.EVENT_OF] = plan.run, self._nothing_at
        if events:
            self._put_events(plan, events)
        return places

    def _put_events(self, plan: StepPlan, events: list[tuple[int, int, int, int]]) -> None:
        events.sort(key=lambda event: event[0])  # stable: vectors are added before rows are kept
        table = np.array([event[1:] for event in events], np.int64).reshape(-1, f.EVENT_WORDS)
        layers = [event[0] for event in events]
        bounds = np.searchsorted(layers, np.arange(self.shape.layers + 1)).astype(np.int64)
        plan.words[f.EVENTS], plan.words[f.EVENT_OF] = table.ctypes.data, bounds.ctypes.data
        plan.held += [table, bounds]

    def _outputs(self, plan: StepPlan, batch: ForwardBatch, exits: dict[int, int]) -> None:
        rows = batch.logit_rows
        wanted = torch.cat([rows, batch.hidden_rows]) if -1 in batch.hidden_layers else rows
        start, step = int(plan.words[f.X]), self.shape.width * 4
        places = np.array([exits.get(t, start + t * step) for t in wanted.tolist()], np.int64)
        self._wanted(plan, places, len(rows))

    def _wanted(self, plan: StepPlan, places: Words, logits: int) -> None:
        """Rows at these addresses through the final norm, and the first `logits` through the
        head."""
        words = plan.words
        padded = -(-self.shape.vocabulary // ROWS) * ROWS
        plan.logits = torch.empty(logits, padded)
        plan.normed = torch.empty(len(places), self.shape.width)
        words[f.WANTED_NORMED] = plan.normed.data_ptr()
        words[f.WANTED], words[f.WANTED_ROWS] = places.ctypes.data, len(places)
        words[f.LOGITS], words[f.LOGIT_ROWS] = plan.logits.data_ptr(), logits
        words[f.LOGIT_STRIDE] = padded * 4
        plan.held.append(places)


def _words(values: Tensor) -> Words:
    return np.ascontiguousarray(values.numpy(), np.int64)
