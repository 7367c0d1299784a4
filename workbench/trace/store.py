"""Where recorded events lie: sealed chunks in a file or in memory, and the few not sealed yet.

One thread writes, others read at any time. A sealed chunk never changes; the lock is held only
while references are copied or swapped.
"""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from workbench.events import Event
from workbench.trace.codec import Codec
from workbench.trace.files import Place, TraceFile, chunk, unpack_chunk

log = logging.getLogger("workbench.trace")


class Store:
    """Sealed chunks plus pending events. With a path they go to a file, as long as it takes
    them."""

    def __init__(self, path: Path | None, *, resume: bool = False) -> None:
        self.codec = Codec()
        self.file = TraceFile(path, resume=resume) if path else None
        self.pending: list[Event] = []
        self.trouble = ""  # why the file no longer takes chunks
        self.memory_bytes = 0
        self._lock = threading.Lock()
        self._chunks: list[Place | bytes] = []
        self._ends: list[int] = []  # events up to and with each chunk
        self._recent: list[
            Event
        ] = []  # the last sealed chunk's events, so that a live view decodes nothing
        if self.file:
            for place in self.file.places:
                self._chunks.append(place)
                self._ends.append(self.sealed + place.events)

    @property
    def sealed(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def count(self) -> int:
        with self._lock:
            return self.sealed + len(self.pending)

    def seal(self) -> None:
        """Make a chunk of the pending events. Raises what the codec raises on an event of wrong
        type."""
        events = self.pending
        if not events:
            return
        data = chunk(self.codec.encode(events), len(events))
        kept: Place | bytes = data
        if self.file and not self.trouble:
            try:
                self.file.append(data, len(events))
                kept = self.file.places[-1]
            except OSError as error:
                self.trouble = (
                    f"{self.file.path}: {error.strerror or error}; recording goes on in memory"
                )
                log.warning(self.trouble)
        if isinstance(kept, bytes):
            self.memory_bytes += len(kept)
        with self._lock:
            self._chunks.append(kept)
            self._ends.append(self.sealed + len(events))
            self._recent = events
            self.pending = []

    def blocks(self) -> Iterator[bytes]:
        """The blocks of all sealed chunks."""
        with self._lock:
            chunks = tuple(self._chunks)
        return map(self._block, chunks)

    def _block(self, kept: Place | bytes) -> bytes:
        if isinstance(kept, bytes):
            return unpack_chunk(kept)
        assert self.file is not None
        return self.file.read(kept)

    def since(self, n: int, kind: type[Event] | None = None) -> list[Event]:
        """All events from the `n`-th on, those not sealed yet included. For any thread. With a
        `kind` all events of that type, and `n` is 0."""
        with self._lock:
            sealed = self.sealed
            recent, pending = self._recent, self.pending[max(0, n - sealed) :]
            chunks = list(zip(self._chunks, self._ends, strict=True)) if n < sealed else []
        if kind is not None:
            only = frozenset((kind.__name__,))
            out = [e for kept, _ in chunks for e in self.codec.decode(self._block(kept), only)]
            return out + [e for e in pending if type(e) is kind]
        if n >= sealed:
            return pending
        if n >= sealed - len(recent):
            return recent[n - sealed :] + pending
        out = []
        for kept, end in chunks:
            if end > n:
                events = self.codec.decode(self._block(kept))
                out += events[max(0, n - end + len(events)) :]
        return out + pending

    def close(self) -> None:
        """Put what stayed in memory behind the file, if it takes it now, and sync it to disk.

        The file stays open for readers of the chunks; it closes with the store.
        """
        if not self.file:
            return
        try:
            for i, kept in enumerate(self._chunks):
                if isinstance(kept, bytes):
                    begin = self._ends[i - 1] if i else 0
                    self.file.append(kept, self._ends[i] - begin)
                    self._chunks[i] = self.file.places[-1]
                    self.memory_bytes -= len(kept)
            self.file.sync()
        except OSError as error:
            log.warning("%s: %s; the end of the trace is lost", self.file.path, error)

    def __del__(self) -> None:
        if getattr(self, "file", None):
            self.file.close()  # type: ignore[union-attr]
