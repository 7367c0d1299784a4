"""What one step's attention reads, as integer tables for the kernels; made once a step on the CPU.

Rows of few query rows (tokens x heads of a group) become *items* of `paged_attention`; longer ones
become *tiles* of `extend_attention`. A row that reads attached segments, or shares a prefix that is
read once for several rows, has several items; their results are merged afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels_cupy.errors import need
from workbench.forward import ForwardBatch, Segment

Ints = NDArray[np.int32]
TILE = 64  # KV entries of a unit of work; 16 * WARPS of paged_attention.cu
NARROW = 8  # query rows of an item of one row
FAR = 2**31 - 1
WORTH = 16 << 20  # bytes of re-reading that a shared prefix must save


@dataclass(slots=True)
class Items:
    """Work of one launch of paged_attention. Row records: token, first, limit, part, turn, tree
    (the entry from which on its ancestors count; FAR: none), 0, 0.
    """

    items: list[Sequence[int]] = field(default_factory=list)
    rows: list[Sequence[int]] = field(default_factory=list)
    tiles: list[int] = field(default_factory=list)

    def add(self, table: int, rows: Sequence[Sequence[int]], stop: int) -> None:
        """Entries up to `stop` of the table's row, read by `rows` within their own bounds."""
        first = min(r[1] for r in rows)
        low = first // TILE * TILE
        # all rows read these
        inner = (max(r[1] for r in rows), min(min(r[2], r[5]) for r in rows))
        self.items.append((table, low, stop, len(self.rows), len(rows), *inner, 0))
        self.rows += rows
        self.tiles.append(-(-(stop - low) // TILE))


@dataclass(frozen=True, slots=True)
class ItemTables:
    """`Items` on the device: [I, 8], [N, 8] and the tiles' prefix sums [I + 1], all int32."""

    width: int  # query rows an item may have
    items: Tensor
    rows: Tensor
    prefix: Tensor


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Tables of the layers that share a sliding window."""

    tables: Tensor  # int32 [B + segments, W]
    launches: tuple[ItemTables, ...]
    tiles: Tensor | None  # int32 [N, 8] of extend_attention, heaviest first
    shared_tiles: Tensor | None  # int32 [N, 8] of extend_attention_wgmma over shared prefixes
    shared_list: Tensor | None  # int32 [n, 2]: token and part of their rows
    parts: int
    merge_tokens: Tensor | None  # int32 [n] tokens with several parts
    merge_starts: Tensor | None  # int32 [n + 1]
    turns: Tensor | None  # float32 [shifts, D / 2, 2]
    ancestors: Tensor | None  # int32 [T, 2]: low and high halves


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Rows whose results are parts, until each part has its place. Without items: a shared tile."""

    items: Items | None
    table: int
    records: list[list[int]]
    start: int
    stop: int


@dataclass(slots=True)
class _Draft:
    narrow: Items = field(default_factory=Items)
    wide: Items = field(default_factory=Items)
    tiles: list[tuple[int, ...]] = field(default_factory=list)
    shared_tiles: list[tuple[int, ...]] = field(default_factory=list)
    shared_list: list[tuple[int, int]] = field(default_factory=list)
    parts: dict[int, int] = field(default_factory=dict)  # token -> how many results it has
    shifts: dict[int, int] = field(default_factory=dict)  # shift -> row of the turns
    wide_rows: int = 16
    group: int = 1
    extra: list[Sequence[int]] = field(default_factory=list)  # block tables of segments


def draft(
    batch: ForwardBatch,
    window: int | None,
    group: int,
    block: int,
    shared: Sequence["Prefix"] = (),
    wide: int = 16,
    blocks: int = 0,
) -> _Draft:
    """The step's items and tiles. `block` is the query rows of a tile of extend_attention, `wide`
    those of an item of a shared prefix; with `blocks`, shared prefixes become that many tiles
    instead, a KV head.
    """
    d = _Draft(wide_rows=wide, group=group)
    starts, lens = batch.query_start.tolist(), batch.kv_lens.tolist()
    prefix_of = {row: p for p in shared for row in p.rows}
    waiting: list[_Waiting] = []  # items whose rows have parts
    for p in shared:
        records = [_record(starts[r], 0, p.entries) for r in p.rows]
        if blocks:
            _shared_tiles(d, waiting, p, records, block // group, group, blocks)
        else:
            _chunked(waiting, d.wide, p.rows[0], records, p.entries, wide // group)
    for row in range(batch.rows):
        new = starts[row + 1] - starts[row]
        if new == 0:
            continue
        segments = batch.attached[row] if batch.attached else ()
        prefix = prefix_of.get(row)
        limits, tree = _limits(batch, row, window)
        if new * group > NARROW and not segments:
            _tiles(d, row, starts[row], new, limits[0], group, block, tree)
            continue
        records = [
            _record(starts[row] + j, _first(limit, window, prefix), limit, tree=tree)
            for j, limit in enumerate(limits)
        ]
        if segments or prefix is not None:
            _chunked(waiting, d.narrow, row, records, lens[row], NARROW // group)
            for s in segments:
                _segment(d, waiting, batch.rows, s, starts[row], new, NARROW // group)
        else:
            d.narrow.add(row, records, lens[row])
    _number_parts(d, waiting)
    return d


@dataclass(frozen=True, slots=True)
class Prefix:
    """Rows whose block tables begin with the same pages, to be read once for all of them."""

    rows: tuple[int, ...]
    entries: int


def shared_prefixes(
    batch: ForwardBatch, page_size: int, bytes_per_entry: int, worth: int | None = None
) -> list[Prefix]:
    """Groups of one-token rows whose common pages are worth a pass of their own: at least `worth`
    bytes of re-reading are saved (partial results and their merge cost about 3 µs).
    """
    if batch.attached:
        return []
    worth = WORTH if worth is None else worth
    starts, lens = batch.query_start.numpy(), batch.kv_lens.numpy()
    tables = batch.block_tables.numpy()
    by_page: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.diff(starts) == 1).tolist():
        by_page.setdefault(int(tables[row, 0]), []).append(row)
    found = []
    for rows in by_page.values():
        if len(rows) < 2:
            continue
        same = (tables[rows] == tables[rows[0]]).all(0)
        pages = int(same.argmin()) if not same.all() else tables.shape[1]
        # whole tiles only, and at least one entry of each row's own remains
        entries = min(pages * page_size, int(lens[rows].min()) - 1) // TILE * TILE
        if entries * bytes_per_entry * (len(rows) - 1) >= worth:
            found.append(Prefix(tuple(rows), entries))
    return found


@dataclass(frozen=True, slots=True)
class HostPlan:
    """An `AttentionPlan` on the host: its arrays in a fixed order, and what they hold."""

    arrays: tuple[Ints, ...]  # tables; items, rows, prefix a launch; tiles; shared; merges; trees
    widths: tuple[int, ...]  # of the launches
    parts: int = 0
    shifts: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a captured launch bakes in: steps of equal shape differ in the arrays' values
        alone."""
        return (self.widths, self.parts, self.shifts, *(a.shape for a in self.arrays))

    def on(self, tensors: Sequence[Tensor], turns: Any) -> AttentionPlan:
        """The plan over device copies of the arrays. `turns(shifts)` makes the table of turns."""
        given = iter(tensors)
        tables = next(given)
        launches = tuple(ItemTables(w, next(given), next(given), next(given)) for w in self.widths)
        tiles, shared_tiles, shared_list, tokens, starts, ancestors = given
        return AttentionPlan(
            tables,
            launches,
            tiles if len(tiles) else None,
            shared_tiles if len(shared_tiles) else None,
            shared_list if len(shared_tiles) else None,
            self.parts,
            tokens if len(tokens) else None,
            starts if len(tokens) else None,
            turns([-s for s in self.shifts]) if self.shifts else None,
            ancestors if len(ancestors) else None,
        )


def on_host(d: _Draft, batch: ForwardBatch, width: int = 1) -> HostPlan:
    """The draft as arrays. `width`: pages that the block tables have room for at least."""
    launches = [(NARROW, d.narrow), (d.wide_rows, d.wide)]
    launches = [(w, i) for w, i in launches if i.items]
    counts = sorted(d.parts.items())
    arrays: list[Ints] = [_tables(batch, d.extra, width)]
    for _, i in launches:
        arrays += [_ints(i.items, 8), _ints(i.rows, 8), np.cumsum([0, *i.tiles], dtype=np.int32)]
    arrays.append(_ints(sorted(d.tiles, key=lambda t: -(t[4] + t[3])), 8))
    arrays += [_ints(d.shared_tiles, 8), _ints(d.shared_list, 2)]
    arrays.append(np.array([t for t, _ in counts], dtype=np.int32))
    arrays.append(np.cumsum([0, *(n for _, n in counts)], dtype=np.int32))
    arrays.append(_halves(batch.ancestors))
    parts = sum(n for _, n in counts)
    return HostPlan(tuple(arrays), tuple(w for w, _ in launches), parts, tuple(d.shifts))


def decodes(
    batch: ForwardBatch, window: int | None, width: int, tokens: int = 0, rows: int = 0
) -> HostPlan:
    """The plan of rows that share and attach nothing, each new token an item of its own, without a
    walk over the rows. Filled up to `tokens`, which read the first row's first entry, and `rows`.
    """
    starts, lens = batch.query_start.numpy(), batch.kv_lens.numpy()
    new, used = np.diff(starts), int(starts[-1])
    count = max(tokens, used)
    owners, limits = np.zeros(count, dtype=np.int64), np.ones(count, dtype=np.int64)
    owners[:used] = np.repeat(np.arange(len(lens)), new)
    limits[:used] = np.repeat(lens - starts[1:], new) + np.arange(1, used + 1)
    firsts = np.zeros_like(limits) if window is None else np.maximum(0, limits - window)
    lows = firsts // TILE * TILE
    items, records = np.zeros((2, count, 8), dtype=np.int32)
    items[:, 0], items[:, 3] = owners, np.arange(count)
    items[:, 1], items[:, 2], items[:, 4] = lows, limits, 1
    items[:, 5] = records[:, 1] = firsts
    items[:, 6] = records[:, 2] = limits
    records[:, 0], records[:, 3:5], records[:, 5] = np.arange(count), -1, FAR
    prefix = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(-(-(limits - lows) // TILE), out=prefix[1:])
    none = (_ints([], 8), _ints([], 8), _ints([], 2))
    empty = (np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int32), _ints([], 2))
    tables = _tables(batch, (), width, rows)
    return HostPlan((tables, items, records, prefix, *none, *empty), (NARROW,))


def upload(arrays: Sequence[Ints], device: torch.device) -> list[Tensor]:
    """The arrays on the device, in one copy."""
    flat = torch.from_numpy(np.concatenate([a.ravel() for a in arrays])).to(device)
    return split(flat, arrays)


def split(flat: Tensor, arrays: Sequence[Ints]) -> list[Tensor]:
    """Views of int32 `flat`, shaped like the arrays, one after the other."""
    parts = flat.split([a.size for a in arrays])
    return [p.view(a.shape) for p, a in zip(parts, arrays, strict=True)]


def _record(token: int, first: int, limit: int, turn: int = -1, tree: int = FAR) -> list[int]:
    return [token, first, limit, -1, turn, tree, 0, 0]


def _limits(batch: ForwardBatch, row: int, window: int | None) -> tuple[list[int], int]:
    """Entries up to which each new token of a row reads, and where its tree of tokens begins (FAR:
    it is none).
    """
    stop, new = int(batch.kv_lens[row]), int(batch.query_start[row + 1] - batch.query_start[row])
    if batch.tree(row) is None:
        return list(range(stop - new + 1, stop + 1)), FAR
    need(window is None, "a token tree on layers without a sliding window", window)
    need(new <= 64, "at most 64 tokens in a tree", new)
    return [stop] * new, stop - new


def _first(limit: int, window: int | None, prefix: Prefix | None) -> int:
    """First entry that a token reads by itself; the prefix is read for it elsewhere."""
    if prefix is not None:
        return prefix.entries
    return 0 if window is None else max(0, limit - window)


def _tiles(
    d: _Draft, row: int, token0: int, new: int, limit0: int, group: int, block: int, tree: int
) -> None:
    for row0 in range(0, new * group, block):
        rows = min(block, new * group - row0)
        d.tiles.append((row, token0, rows, row0, limit0, 0, 0, tree))


def _shared_tiles(
    d: _Draft,
    waiting: list[_Waiting],
    p: Prefix,
    records: list[list[int]],
    tokens: int,
    group: int,
    blocks: int,
) -> None:
    """The prefix cut so that there are about `blocks` tiles, none shorter than 256 entries."""
    row_tiles = -(-len(records) // tokens)
    chunks = max(1, min(blocks // row_tiles, p.entries // 256))
    step = -(-p.entries // (chunks * 128)) * 128
    for start in range(0, p.entries, step):
        for i in range(0, len(records), tokens):
            some = [list(r) for r in records[i : i + tokens]]
            waiting.append(_Waiting(None, p.rows[0], some, start, min(start + step, p.entries)))


def _chunked(
    waiting: list[_Waiting],
    items: Items,
    table: int,
    records: list[list[int]],
    stop: int,
    tokens: int,
) -> None:
    for i in range(0, len(records), tokens):
        some = records[i : i + tokens]
        waiting.append(_Waiting(items, table, some, 0, min(stop, max(r[2] for r in some))))


def _segment(
    d: _Draft,
    waiting: list[_Waiting],
    rows: int,
    s: Segment,
    token0: int,
    new: int,
    tokens: int,
) -> None:
    if s.stop <= s.start:
        return
    turn = d.shifts.setdefault(s.shift, len(d.shifts)) if s.shift else -1
    table = rows + len(d.extra)
    d.extra.append(s.pages)
    records = [_record(token0 + j, s.start, s.stop, turn) for j in range(new)]
    _chunked(waiting, d.narrow, table, records, s.stop, tokens)


def _number_parts(d: _Draft, waiting: list[_Waiting]) -> None:
    """Give each result of a token its place: tokens ascending, a token's results together."""
    for w in waiting:
        for r in w.records:
            d.parts[r[0]] = d.parts.get(r[0], 0) + 1
    place, at = {}, 0
    for token, n in sorted(d.parts.items()):
        place[token] = at
        at += n
    for w in waiting:
        for r in w.records:
            r[3] = place[r[0]]
            place[r[0]] += 1
        if w.items is not None:
            w.items.add(w.table, w.records, w.stop)
        else:
            rows = len(w.records) * d.group
            d.shared_tiles.append((w.table, len(d.shared_list), rows, 0, 0, w.start, w.stop, FAR))
            d.shared_list += [(r[0], r[3]) for r in w.records]


def _ints(rows: Sequence[Sequence[int]], width: int) -> Ints:
    return np.array(rows, dtype=np.int32).reshape(-1, width)


def _halves(ancestors: Tensor | None) -> Ints:
    """int64 [T] as int32 [T, 2], low half first."""
    if ancestors is None:
        return _ints([], 2)
    return np.ascontiguousarray(ancestors.numpy()).view(np.int32).reshape(-1, 2)


def _tables(batch: ForwardBatch, extra: Sequence[Sequence[int]], width: int, rows: int = 0) -> Ints:
    own = batch.block_tables.numpy()
    width = max([own.shape[1], width, *(len(pages) for pages in extra)])
    tables = np.zeros((max(own.shape[0] + len(extra), rows), width), dtype=np.int32)
    tables[: own.shape[0], : own.shape[1]] = own
    for row, pages in enumerate(extra, own.shape[0]):
        tables[row, : len(pages)] = pages
    return tables
