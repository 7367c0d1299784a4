"""A trace: the facts of a run, from a file or from a run that goes on, and the tables made of
them."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from workbench.events import Event, RunEnded, TokensFed
from workbench.trace.build import TableBuilder
from workbench.trace.columns import Delta, Tables
from workbench.trace.files import Scan, read_chunk, scan
from workbench.trace.store import Store

E = TypeVar("E", bound=Event)


class Trace:
    """A recorded run. `Trace.open(path)` reads a file; damaged ones open up to their last whole
    chunk."""

    viewer: ClassVar[Callable[["Trace"], object] | None] = (
        None  # set by the widgets when they are imported
    )

    def __init__(self, path: Path, found: Scan) -> None:
        self.path: Path | None = path
        self.recovered_bytes = found.recovered_bytes
        self.lost_bytes = found.lost_bytes
        self._scan = found
        self._tables: Tables | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Trace":
        """Open a trace file. TraceError where it is none, or its header is damaged."""
        return cls(Path(path), scan(Path(path)))

    def __repr__(self) -> str:
        return f"Trace({str(self.path)!r})"

    def _blocks(self) -> Iterator[bytes]:
        assert self.path is not None
        with self.path.open("rb") as file:
            for place in self._scan.places:
                yield read_chunk(file.fileno(), place)

    def events(self, kind: type[E] = Event) -> Iterator[E]:  # type: ignore[assignment]
        """All facts in their order, or those of one type, as they were emitted."""
        only = None if kind is Event else frozenset((kind.__name__,))
        for block in self._blocks():
            yield from self._scan.codec.decode(block, only)  # type: ignore[misc]

    def counts(self) -> Counter[str]:
        """How many facts of each type there are."""
        tally: Counter[str] = Counter()
        for block in self._blocks():
            tally.update(self._scan.codec.counts(block))
        return tally

    def info(self) -> dict[str, Any]:
        """What `workbench trace info` prints. `recovered_bytes` are readable, `lost_bytes` lie
        behind."""
        counts = self.counts()
        fed = sum(len(e.tokens) for e in self.events(TokensFed))
        return {
            "events": dict(sorted(counts.items())),
            "requests": counts["RequestOpened"],
            "tokens": fed + counts["TokenSampled"],
            "steps": counts["StepEnded"],
            "complete": self.complete,
            "recovered_bytes": self.recovered_bytes,
            "lost_bytes": self.lost_bytes,
        }

    @property
    def complete(self) -> bool:
        """Whether the run came to its own end and all of it is here."""
        ends = list(self.events(RunEnded))
        return bool(ends) and ends[-1].complete and not self.lost_bytes

    def tables(self, at: int | None = None) -> Tables:
        """The tables after step `at`, or as they stand at the end. Not to be changed by the
        caller."""
        if at is not None:
            return TableBuilder().apply(e for e in self.events(Event) if e.step <= at)
        if self._tables is None:
            self._tables = TableBuilder().apply(self.events())
            self._tables.meta["live"] = False
        return self._tables

    def frozen(self) -> Tables:
        """Tables of this moment that nobody changes any more."""
        return self.tables()

    def delta(self, since: int | None) -> Delta:
        """What a view that has seen revision `since` lacks; a finished trace has one revision."""
        with self._lock:
            return self.tables().delta(since)

    def show(self) -> object:
        """The composite view of this trace. Needs `import widgets`."""
        if Trace.viewer is None:
            raise RuntimeError(
                "Trace.show wants the widgets, which are not imported; "
                "`import widgets` first, or export the trace to a page"
            )
        return Trace.viewer(self)


class LiveTrace(Trace):
    """A run that is being recorded. Every method may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self.path = store.file.path if store.file else None
        self.lost_bytes = 0
        self._store = store
        self._builder = TableBuilder()
        self._seen = 0
        self._ended = False
        self._lock = threading.Lock()

    @property
    def recovered_bytes(self) -> int:  # type: ignore[override]
        return self._store.file.size if self._store.file else self._store.memory_bytes

    @property
    def live(self) -> bool:
        return not self._ended

    def __repr__(self) -> str:
        return f"LiveTrace({str(self.path)!r})" if self.path else "LiveTrace(in memory)"

    def events(self, kind: type[E] = Event) -> Iterator[E]:  # type: ignore[assignment]
        if kind is Event:
            yield from self._store.since(0)  # type: ignore[misc]
        else:
            yield from self._store.since(0, kind)  # type: ignore[misc]

    def since(self, n: int) -> list[Event]:
        """All facts from the `n`-th on."""
        return self._store.since(n)

    def counts(self) -> Counter[str]:
        return Counter(type(e).__name__ for e in self._store.since(0))

    def tables(self, at: int | None = None) -> Tables:
        """As of `Trace`. Without `at` the same object each time, brought up to date: while the run
        goes on read it through `delta`, which is one consistent moment."""
        if at is not None:
            return TableBuilder().apply(e for e in self._store.since(0) if e.step <= at)
        with self._lock:
            return self._caught_up()

    def frozen(self) -> Tables:
        return TableBuilder().apply(self._store.since(0))

    def delta(self, since: int | None) -> Delta:
        """What a view that has seen revision `since` lacks now."""
        with self._lock:
            return self._caught_up().delta(since)

    def _caught_up(self) -> Tables:
        news = self._store.since(self._seen)
        self._seen += len(news)
        tables = self._builder.apply(news)
        if self._ended and tables.meta["live"]:
            tables.meta["live"] = False
            tables.touch()
        return tables

    def close(self) -> None:
        """The recorder has ended: nothing more will come."""
        self._ended = True
