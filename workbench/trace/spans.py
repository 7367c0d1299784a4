"""The resident part of a stream: sorted, disjoint spans of stream indexes."""

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]


class Spans:
    """A set of whole numbers kept as [start, stop) spans. *Entry* e is its e-th smallest member."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self.spans: list[Span] = [(a, b) for a, b in spans if a < b]
        self.count = sum(b - a for a, b in self.spans)

    def append(self, start: int, stop: int) -> None:
        """Add [start, stop), which lies behind all members."""
        if self.spans and self.spans[-1][1] == start:
            self.spans[-1] = (self.spans[-1][0], stop)
        else:
            self.spans.append((start, stop))
        self.count += stop - start

    def within(self, start: int, stop: int) -> list[Span]:
        """The members in [start, stop)."""
        first = max(0, bisect_right(self.spans, start, key=lambda s: s[0]) - 1)
        found = []
        for a, b in self.spans[first:]:
            if a >= stop:
                break
            if b > start:
                found.append((max(a, start), min(b, stop)))
        return found

    def remove(self, start: int, stop: int) -> list[Span]:
        """Take the members in [start, stop) out; returns them."""
        found = self.within(start, stop)
        if found:
            kept = []
            for a, b in self.spans:
                if b <= start or a >= stop:
                    kept.append((a, b))
                else:
                    kept += [span for span in ((a, start), (stop, b)) if span[0] < span[1]]
            self.spans = kept
            self.count -= sum(b - a for a, b in found)
        return found

    def entry(self, index: int) -> int:
        """How many members lie below `index`."""
        spans = self.spans
        if spans and spans[-1][0] <= index:  # the usual case: near the end
            a, b = spans[-1]
            return self.count - (b - a) + min(index, b) - a
        return sum(b - a for a, b in self.within(0, index))

    def index(self, entry: int) -> int:
        """The `entry`-th member; IndexError where there is none."""
        if (
            self.spans
            and 0 <= (back := self.count - 1 - entry) < self.spans[-1][1] - self.spans[-1][0]
        ):
            return self.spans[-1][1] - 1 - back
        for a, b in self.spans:
            if entry < b - a:
                return a + entry
            entry -= b - a
        raise IndexError(entry)

    def array(self) -> NDArray[np.int64]:
        parts = [np.arange(a, b) for a, b in self.spans]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)
