"""What one step reads, worked out once and shared by all layers: slots, masks, turns.

A *read* is a set of the step's tokens with the KV entries that they see. Rows with one new token
are read together, padded; a row with more tokens is a read of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.forward import ForwardBatch, Segment

from .contract import Rotary

# Rows of one token share a read while padding stays below this many entries or a third of the read.
PADDING = 256
BLOCK = 128  # queries that are multiplied at a time in long prompts


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """`tokens` is a slice of the packed tokens, or their indexes [b] when each is its own row."""

    tokens: slice | Tensor
    rows: int  # b
    queries: int  # new tokens a row; more than one only where b is 1
    entries: int  # n, KV entries a row
    slots: Tensor  # [b * n]; padding repeats an entry that the row may read
    mask: Tensor | None  # [b, 1, queries, n], 0 or -inf; None: all (or causal)
    causal: bool  # without mask: query j sees entries [0, entries - queries + j]
    turn: tuple[Tensor, Tensor] | None  # cos, sin [b * n, 1, D] of attached entries


def turning(angles: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and signed sin [n, 1, D] of angles [n, D / 2]: x * cos + roll(x, D / 2) * sin turns x."""
    cos, sin = angles.cos() * scale, angles.sin() * scale
    return torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]


class StepPlan:
    """The plan of `CpuOps`; reads are made per sliding window on first use."""

    def __init__(self, batch: ForwardBatch, pool: Any, rotary: Rotary) -> None:
        self.pool = pool
        self.batch = batch
        self.device = pool.device
        self.dtype: torch.dtype = pool.layout.dtype
        self.rotary = rotary
        angles = batch.positions.float()[:, None] * rotary.inv_freq.float().cpu()
        cos, sin = turning(angles, rotary.scale)
        self.cos, self.sin = self._put(cos, self.dtype), self._put(sin, self.dtype)  # [T, 1, D]
        self.slots = batch.slots.to(self.device)
        self._starts: list[int] = batch.query_start.tolist()
        self._lens: list[int] = batch.kv_lens.tolist()
        self._reads: dict[int | None, list[Read]] = {}

    def reads(self, window: int | None) -> list[Read]:
        """Reads that cover the step's tokens, for layers with this sliding window."""
        if window not in self._reads:
            self._reads[window] = self._make(window)
        return self._reads[window]

    def _make(self, window: int | None) -> list[Read]:
        single, reads = [], []
        for row in range(self.batch.rows):
            new = self._starts[row + 1] - self._starts[row]
            if new == 1:
                single.append(row)
            elif new > 1:
                reads.append(self._many(row, window))
        reads += [self._few(rows, window) for rows in self._groups(single)]
        return reads

    def _groups(self, rows: list[int]) -> list[list[int]]:
        rows = sorted(rows, key=self._size, reverse=True)
        groups: list[list[int]] = []
        padding = 0
        for row in rows:
            longest = self._size(groups[-1][0]) if groups else 0
            padding += longest - self._size(row)
            if not groups or padding > max(PADDING, longest * len(groups[-1]) // 3):
                groups.append([])
                padding = 0
            groups[-1].append(row)
        return [sorted(group) for group in groups]

    def _size(self, row: int) -> int:
        return self._lens[row] + sum(s.stop - s.start for s in self._attached(row))

    def _attached(self, row: int) -> Sequence[Segment]:
        return self.batch.attached[row] if self.batch.attached else ()

    def _entries(self, table: Tensor, start: int, stop: int) -> Tensor:
        """Slots of entries [start, stop) of a block table [W]."""
        size = self.pool.layout.page_size
        first = start // size
        pages = table[first : -(-stop // size)]
        slots = (pages[:, None] * size + torch.arange(size)).reshape(-1)
        wanted: Tensor = slots[start - first * size : stop - first * size]
        return wanted

    def _row_slots(self, row: int, start: int) -> tuple[Tensor, list[tuple[int, int]]]:
        """Slots that a row reads, attached first, and (entries, shift) of each attached segment."""
        own = self._entries(self.batch.block_tables[row], start, self._lens[row])
        segments = self._attached(row)
        if not segments:
            return own, []
        parts = [self._entries(torch.tensor(s.pages), s.start, s.stop) for s in segments]
        return torch.cat([*parts, own]), [(s.stop - s.start, s.shift) for s in segments]

    def _few(self, rows: list[int], window: int | None) -> Read:
        """One new token a row."""
        lists, turns = [], []
        for row in rows:
            start = 0 if window is None else max(0, self._lens[row] - window)
            slots, shifts = self._row_slots(row, start)
            lists.append(slots)
            turns.append(shifts)
        sizes = [len(slots) for slots in lists]
        n = max(sizes)
        mask = None
        if min(sizes) < n:
            lists = [torch.cat([s, s[-1:].expand(n - len(s))]) for s in lists]
            seen = torch.arange(n) < torch.tensor(sizes)[:, None]
            mask = self._mask(seen[:, None, None])
        first = self._starts[rows[0]]
        tokens: slice | Tensor = slice(first, first + len(rows))
        if self._starts[rows[-1]] != first + len(rows) - 1:  # others' tokens lie between
            tokens = torch.tensor([self._starts[row] for row in rows]).to(self.device)
        slots = lists[0] if len(lists) == 1 else torch.cat(lists)
        return Read(
            tokens, len(rows), 1, n, slots.to(self.device), mask, False, self._turn(turns, n)
        )

    def _many(self, row: int, window: int | None) -> Read:
        """Several new tokens of one row, causal among themselves."""
        first, last = self._starts[row], self._starts[row + 1]
        new, length = last - first, self._lens[row]
        before = length - new
        start = 0 if window is None else max(0, before - window + 1)
        slots, shifts = self._row_slots(row, start)
        n, attached = len(slots), len(slots) - (length - start)
        narrow = window is not None and length - start > window
        tree = self.batch.tree(row)
        plain = not attached and not narrow and tree is None
        causal = plain and (before == 0 or self._in_blocks(new))
        mask = None
        if not causal:
            mine = torch.arange(before, length)[:, None]  # entry of each new token
            entry = torch.arange(start, length)
            seen = entry <= mine
            if window is not None:
                seen &= entry > mine - window
            if tree is not None:
                seen = entry < before
                seen = seen | (tree[:, None] >> (entry - before).clamp_min(0) & 1).bool()
            seen = torch.cat([torch.ones(new, attached, dtype=torch.bool), seen], 1)
            mask = self._mask(seen[None, None])
        return Read(
            slice(first, last), 1, new, n, slots.to(self.device), mask, causal,
            self._turn([shifts], n),
        )  # fmt: skip

    def _in_blocks(self, queries: int) -> bool:
        return queries >= BLOCK and self.device.type == "cpu"

    def _mask(self, seen: Tensor) -> Tensor:
        zero = torch.zeros(seen.shape, dtype=self.dtype)
        return zero.masked_fill_(~seen, -torch.inf).to(self.device)

    def _turn(self, turns: list[list[tuple[int, int]]], n: int) -> tuple[Tensor, Tensor] | None:
        if not any(shift for shifts in turns for _, shift in shifts):
            return None
        shift = torch.zeros(len(turns), n, dtype=torch.float64)
        for row, shifts in enumerate(turns):
            at = 0
            for entries, by in shifts:
                shift[row, at : at + entries] = by
                at += entries
        cos, sin = turning(shift.view(-1, 1) * self.rotary.inv_freq.double().cpu())
        return self._put(cos, torch.float32), self._put(sin, torch.float32)

    def _put(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(self.device, dtype)
