"""Packs a plan's runs into one ForwardBatch, in the order of the plan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workbench.engine.jobs import Advance, Draft, Generate
from workbench.engine.memory import Memory
from workbench.engine.sequence import ALL, Branch
from workbench.forward import PLAIN, ForwardBatch, Segment
from workbench.words import SeqId

I64 = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Row:
    """Entries [start, stop) of a branch, run in this step, and what is wanted of them."""

    branch: Branch
    start: int
    stop: int
    logits: tuple[int, int] = (0, 0)  # rows of the output's logits that are this branch's
    hidden: tuple[int, int] = (0, 0)
    scored: int = 0  # of the logit rows, the leading ones that score the fed token behind them
    draft: Draft | None = None  # run behind the last entry

    @property
    def drafted(self) -> list[int]:
        return self.draft.tokens if self.draft is not None else []

    @property
    def last(self) -> bool:
        """The run reaches the end of what is resident."""
        return self.stop == self.branch.length


@dataclass(slots=True, eq=False)
class Packed:
    rows: list[Row]
    batch: ForwardBatch


def pack(rows: Sequence[Row], memory: Memory, routing: bool) -> Packed:
    """Pages of every row must be in place (`Memory.write`)."""
    if len(rows) > 1 and all(map(_decodes, rows)):
        return _pack_decodes(rows, memory, routing)
    ids: list[int] = []
    positions: list[int] = []
    starts: list[int] = [0]
    logit_rows: list[int] = []
    hidden_rows: list[int] = []
    layers: set[int] = set()
    vectors: list[Tensor] = []
    vector_rows: list[int] = []
    kv_lens: list[int] = []
    slots: list[I64] = []
    plain = True
    attached = False
    for row in rows:
        branch, start, stop = row.branch, row.start, row.stop
        base = len(ids) - start
        ids.extend([branch.tokens[i] for i in branch.resident[start:stop]])
        positions.extend(
            range(start, stop) if branch.positions is None else branch.positions[start:stop]
        )
        slots.append(memory.slots(branch, start, stop))
        if row.draft is not None:
            past = stop + len(row.drafted)
            ids.extend(row.drafted)
            positions.extend(range(stop, past))
            slots.append(_draft_slots(row, memory.page_size))
        starts.append(len(ids))
        kv_lens.append(stop + len(row.drafted))
        if branch.vectors:
            for entry in range(start, stop):
                vector = branch.vectors.get(branch.resident[entry])
                if vector is not None:
                    vectors.append(vector)
                    vector_rows.append(base + entry)
                    ids[base + entry] = 0
        plain = plain and branch.override is PLAIN
        attached = attached or stop > branch.split
        _ask(row, base, logit_rows, hidden_rows, layers)
    batch = ForwardBatch(
        token_ids=torch.tensor(ids, dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        slots=torch.from_numpy(slots[0] if len(slots) == 1 else np.concatenate(slots)),
        query_start=torch.tensor(starts, dtype=torch.int64),
        kv_lens=torch.tensor(kv_lens, dtype=torch.int64),
        block_tables=_tables(rows, memory.page_size),
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
        hidden_rows=torch.tensor(hidden_rows, dtype=torch.int64),
        hidden_layers=tuple(sorted(layers)),
        routing=routing,
    )
    if not plain:
        batch.overrides = [row.branch.override for row in rows]
    if vectors:
        batch.vectors = torch.stack(vectors)
        batch.vector_rows = torch.tensor(vector_rows, dtype=torch.int64)
    if attached:
        _attach(batch, rows, memory.page_size)
    return Packed(list(rows), batch)


def _decodes(row: Row) -> bool:
    """One entry, the last, at the place of its number; only its logits are wanted."""
    branch, job = row.branch, row.branch.job
    return (
        row.stop - row.start == 1
        and row.draft is None
        and row.stop == len(branch.resident)
        and branch.positions is None
        and branch.split == ALL
        and not branch.vectors
        and isinstance(job, Generate)
        and not job.hidden_layers
    )


def _pack_decodes(rows: Sequence[Row], memory: Memory, routing: bool) -> Packed:
    """`pack` of the usual step, column by column."""
    branches, size = [row.branch for row in rows], memory.page_size
    for place, row in enumerate(rows):
        row.logits = (place, place + 1)
    stored = np.array([row.start for row in rows], dtype=np.int64)
    ids = torch.tensor([branch.tokens[branch.resident[-1]] for branch in branches])
    positions = torch.from_numpy(stored)
    batch = decodes(branches, ids, positions, stored, _tables(rows, size), size, routing)
    return Packed(list(rows), batch)


def decodes(
    branches: Sequence[Branch],
    ids: Tensor,
    positions: Tensor,
    stored: I64,
    tables: Tensor,
    page_size: int,
    routing: bool,
) -> ForwardBatch:
    """A batch of one token a branch, [B] each, behind its `stored` entries; `tables` [B, P]."""
    count = len(branches)
    pages = tables.numpy()[np.arange(count), stored // page_size]
    batch = ForwardBatch(
        token_ids=ids,
        positions=positions,
        slots=torch.from_numpy(pages * page_size + stored % page_size),
        query_start=torch.arange(count + 1),
        kv_lens=torch.from_numpy(stored + 1),
        block_tables=tables,
        logit_rows=torch.arange(count),
        routing=routing,
    )
    if any(branch.override is not PLAIN for branch in branches):
        batch.overrides = [branch.override for branch in branches]
    return batch


def _ask(
    row: Row, base: int, logit_rows: list[int], hidden_rows: list[int], layers: set[int]
) -> None:
    """Which tokens' logits and hidden states are wanted: `base` + entry is a token's packed
    index."""
    branch, job = row.branch, row.branch.job
    if job is None:  # catching up for somebody who reads it
        return
    first = len(logit_rows)
    if isinstance(job, Advance) and job.want.logprobs:
        begin = max(row.start, branch.entry(job.start) - 1)
        end = min(row.stop, branch.length - 1)
        logit_rows.extend(range(base + begin, base + end))
        row.scored = max(0, end - begin)
    if row.last:
        logit_rows.extend(range(base + row.stop - 1, base + row.stop + len(row.drafted)))
    row.logits = (first, len(logit_rows))
    wanted = job.hidden_layers
    if wanted:
        layers.update(wanted)
        first = len(hidden_rows)
        if isinstance(job, Advance):
            begin = max(row.start, min(branch.entry(job.start), branch.length - 1))
            hidden_rows.extend(range(base + begin, base + row.stop))
        elif row.last:
            hidden_rows.append(base + row.stop - 1)
        row.hidden = (first, len(hidden_rows))


def _tables(rows: Sequence[Row], page_size: int) -> Tensor:
    if len(rows) == 1 and rows[0].draft is None:
        branch = rows[0].branch
        return torch.from_numpy(branch.table[None, : len(branch.pages)])
    drafts = any(row.draft is not None for row in rows)
    width = max(len(row.branch.pages) for row in rows) + drafts
    tables = np.zeros((len(rows), width), np.int64)
    for b, row in enumerate(rows):
        n = len(row.branch.pages)
        tables[b, :n] = row.branch.table[:n]
        if row.draft is not None:
            tables[b, n] = max(0, row.draft.page)
    return torch.from_numpy(tables)


def _draft_slots(row: Row, page_size: int) -> I64:
    """Behind the last entry, on the branch's last page and on the one that the draft was given."""
    assert row.draft is not None
    pages = np.array([row.branch.pages[-1], row.draft.page], np.int64)
    places = np.arange(row.stop, row.stop + len(row.drafted), dtype=np.int64)
    return pages[places // page_size - len(row.branch.pages) + 1] * page_size + places % page_size


# ---- attachments ----


def _attach(batch: ForwardBatch, rows: Sequence[Row], page_size: int) -> None:
    """Rows behind a split: their own table holds what lies behind it; what lies before it, and
    what they read of others, become segments. A row's frame is its own stored positions, so that
    its own keys need no shift: others stand just before its first own token, the shared prefix
    before them."""
    stops = {row.branch.seq: row.stop for row in rows}
    tables = batch.block_tables.clone()
    attached: list[list[Segment]] = []
    for b, row in enumerate(rows):
        branch = row.branch
        attached.append(_segments(branch, stops, page_size) if row.stop > branch.split else [])
        if row.stop > branch.split:
            own = branch.pages[branch.pages_for(branch.split, page_size) :]
            tables[b] = 0
            tables[b, : len(own)] = torch.tensor(own, dtype=torch.int64)
            batch.kv_lens[b] = row.stop - branch.split
    batch.attached = attached
    batch.block_tables = tables


def _segments(branch: Branch, stops: dict[SeqId, int], page_size: int) -> list[Segment]:
    reads = [(r.branch, *_extent(r.branch, r.start, stops)) for r in branch.reading]
    shift = -sum(stop - start for _, start, stop in reads)
    segments = []
    if branch.split:
        segments.append(Segment(branch.pages, 0, branch.split, shift))
    own = _position(branch, branch.split)
    for other, start, stop in reads:
        cut = min(
            max(other.split, start), stop
        )  # two pieces where it straddles the other's own split
        turn = own + shift - _position(other, start) if stop > start else 0
        for a, b in ((start, cut), (cut, stop)):
            if b > a:
                pad = other.pad(page_size) if a >= other.split else 0
                segments.append(Segment(other.pages, a + pad, b + pad, turn))
        shift += stop - start
    return segments


def _extent(branch: Branch, start: int, stops: dict[SeqId, int]) -> tuple[int, int]:
    """Entries of `branch` from stream index `start` on that are stored once this step has stored
    its own."""
    first = branch.entry(start)
    return first, max(first, stops.get(branch.seq, branch.stored))


def _position(branch: Branch, entry: int) -> int:
    return entry if branch.positions is None else branch.positions[entry]
