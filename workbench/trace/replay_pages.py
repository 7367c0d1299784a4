"""The audit's part about pages: conservation, references, and what lies on them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench import events as ev

if TYPE_CHECKING:
    from workbench.trace.replay import StreamAudit


class PageAudit:
    """Free, held or cached: each page is in one state, and the told counts are the counted ones."""

    def __init__(self, say: Callable[[str], None], streams: "StreamAudit") -> None:
        self.say = say
        self._streams = streams
        self._pages = self._size = 0
        self._holders: dict[int, dict[int, int]] = {}  # page -> branch -> place; no entry: free
        self._cached: set[int] = set()
        self._full: set[int] = set()  # pages that were full once: the prefix cache may keep them so

    def on_RunStarted(self, e: ev.RunStarted) -> None:
        self._pages, self._size = e.pages, e.page_size

    def on_PageAllocated(self, e: ev.PageAllocated) -> None:
        if e.page in self._holders:
            self.say(
                f"step {e.step}: page {e.page} is allocated to branch {e.seq} while "
                f"{self._state(e.page)}"
            )
        if not 0 <= e.page < self._pages:
            self.say(f"step {e.step}: page {e.page} is allocated in a pool of {self._pages}")
        self._holders[e.page] = {e.seq: e.place}
        self._cached.discard(e.page)
        self._full.discard(e.page)

    def _state(self, page: int) -> str:
        holders = sorted(self._holders[page])
        return f"branches {holders} hold it" if holders else "the prefix cache keeps it"

    def on_PageCopied(self, e: ev.PageCopied) -> None:
        if e.source not in self._holders:
            self.say(f"step {e.step}: page {e.page} is copied from page {e.source}, which is free")
        if self._holders.get(e.page) != {e.seq: e.place}:
            self.on_PageAllocated(ev.PageAllocated(e.step, e.page, e.seq, e.place))

    def on_PageShared(self, e: ev.PageShared) -> None:
        if e.page not in self._holders:
            self.say(f"step {e.step}: branch {e.seq} shares page {e.page}, which is free")
        holders = self._holders.setdefault(e.page, {})
        holders[e.seq] = e.place
        self._cached.discard(e.page)
        self._count(e.step, e.page, e.refcount)

    def _count(self, step: int, page: int, told: int) -> None:
        counted = len(self._holders.get(page, ()))
        if counted != told:
            self.say(
                f"step {step}: page {page} is told to have {told} references, {counted} branches "
                "hold it"
            )

    def on_PageReleased(self, e: ev.PageReleased) -> None:
        holders = self._holders.get(e.page, {})
        if e.seq not in holders:
            self.say(f"step {e.step}: branch {e.seq} gives page {e.page} back without holding it")
        holders.pop(e.seq, None)
        self._count(e.step, e.page, e.refcount)

    def on_PageCached(self, e: ev.PageCached) -> None:
        if self._holders.get(e.page) != {}:
            self.say(
                f"step {e.step}: page {e.page} is told to be cached only, but it is "
                f"{'held' if e.page in self._holders else 'free'}"
            )
        self._cached.add(e.page)

    def on_PageFreed(self, e: ev.PageFreed) -> None:
        if e.page not in self._holders:
            self.say(f"step {e.step}: page {e.page} is freed while it is free")
        elif self._holders[e.page]:
            self.say(f"step {e.step}: page {e.page} is freed while {self._state(e.page)}")
        self._holders.pop(e.page, None)
        self._cached.discard(e.page)

    def on_PageFilled(self, e: ev.PageFilled) -> None:
        if e.seq not in self._holders.get(e.page, {}):
            self.say(f"step {e.step}: branch {e.seq} fills page {e.page} without holding it")
        if e.used == self._size:
            self._full.add(e.page)
        if not 0 <= e.used <= self._size:
            self.say(f"step {e.step}: page {e.page} of {self._size} slots has {e.used} taken")

    def on_StepEnded(self, e: ev.StepEnded) -> None:
        held = sum(1 for holders in self._holders.values() if holders)
        if held != e.pages_held:
            self.say(f"step {e.step}: {e.pages_held} pages are told to be held, {held} are")
        tables: dict[int, dict[int, int]] = {}
        for page, holders in self._holders.items():
            if not holders and page not in self._cached:
                self.say(f"step {e.step}: page {page} is neither held nor cached nor free")
                self._cached.add(page)
            for seq, place in holders.items():
                if place in tables.setdefault(seq, {}):
                    self.say(f"step {e.step}: branch {seq} has two pages at place {place}")
                tables[seq][place] = page
        self._tables(e, tables)

    def _tables(self, e: ev.StepEnded, tables: dict[int, dict[int, int]]) -> None:
        most = {
            page: self._size if page in self._full else 0
            for t in tables.values()
            for page in t.values()
        }
        for seq, table in tables.items():
            branch = self._streams.branches.get(seq)
            if branch is None or not branch.live:
                self.say(
                    f"step {e.step}: branch {seq} holds pages {sorted(table.values())} though it"
                    " does not live"
                )
                continue
            if sorted(table) != list(range(len(table))):
                self.say(f"step {e.step}: the block table of branch {seq} has a hole")
            for place, page in table.items():
                taken = min(self._size, max(0, len(branch.resident) - place * self._size))
                if place >= len(table) - 2:  # entries may begin on a page of their own (attach)
                    taken = self._size
                most[page] = max(most[page], taken)
        if e.resident > sum(most.values()):
            self.say(
                f"step {e.step}: {e.resident} tokens are told to be in memory, the pages hold at"
                f" most {sum(most.values())}"
            )
        for seq, branch in self._streams.branches.items():
            room = len(tables.get(seq, {})) * self._size
            # without any page it was sampled from logits kept from before
            if branch.live and not branch.away and 0 < room < branch.computed:
                self.say(
                    f"step {e.step}: branch {seq} has {branch.computed} tokens in memory and pages"
                    f" for {room}"
                )
            branch.computed = 0

    def end(self) -> None:
        if self._streams.complete:
            for page, holders in sorted(self._holders.items()):
                if holders:
                    self.say(
                        f"the run is complete, but page {page} is still held by branches "
                        f"{sorted(holders)}"
                    )
