"""What the reducer knows of a branch: its stream as rows of `tokens`, and what of it is in
memory."""

from array import array
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from workbench.trace.spans import Span, Spans

Rows = NDArray[np.int64]
UNKNOWN = 0xFFFFFFFF  # row of a stream index that no fact told of


@dataclass(slots=True, eq=False)
class Stream:
    """A branch. Stream indexes below `at` are the parent's, unless encoded again for this
    branch."""

    seq: int
    row: int  # of `branches`
    parent: "Stream | None"
    at: int
    resident: Spans
    node: int  # row of the innermost open node, or NOBODY
    fielded: bool = False  # its text has fields, so that what lies between them is structure
    own: "array[int]" = field(default_factory=lambda: array("I"))  # rows of indexes at, at + 1, …
    redone: dict[int, int] = field(default_factory=dict)  # index below `at` -> row
    cuts: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # (fact number, start, stop) pruned
    gone: list[Rows] = field(default_factory=list)  # stream indexes that a prune took out of memory
    table: dict[int, int] = field(default_factory=dict)  # place -> stay
    dirty: int | None = None  # lowest resident entry whose page must be looked at
    cut: tuple[int, int] | None = (
        None  # (lowest entry, first stay number) behind a prune, until settled
    )
    sampled_last: bool = False  # its last token was sampled: no K and V yet
    live: bool = True

    @property
    def length(self) -> int:
        return self.at + len(self.own)

    @property
    def stored(self) -> int:
        """Resident entries whose K and V exist, as far as the facts tell."""
        return self.resident.count - self.sampled_last

    def rowat(self, index: int) -> int:
        """The row of a stream index, or UNKNOWN."""
        stream = self
        while index < stream.at:
            if index in stream.redone:
                return stream.redone[index]
            if stream.parent is None:
                return UNKNOWN
            stream = stream.parent
        place = index - stream.at
        return stream.own[place] if place < len(stream.own) else UNKNOWN

    def rows(self, start: int, stop: int) -> Rows:
        """Rows of stream indexes [start, stop), those that facts told of."""
        out: Rows = np.empty(0, np.int64)
        if start >= stop:
            return out
        if start < self.at and self.parent:
            out = self.parent.rows(start, min(stop, self.at))
            if self.redone:
                out = np.array([self.rowat(i) for i in range(start, min(stop, self.at))], np.int64)
        mine = self.own[max(0, start - self.at) : max(0, stop - self.at)]
        out = np.concatenate([out, np.array(mine, np.int64)])
        known: Rows = out[out != UNKNOWN]
        return known

    def rows_of(self, spans: list[Span]) -> Rows:
        parts = [self.rows(a, b) for a, b in spans]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def copy(self) -> "Stream":
        """The same stream, for forks to read when this one is edited."""
        return replace(self, own=array("I", self.own), redone=dict(self.redone))

    def truncate(self, index: int) -> None:
        """Forget the stream from `index` on. Residency is the caller's business."""
        if index < self.at:
            self.at = index
            del self.own[:]
            self.redone = {i: row for i, row in self.redone.items() if i < index}
        else:
            del self.own[index - self.at :]
        self.cuts = [(n, a, min(b, index)) for n, a, b in self.cuts if a < index]
        self.gone = [kept for g in self.gone if len(kept := g[g < index])]

    def memory_at(self, at: int, fact: int) -> Spans:
        """What of the stream below `at` was in memory when fact number `fact` came."""
        spans = Spans([(0, at)])
        for n, start, stop in self.cuts:
            if n < fact:
                spans.remove(start, stop)
        return spans
