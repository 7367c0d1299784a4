"""Tables on the wire: one JSON header and one binary payload a message, snapshot or delta.

The format (version 1). A *message* is a JSON object, the header, and one buffer, the payload. Over
a comm the header is the message content and the payload is `buffers[0]`; in a static page both lie
in one *frame*, gzip'd and base64'd. Everything is little-endian. Header::

    {"wire": 1,
     "kind": "snapshot" | "delta",
     "seq": 17,                  # state of the tables after this message; grows, with gaps
     "from": 12 | null,          # delta: the seq that it applies to; null for a snapshot
     "meta": {"model": ..., ...},            # all of tables.META, whole in every message
     "tables": {"steps": 812, ...},          # rows of every table after this message
     "bytes": 45312,                         # length of the payload
     "columns": [
       {"table": "tokens", "column": "born", "dtype": "u4",
        "start": 9000, "count": 30,          # rows [start, start + count) of the column
        "at": 128},                          # byte offset of the values in the payload
       {"table": "nodes", "column": "title", "dtype": "str",
        "start": 40, "count": 2,
        "at": 256, "text": 272, "length": 31},
       {"table": "tokens", "column": "died", "dtype": "u4",
        "rows": 320, "count": 5,             # a patch: u4 [count] row numbers at byte 320 …
        "at": 344}                           # … and their new values, in the same order
     ]}

- `dtype` is u1 u2 u4 i4 f4 f8, or "str" / "bytes". `at`, `rows` and `text` are multiples of 8
  within the payload. The payload may itself start at any offset of its ArrayBuffer (a DataView has
  a byteOffset): copy it when that offset is not a multiple of 8, then take typed arrays over it.
- "str" and "bytes": u4 [count + 1] offsets at `at`, beginning with 0, into the `length` bytes at
  `text`. Row i of the entry is bytes [offsets[i], offsets[i + 1]). "str" is valid UTF-8, "bytes"
  need not be (the bytes of one token may be a part of a character: join tokens before decoding).
- An entry with `start` appends: `start` is the column's length so far (0 in a snapshot). An entry
  with `rows` patches cells that exist already. Apply all appends of a message, then its patches. A
  column without an entry did not change; a snapshot has an append for every column, empty ones
  (count 0) too.
- A view keeps `seq` of the last message that it applied. A delta whose `from` is another number is
  thrown away and answered with ``{"kind": "resync", "why": "..."}``; the next message is then a
  snapshot. Each applied message is answered with ``{"kind": "ack", "seq": 17}``. While two messages
  are unanswered the sender holds back and joins what comes into one later delta; after two silent
  seconds it sends a snapshot.
- A frame is the bytes ``WBW1``, u4 length of the header text, the header as UTF-8 JSON padded with
  spaces so that the payload begins at a multiple of 8, then the payload. In a page it is base64 of
  gzip of that.
"""

import base64
import gzip
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from workbench.trace.columns import Append, Delta, Patch, text_column

VERSION = 1
ALIGN = 8
MAGIC = b"WBW1"
RATE_HZ = 30.0
UNANSWERED = 2  # messages on their way at once
SILENCE_S = 2.0  # without an answer: the view is taken to have lost its place


@dataclass(frozen=True, slots=True)
class Message:
    header: dict[str, Any]
    payload: bytes


class _Payload:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> int:
        """Put `data` at the next multiple of 8; returns its offset."""
        at = self.size
        pad = -len(data) % ALIGN
        self.parts += (data, bytes(pad))
        self.size += len(data) + pad
        return at


def encode(delta: Delta) -> Message:
    """A snapshot or delta of tables as one message of the format above."""
    payload = _Payload()
    columns = []
    changes: list[Append | Patch] = [*delta.appends, *delta.patches]
    for change in changes:
        entry: dict[str, Any] = {
            "table": change.table,
            "column": change.column,
            "dtype": change.dtype,
        }
        if isinstance(change, Append):
            entry["start"] = change.start
        else:
            entry["rows"] = payload.add(change.rows.astype("<u4").tobytes())
        columns.append(entry | {"count": len(change.values)} | _values(change, payload))
    header = {
        "wire": VERSION,
        "kind": "snapshot" if delta.since is None else "delta",
        "seq": delta.revision,
        "from": delta.since,
        "meta": _plain(delta.meta),
        "tables": dict(delta.rows),
        "bytes": payload.size,
        "columns": columns,
    }
    return Message(header, b"".join(payload.parts))


def _values(change: Append | Patch, payload: _Payload) -> dict[str, int]:
    if isinstance(change.values, list):
        offsets, joined = text_column(change.values)
        at = payload.add(offsets.astype("<u4").tobytes())
        return {"at": at, "text": payload.add(joined), "length": len(joined)}
    return {
        "at": payload.add(change.values.astype(np.dtype(change.dtype).newbyteorder("<")).tobytes())
    }


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Meta as JSON can hold it: a number that is not finite becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in meta.items()
    }


def frame(message: Message) -> bytes:
    """Header and payload in one piece."""
    text = json.dumps(message.header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(len(MAGIC) + 4 + len(text)) % ALIGN)
    return MAGIC + len(text).to_bytes(4, "little") + text + message.payload


def page_data(delta: Delta) -> str:
    """A snapshot for a static page: base64 of gzip of a frame."""
    # mtime 0: the same trace makes the same page
    return base64.b64encode(gzip.compress(frame(encode(delta)), 6, mtime=0)).decode()


class Source(Protocol):
    """Whoever has tables that grow: a `Trace` or a `LiveTrace`."""

    def delta(self, since: int | None) -> Delta: ...


class Feed:
    """What one view gets: paced, answered, joined when the view is slow.

    The owner calls `poll` at about display rate and sends what it returns; it hands the view's
    answers to `answer`. Not thread-safe: one thread, or a lock around both.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._sent: int | None = None  # seq of the last message; None asks for a snapshot
        self._open: list[int] = []  # seqs not answered yet
        self._last = -math.inf

    def poll(self) -> Message | None:
        """The next message, or None: nothing new, too early, or the view has not answered."""
        now = self._clock()
        if now - self._last < 1 / RATE_HZ:
            return None
        if len(self._open) >= UNANSWERED and self._sent is not None:
            if now - self._last < SILENCE_S:
                return None
            self.restart()
        delta = self._source.delta(self._sent)
        if delta.since is not None and delta.revision == delta.since:
            return None
        self._last = now
        self._sent = delta.revision
        self._open.append(delta.revision)
        return encode(delta)

    def answer(self, content: Mapping[str, Any]) -> bool:
        """Take an `ack` or a `resync`; False for a message that is neither."""
        match content.get("kind"):
            case "ack":
                seq = content.get("seq", -1)
                self._open = [sent for sent in self._open if sent > seq]
                return True
            case "resync":
                self.restart()
                return True
        return False

    def restart(self) -> None:
        """The next message is a snapshot: a new view, or one that lost its place."""
        self._sent = None
        self._open.clear()
