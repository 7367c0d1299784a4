"""The pages part of the reducer: a row for each stay of one content on one page."""

from workbench import events as ev
from workbench.trace.columns import Tables
from workbench.trace.streams import UNKNOWN, Stream
from workbench.trace.tables import GOES_ON, NEVER, NOBODY
from workbench.words import FreeReason


class Stays:
    """Keeps `pages` and `refcounts`. Node and fill of a stay follow from its branch's stream, and
    are brought up to date by `settle` at the end of each step."""

    def __init__(self, tables: Tables, streams: dict[int, Stream]) -> None:
        self.page_size = 16
        self._pages = tables["pages"]
        self._tokens = tables["tokens"]
        self._counts = tables["refcounts"]
        self._streams = streams
        self._current: dict[int, int] = {}  # page -> stay
        self._holders: dict[int, dict[int, int]] = {}  # page -> branch -> place
        self._touched: list[Stream] = []

    @property
    def count(self) -> int:
        return self._pages.rows

    def _begin(self, page: int, seq: int | None, place: int, step: int, copied: int = -1) -> int:
        stream = self._streams.get(seq) if seq is not None else None
        stay = self._pages.append(
            page,
            stream.row if stream else NOBODY,
            place,
            NOBODY,
            NOBODY,
            step,
            NEVER,
            0,
            GOES_ON,
            copied,
            0,
        )
        self._current[page] = stay
        return stay

    def _end(self, page: int, step: int, reason: int) -> int | None:
        stay = self._current.pop(page, None)
        if stay is not None:
            self._pages.set("to", stay, step)
            self._pages.set("reason", stay, reason)
        return stay

    def _go_on(self, page: int, step: int, reason: int, seq: int | None) -> int:
        """A new row for a page whose content or owner changed; returns its stay."""
        old = self._end(page, step, reason)
        cell = self._pages.cell
        place = cell("place", old) if old is not None else 0
        if seq is not None and page in self._holders:
            place = self._holders[page].get(seq, place)
        new = self._begin(page, seq, place, step)
        if old is not None:
            for name in ("node", "second", "used", "pinned"):
                self._pages.set(name, new, cell(name, old))
        holders = self._holders.get(page, {})
        for holder, at in holders.items():
            if holder in self._streams:
                self._streams[holder].table[at] = new
                self.touch(self._streams[holder], at * self.page_size)
        self._counts.append(new, step, len(holders))
        return new

    def _take(self, page: int, seq: int, place: int, stay: int) -> None:
        self._holders.setdefault(page, {})[seq] = place
        stream = self._streams.get(seq)
        if stream:
            stream.table[place] = stay
            self.touch(stream, place * self.page_size)

    # ---- facts ----

    def on_PageAllocated(self, e: ev.PageAllocated) -> None:
        stay = self._begin(e.page, e.seq, e.place, e.step)
        self._holders[e.page] = {}
        self._take(e.page, e.seq, e.place, stay)
        self._counts.append(stay, e.step, 1)

    def on_PageCopied(self, e: ev.PageCopied) -> None:
        stay = self._current.get(e.page)
        if stay is None:
            self.on_PageAllocated(ev.PageAllocated(e.step, e.page, e.seq, e.place))
            stay = self._current[e.page]
        self._pages.set("copied_from", stay, e.source)

    def on_PageShared(self, e: ev.PageShared) -> None:
        stay = self._current.get(e.page)
        if stay is None:
            stay = self._begin(e.page, e.seq, e.place, e.step)
        self._take(e.page, e.seq, e.place, stay)
        if self._pages.cell("branch", stay) == NOBODY:
            self._go_on(e.page, e.step, GOES_ON, e.seq)
        else:
            self._counts.append(stay, e.step, e.refcount)

    def on_PageReleased(self, e: ev.PageReleased) -> None:
        place = self._holders.get(e.page, {}).pop(e.seq, None)
        stay = self._current.get(e.page)
        stream = self._streams.get(e.seq)
        if stream and place is not None and stream.table.get(place) == stay:
            del stream.table[place]
        if stay is None:
            return
        heirs = self._holders.get(e.page, {})
        for heir, at in heirs.items():
            if heir in self._streams:
                self.touch(self._streams[heir], at * self.page_size)
        if heirs and stream and self._pages.cell("branch", stay) == stream.row:
            self._go_on(e.page, e.step, GOES_ON, min(heirs))
        else:
            self._counts.append(stay, e.step, e.refcount)

    def on_PageCached(self, e: ev.PageCached) -> None:
        if e.page in self._current and not self._holders.get(e.page):
            self._go_on(e.page, e.step, GOES_ON, None)

    def on_PageFreed(self, e: ev.PageFreed) -> None:
        self._end(e.page, e.step, e.reason)
        self._holders.pop(e.page, None)

    def on_PageFilled(self, e: ev.PageFilled) -> None:
        if (stay := self._current.get(e.page)) is not None:
            self._pages.set("used", stay, e.used)

    def on_PagePinned(self, e: ev.PagePinned) -> None:
        if (stay := self._current.get(e.page)) is not None:
            self._pages.set("pinned", stay, int(e.pinned))

    # ---- what follows from the streams ----

    def touch(self, stream: Stream, entry: int) -> None:
        """The page that holds a resident entry, and those behind it, must be looked at."""
        if stream.dirty is None:
            self._touched.append(stream)
            stream.dirty = entry
        elif entry < stream.dirty:
            stream.dirty = entry

    def cut(self, stream: Stream, entry: int) -> None:
        """What lay at a resident entry and behind it has left or moved."""
        self.touch(stream, entry)
        stream.cut = (min(entry, stream.cut[0]) if stream.cut else entry, self.count)

    def settle(self, step: int) -> None:
        """Bring node and fill of the touched pages up to date."""
        touched, self._touched = self._touched, []
        for stream in touched:
            if stream.cut is not None:
                self._split(stream, *stream.cut, step)
                stream.cut = None
            if stream.dirty is not None and stream.live:
                self._refresh(stream, stream.dirty)
            stream.dirty = None

    def _split(self, stream: Stream, entry: int, before: int, step: int) -> None:
        """Pages that were there before a prune and hold something else since get a new row."""
        first = entry // self.page_size
        for place in sorted(p for p in stream.table if p >= first):
            stay = stream.table[place]
            mine = self._pages.cell("branch", stay) == stream.row
            kept = max(0, entry - place * self.page_size)
            if stay < before and mine and self._pages.cell("used", stay) > kept:
                reason = FreeReason.PRUNED if place == first else FreeReason.MOVED
                self._go_on(self._pages.cell("page", stay), step, reason, stream.seq)

    def _refresh(self, stream: Stream, entry: int) -> None:
        size, stored = self.page_size, stream.stored
        place = max(0, min(entry, stored - 1)) // size
        while place * size < stored or place in stream.table:
            stay = stream.table.get(place)
            if stay is not None:
                used = max(0, min(size, stored - place * size))
                if self._pages.cell("branch", stay) == stream.row:
                    first = last = NOBODY
                    if used:
                        first = self._node(stream, place * size)
                        last = self._node(stream, place * size + used - 1)
                    self._pages.set("node", stay, first)
                    self._pages.set("second", stay, NOBODY if last == first else last)
                self._pages.set("used", stay, self._fill(stay, used))
            place += 1

    def _fill(self, stay: int, used: int) -> int:
        """Slots taken on a page: those of the holder that has most on it."""
        holders = self._holders.get(self._pages.cell("page", stay), {})
        if len(holders) > 1:
            for seq, place in holders.items():
                if seq in self._streams:
                    stored = self._streams[seq].stored - place * self.page_size
                    used = max(used, min(self.page_size, stored))
        return used

    def _node(self, stream: Stream, entry: int) -> int:
        row = stream.rowat(stream.resident.index(entry))
        return NOBODY if row == UNKNOWN else self._tokens.cell("node", row)
