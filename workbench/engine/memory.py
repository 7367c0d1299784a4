"""The one place where a branch's entries meet pages: allocate, share, copy on write, cut, move,
swap.

Pages and prefixes are integers (`kv.pages`, `kv.prefix`), contents are the pool's. Every change
is told as an event. Nothing here decides who gives way: room is made before pages are asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from workbench.engine.errors import AuditError
from workbench.engine.sequence import ALL, Branch
from workbench.events import (
    BranchPreempted,
    BranchRestored,
    Event,
    PageAllocated,
    PageCached,
    PageCopied,
    PageFilled,
    PageFreed,
    PagePinned,
    PageReleased,
    PageShared,
)
from workbench.forward import Pool
from workbench.kv.pages import NowCached, NowFree, PageTable, Reserved, StillHeld
from workbench.kv.prefix import Node, PrefixCache
from workbench.words import FreeReason, PageId, SeqId, Step

# What the page held left its branch's text for good: the prefix cache doesn't keep it.
_REWRITTEN = (FreeReason.PRUNED, FreeReason.REENCODED, FreeReason.MOVED)


class Teller(Protocol):
    """Where facts go, and the step that they bear."""

    @property
    def now(self) -> Step: ...
    def tell(self, event: Event, /) -> None: ...


class Memory:
    """Pages of one pool and the branches that hold them."""

    def __init__(self, pool: Pool, teller: Teller) -> None:
        layout = pool.layout
        self.pool = pool
        self.page_size = layout.page_size
        self.pages = PageTable(layout.pages)
        self.prefix = PrefixCache(layout.page_size)
        self.branches: dict[SeqId, Branch] = {}  # live ones
        self.promised: dict[SeqId, int] = {}  # branch -> its next new page, if that is still free
        self._teller = teller

    # ---- room ----

    @property
    def available(self) -> int:
        """Pages that can be had without taking any from a branch."""
        if not self.pages.pinned:
            return self.pages.free + self.prefix.idle
        return self.pages.free + len(self.prefix.victims(self.prefix.idle, self._spared))

    def make_room(self, pages: int) -> bool:
        """Evict idle pages until `pages` are free."""
        for page in self.prefix.victims(pages - self.pages.free, self._spared):
            self.evict(page)
        return self.pages.free >= pages

    def evict(self, page: int) -> None:
        """Throw an idle page without descendants out of the prefix cache."""
        self.prefix.discard(page)
        self._tell_freed(page, self.pages.forget(page), FreeReason.EVICTED)

    def _spared(self, page: int) -> bool:
        return page in self.pages.pinned

    # ---- taking pages ----

    def extra(self, branch: Branch) -> int:
        """Pages that it takes before the first waiting entry is written: to come back from a
        swap, to copy on write."""
        if branch.saved is not None:
            return len(branch.pages)
        first = branch.place(branch.stored, self.page_size) // self.page_size
        return int(first < len(branch.pages) and not self.writable(branch.pages[first]))

    def writable(self, page: int) -> bool:
        """One branch holds it, and no text in the prefix cache goes on behind it."""
        if self.pages.refcount[page] != 1:
            return False
        return not self.pages.kept[page] or self.prefix.leaf(page)

    def match(self, branch: Branch) -> list[Node]:
        """Pages of the prefix cache that hold the next of the entries that wait. Reads only."""
        size, stored, node = self.page_size, branch.stored, branch.chain
        stop = min(branch.pure, branch.length - 1)  # the last one is run for its logits
        found: list[Node] = []
        if not self.continues(branch):
            return found
        while node is not None and stored + size <= stop:
            node = node.children.get(self.key(branch, stored))
            if node is not None:
                found.append(node)
                stored += size
        return found

    def continues(self, branch: Branch) -> bool:
        """All its pages are whole and known to the prefix cache, and the next will be."""
        whole = len(branch.pages) * self.page_size == branch.stored
        known = branch.chain is not None and branch.chain.depth == len(branch.pages)
        return (
            whole and known and branch.split == ALL and branch.saved is None and not branch.island
        )

    def take(self, branch: Branch, found: Sequence[Node]) -> None:
        """Share the pages that `match` found."""
        for node in found:
            self._share(branch, node.page, len(branch.pages))
            branch.chain = node
            branch.stored += self.page_size
        if found:
            branch.encoded = max(branch.encoded, branch.resident[branch.stored - 1] + 1)

    def write(self, branch: Branch, stop: int) -> None:
        """Give `branch` pages of its own for entries [stored, stop). Room must have been made."""
        size = self.page_size
        if branch.saved is not None:
            self.swap_in(branch)
        if stop - branch.stored == 1 and branch.stored % size and branch.split == ALL:
            self.own(branch, branch.stored // size)
            return
        first = branch.place(branch.stored, size) // size
        for place in range(first, branch.pages_for(stop, size)):
            if place >= len(branch.pages):
                self.allocate(branch, place)
            else:
                self.own(branch, place)

    def commit(self, branch: Branch, stop: int) -> None:
        """Entries up to `stop` are stored now."""
        size, start = self.page_size, branch.stored
        if stop - start == 1 and stop % size and branch.split == ALL and branch.island is None:
            branch.stored = stop
            self.pages.fill(branch.pages[start // size], stop % size)
            return
        if branch.island is not None and stop == branch.island[0]:
            stop, branch.island = branch.island[1], None
        branch.stored = stop
        for place in range(branch.place(start, size) // size, branch.pages_for(stop, size)):
            used = self.used(branch, place)
            page = branch.pages[place]
            self.pages.fill(page, used)
            if used == size:
                self._tell_filled(branch, page, used)
                self._cache(branch, place)

    def slots(self, branch: Branch, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Slots of entries [start, stop)."""
        size = self.page_size
        if stop - start == 1:
            place = branch.place(start, size)
            return branch.table[place // size : place // size + 1] * size + place % size
        places = np.arange(start, stop, dtype=np.int64)
        if branch.split != ALL:
            places[places >= branch.split] += branch.pad(size)
        return branch.table[places // size] * size + places % size

    def used(self, branch: Branch, place: int) -> int:
        """Slots of the page at `place` that the branch's stored entries take."""
        size = self.page_size
        stored = branch.island[1] if branch.island else branch.stored
        if branch.split == ALL or place * size < branch.split:
            return max(0, min(size, min(stored, branch.split) - place * size))
        return max(0, min(size, stored + branch.pad(size) - place * size))

    # ---- sharing ----

    def inherit(self, child: Branch, parent: Branch, entries: int) -> None:
        """`child` reads the first `entries` stored entries of `parent` on the parent's own
        pages."""
        size = self.page_size
        child.split = parent.split if entries > parent.split else ALL
        for place in range(parent.pages_for(entries, size)):
            self._share(child, parent.pages[place], place)
        child.stored = entries
        if child.chain is not None and parent.chain is not None and child.net == parent.net:
            child.chain = parent.chain.ancestor(min(parent.chain.depth, entries // size))
        if child.pages:
            self._tell_filled(child, child.pages[-1], self.pages.used[child.pages[-1]])

    def swap_out(self, branch: Branch) -> None:
        """Give the pages up, contents kept outside the pool."""
        branch.saved = self.pool.save(branch.pages)
        pages = list(branch.pages)
        self._tell(BranchPreempted(self._teller.now, branch.seq, "swap", len(pages)))
        self._release(branch, pages, FreeReason.PREEMPTED)

    def forget(self, branch: Branch) -> None:
        """Give the pages up; the entries will be recomputed."""
        self._tell(BranchPreempted(self._teller.now, branch.seq, "recompute", len(branch.pages)))
        self.cut(branch, 0, lambda place: FreeReason.PREEMPTED)

    def swap_in(self, branch: Branch) -> None:
        saved, n = branch.saved, len(branch.pages)
        pages = self._reserve(n)
        branch.saved = None
        for place, page in enumerate(pages):
            branch.put_page(place, page)
            self._tell(PageAllocated(self._teller.now, PageId(page), branch.seq, place))
            self.pages.fill(page, self.used(branch, place))
        self.pool.load(pages, saved)
        branch.chain = None
        self._tell(BranchRestored(self._teller.now, branch.seq, "swap", n))

    # ---- giving pages back ----

    def cut(self, branch: Branch, entries: int, why: Callable[[int], FreeReason]) -> None:
        """Only the first `entries` stored entries stay; pages behind them go back, each for the
        reason that `why` gives for its place."""
        size = self.page_size
        assert branch.saved is None, f"{branch!r} is swapped out"
        keep = branch.pages_for(entries, size)
        gone = branch.pages[keep:]
        reasons = [why(keep + i) for i in range(len(gone))]
        del branch.pages[keep:]
        branch.stored, branch.island = entries, None
        self.shorten_chain(branch, entries // size)
        for page, reason in zip(reversed(gone), reversed(reasons), strict=True):
            self._give_back(branch, page, reason)
        if keep:
            self._recount(branch.pages[-1])
        self._recount_tails(gone)

    def leave(self, branch: Branch, reason: FreeReason) -> None:
        """The branch ends: every page goes back."""
        self.branches.pop(branch.seq, None)
        if branch.saved is None:
            self._release(branch, list(branch.pages), reason)
        branch.saved = branch.chain = branch.island = None
        branch.pages.clear()
        branch.stored = 0

    def _release(self, branch: Branch, pages: Sequence[int], reason: FreeReason) -> None:
        for page in reversed(pages):  # tail first: the prefix cache relies on it
            self._give_back(branch, page, reason)
        self._recount_tails(pages)

    def _give_back(self, branch: Branch, page: int, reason: FreeReason) -> None:
        outcome = self.pages.release(page)
        now = self._teller.now
        left = outcome.refcount if isinstance(outcome, StillHeld) else 0
        self._tell(PageReleased(now, PageId(page), branch.seq, left, reason))
        if isinstance(outcome, NowCached) and reason in _REWRITTEN and self.prefix.leaf(page):
            self.prefix.discard(page)
            self._tell_freed(page, self.pages.forget(page), reason)
        elif isinstance(outcome, NowCached):
            self.prefix.rest(page)
            self._tell(PageCached(now, PageId(page)))
        else:
            self._tell_freed(page, outcome, reason)

    # ---- pages anew ----

    def replace(self, branch: Branch, place: int, *, copy: bool) -> int:
        """A page of its own at `place` instead of one that others may read. Returns the old
        page, whose reference the caller must give back with `drop_page` once its contents were
        moved."""
        old = branch.pages[place]
        (page,) = self._reserve(1)
        if copy:
            self.pool.copy_pages([old], [page])
            self._tell(PageCopied(self._teller.now, PageId(old), PageId(page), branch.seq, place))
        else:
            self._tell(PageAllocated(self._teller.now, PageId(page), branch.seq, place))
        branch.put_page(place, page)
        self.shorten_chain(branch, place)
        return old

    def shorten_chain(self, branch: Branch, pages: int) -> None:
        """Pages from place `pages` on are no longer those that the prefix cache knows."""
        if branch.chain is not None and branch.chain.depth > pages:
            branch.chain = branch.chain.ancestor(pages)

    def withdraw(self, branch: Branch, place: int) -> None:
        """Take the branch's pages from `place` on out of the prefix cache, as far as they are
        its alone: they are about to hold something else."""
        for page in reversed(branch.pages[place:]):
            if self.pages.kept[page] and self.writable(page):
                self.prefix.discard(page)
                self.pages.forget(page)
        self.shorten_chain(branch, place)

    def own(self, branch: Branch, place: int) -> None:
        """See that the page at `place` may be written: out of the prefix cache, or copied."""
        page = branch.pages[place]
        if not self.writable(page):
            self._copy_on_write(branch, place)
        elif self.pages.kept[page]:
            self.withdraw(branch, place)

    def drop_page(self, branch: Branch, page: int, reason: FreeReason) -> None:
        self._give_back(branch, page, reason)
        self._recount_tails([page])

    def move(self, src: npt.NDArray[np.int64], dst: npt.NDArray[np.int64], shift: int) -> None:
        self.pool.move(torch.from_numpy(src), torch.from_numpy(dst), shift)

    def tell_fill(self, branch: Branch, place: int) -> None:
        """Count and tell how full the page at `place` is now."""
        page = branch.pages[place]
        self._recount(page)
        self._tell_filled(branch, page, self.pages.used[page])

    def _copy_on_write(self, branch: Branch, place: int) -> None:
        used = self.used(branch, place)
        old = self.replace(branch, place, copy=used > 0)
        self.pages.fill(branch.pages[place], used)
        self.drop_page(branch, old, FreeReason.MOVED)

    def allocate(self, branch: Branch, place: int) -> None:
        page = self.promised.pop(branch.seq, None)
        if page is None or not self.pages.claim(page):
            (page,) = self._reserve(1)
        branch.put_page(place, page)
        self._tell(PageAllocated(self._teller.now, PageId(page), branch.seq, place))

    def _reserve(self, n: int) -> tuple[int, ...]:
        self.make_room(n)
        match self.pages.reserve(n):
            case Reserved(pages):
                return pages
            case short:
                raise AssertionError(f"room for {n} pages was not made: {short.by} are missing")

    def _share(self, branch: Branch, page: int, place: int) -> None:
        count = self.pages.share(page)
        self.prefix.wake(page)
        branch.put_page(place, page)
        self._tell(PageShared(self._teller.now, PageId(page), branch.seq, place, count))

    # ---- prefix cache ----

    def key(self, branch: Branch, start: int) -> tuple[int, ...]:
        """Token ids of the page that begins at entry `start`."""
        tokens = branch.tokens
        return tuple([tokens[i] for i in branch.resident[start : start + self.page_size]])

    def _cache(self, branch: Branch, place: int) -> None:
        chain, size = branch.chain, self.page_size
        if chain is None or chain.depth != place or (place + 1) * size > branch.pure:
            return
        if branch.split != ALL:
            return
        page = branch.pages[place]
        node = self.prefix.extend(chain, self.key(branch, place * size), page)
        if node is not None:
            self.pages.keep(page)
            branch.chain = node

    # ---- counting and telling ----

    def _recount_tails(self, pages: Iterable[int]) -> None:
        """Pages of `pages` that others still hold may be less full now that their writer has
        left."""
        if self.page_size > 1:
            left = {page for page in pages if self.pages.refcount[page]}
            for branch in self.branches.values() if left else ():
                for page in left.intersection(self._tails(branch)):
                    self._recount(page)

    def _recount(self, page: int) -> None:
        """Slots taken on a held page: all of them when any holder goes on behind it."""
        fills = [
            self.used(branch, place)
            for branch in self.branches.values()
            for place in self._tail_places(branch)
            if branch.pages[place] == page
        ]
        whole = len(fills) < self.pages.refcount[page] or self.pages.kept[page]
        self.pages.fill(page, self.page_size if whole else max(fills))

    def _tail_places(self, branch: Branch) -> list[int]:
        """Places of the branch's pages that may be partly filled."""
        if not branch.pages or branch.saved is not None:
            return []
        size = self.page_size
        stored = branch.island[1] if branch.island else branch.stored
        places = list(range(max(0, branch.pages_for(stored, size) - 1), len(branch.pages)))
        if branch.split != ALL and stored > branch.split > 0 and branch.split % size:
            places.append(branch.split // size)
        return sorted(set(places))

    def _tails(self, branch: Branch) -> list[int]:
        return [branch.pages[place] for place in self._tail_places(branch)]

    def _tell(self, event: Event) -> None:
        self._teller.tell(event)

    def _tell_filled(self, branch: Branch, page: int, used: int) -> None:
        self._teller.tell(PageFilled(self._teller.now, PageId(page), branch.seq, used))

    def _tell_freed(self, page: int, outcome: NowFree | StillHeld, reason: FreeReason) -> None:
        if isinstance(outcome, NowFree):
            now = self._teller.now
            if outcome.unpinned:
                self._tell(PagePinned(now, PageId(page), False))
            self._tell(PageFreed(now, PageId(page), reason))

    def audit(self) -> None:
        """Raise AuditError with a sentence when pages, prefix cache and branches disagree."""
        tables = {b.seq: b.pages for b in self.branches.values() if b.saved is None}
        fault = self.pages.audit(tables, self.prefix.pages)
        if fault:
            raise AuditError(fault)
        size = self.page_size
        for branch in self.branches.values():
            if branch.stored > branch.length:
                raise AuditError(f"{branch!r} has more entries stored than resident")
            if len(branch.pages) < branch.pages_for(branch.stored, size):
                raise AuditError(f"{branch!r} has too few pages for what is stored")
            if list(branch.table[: len(branch.pages)]) != branch.pages:
                raise AuditError(f"{branch!r}: its block table differs from its pages")
            if branch.saved is None and len(set(branch.pages)) != len(branch.pages):
                raise AuditError(f"{branch!r} holds a page twice")
