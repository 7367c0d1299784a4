"""Who holds which page: integers only.

A page is *free* (nobody refers to it), *held* (one or more branches do) or *cached* (only the
prefix cache keeps it). Every page is in exactly one of the three states; `audit` proves it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any


@dataclass(frozen=True, slots=True)
class Reserved:
    """`pages` are held once each, by whoever asked."""

    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """Nothing was reserved: `by` more pages would have to be free."""

    by: int


@dataclass(frozen=True, slots=True)
class StillHeld:
    refcount: int


@dataclass(frozen=True, slots=True)
class NowCached:
    pass


@dataclass(frozen=True, slots=True)
class NowFree:
    unpinned: bool  # it was pinned, and the pin went with it


Release = StillHeld | NowCached | NowFree


class PageTable:
    """Free list, reference counts, pins and fill of every page of a pool."""

    __slots__ = (
        "_claimed", "_free", "held", "kept", "pages", "peak", "pinned", "refcount", "resident",
        "turns", "used",
    )  # fmt: skip

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.refcount = [0] * pages
        self.kept = bytearray(pages)  # 1: the prefix cache refers to it
        self.used = [0] * pages  # slots taken
        self.pinned: set[int] = set()
        self.held = 0
        self.peak = 0  # most pages ever held at once
        self.resident = 0  # sum of `used` over held pages: tokens in memory, shared ones once
        self.turns = [0] * pages  # how often each has been taken
        self._free = list(range(pages))
        heapify(self._free)
        self._claimed: set[int] = set()  # taken out of turn, though the heap still has them

    @property
    def free(self) -> int:
        return len(self._free) - len(self._claimed)

    @property
    def cached(self) -> int:
        return self.pages - self.held - self.free

    def reserve(self, n: int) -> Reserved | Short:
        """Take `n` free pages, lowest first, each with one reference. All or none."""
        if n > self.free:
            return Short(n - self.free)
        pages = tuple([self._pop() for _ in range(n)])
        for page in pages:
            self._take(page)
        return Reserved(pages)

    def claim(self, page: int) -> bool:
        """Take this very page, with one reference, if it is free."""
        if self.refcount[page] or self.kept[page]:
            return False
        self._claimed.add(page)
        self._take(page)
        return True

    def _take(self, page: int) -> None:
        self.refcount[page] = 1
        self.turns[page] += 1
        self.held += 1
        self.peak = max(self.peak, self.held)

    def _pop(self) -> int:
        while (page := heappop(self._free)) in self._claimed:
            self._claimed.discard(page)
        return page

    def peek(self, n: int) -> list[int]:
        """The pages that `n` reservations would take now, one after the other; as many as there
        are."""
        taken = [self._pop() for _ in range(min(n, self.free))]
        for page in taken:
            heappush(self._free, page)
        return taken

    def share(self, page: int) -> int:
        """One more reference to a held or cached page. Returns the count."""
        count = self.refcount[page]
        assert count or self.kept[page], f"page {page} is free and cannot be shared"
        if not count:
            self.held += 1
            self.peak = max(self.peak, self.held)
            self.resident += self.used[page]
        self.refcount[page] = count + 1
        return count + 1

    def release(self, page: int) -> Release:
        """Give one reference back."""
        count = self.refcount[page] - 1
        assert count >= 0, f"page {page} was released more often than it was taken"
        self.refcount[page] = count
        if count:
            return StillHeld(count)
        self.held -= 1
        self.resident -= self.used[page]
        if self.kept[page]:
            return NowCached()
        return NowFree(self._to_free(page))

    def keep(self, page: int) -> None:
        """The prefix cache refers to a held page from now on."""
        assert self.refcount[page], f"page {page} is not held and cannot enter the prefix cache"
        self.kept[page] = 1

    def forget(self, page: int) -> NowFree | StillHeld:
        """The prefix cache lets go of a page."""
        self.kept[page] = 0
        if self.refcount[page]:
            return StillHeld(self.refcount[page])
        return NowFree(self._to_free(page))

    def fill(self, page: int, used: int) -> None:
        """`used` slots of a held page are taken now."""
        self.resident += used - self.used[page]
        self.used[page] = used

    def pin(self, page: int, pinned: bool) -> None:
        if pinned:
            self.pinned.add(page)
        else:
            self.pinned.discard(page)

    def _to_free(self, page: int) -> bool:
        self.used[page] = 0
        was_pinned = page in self.pinned
        self.pinned.discard(page)
        if page in self._claimed:
            self._claimed.discard(page)
        else:
            heappush(self._free, page)
        return was_pinned

    def audit(self, tables: Mapping[Any, Iterable[int]], kept: Collection[int]) -> str | None:
        """What contradicts itself, as a sentence; None when nothing does.

        `tables` gives each branch's pages, `kept` the pages that the prefix cache refers to.
        """
        owners = Counter(page for table in tables.values() for page in table)
        free = set(self._free)
        if len(free) != len(self._free):
            return f"the free list names {len(self._free) - len(free)} pages twice"
        if not self._claimed <= free:
            return f"pages {sorted(self._claimed - free)} were claimed, but were not free"
        free -= self._claimed
        if {p for p in range(self.pages) if self.kept[p]} != set(kept):
            return "the prefix cache's own pages differ from those marked as kept"
        held = 0
        for page in range(self.pages):
            count = self.refcount[page]
            held += count > 0
            if count != owners[page]:
                who = [seq for seq, table in tables.items() if page in table]
                return f"page {page} counts {count} references, but branches {who} hold it"
            if (page in free) != (count == 0 and not self.kept[page]):
                where = "on" if page in free else "not on"
                return f"page {page} is {where} the free list with {count} references"
            if page in free and page in self.pinned:
                return f"page {page} is free and pinned"
        if held != self.held or self.free + self.held + self.cached != self.pages:
            return f"free {self.free} + held {self.held} + cached {self.cached} is not {self.pages}"
        resident = sum(self.used[p] for p in range(self.pages) if self.refcount[p])
        if resident != self.resident:
            return f"{self.resident} resident tokens are counted, the pages hold {resident}"
        return None
