"""The trace file: a header, then chunks that are only ever appended, each with its own check sum.

    header: b"WBTRACE\\n", u4 version, u4 length, u4 crc32 of the text, the text
            (JSON: the event schema)
    chunk:  b"CHNK", u4 length, u4 crc32 of events and payload, u4 events, the payload
            (zlib of a `codec` block)

All numbers little-endian. A chunk is one write, so a killed process leaves at most one chunk in
part. Reading stops before the first chunk that is short or does not check: what lies before it is
whole.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.trace.codec import Codec, schema

MAGIC = b"WBTRACE\n"
VERSION = 1
HEAD = struct.Struct("<III")  # version, length, crc32
CHUNK = struct.Struct("<4sIII")  # mark, length, crc32, events
MARK = b"CHNK"


class TraceError(Exception):
    """A file that is no trace, or whose header is damaged."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a whole chunk lies in a file."""

    offset: int  # of its payload
    length: int
    events: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file holds: the bytes up to the last whole chunk, and those behind it."""

    codec: Codec
    places: tuple[Place, ...]
    recovered_bytes: int
    lost_bytes: int


def head() -> bytes:
    text = json.dumps({"schema": schema()}, separators=(",", ":")).encode()
    return MAGIC + HEAD.pack(VERSION, len(text), zlib.crc32(text)) + text


def chunk(block: bytes, events: int) -> bytes:
    payload = zlib.compress(block, 1)
    crc = zlib.crc32(payload, zlib.crc32(struct.pack("<I", events)))
    return CHUNK.pack(MARK, len(payload), crc, events) + payload


def read_chunk(fd: int, place: Place) -> bytes:
    """The block of a chunk that a scan found whole."""
    return zlib.decompress(os.pread(fd, place.length, place.offset))


def unpack_chunk(data: bytes) -> bytes:
    """The block of one chunk held in memory."""
    return zlib.decompress(data[CHUNK.size :])


def scan(path: Path) -> Scan:
    """Check a file from its start. TraceError where not even the header is whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + HEAD.size)
        if not start.startswith(MAGIC) or len(start) < len(MAGIC) + HEAD.size:
            raise TraceError(
                f"{path}: wanted a workbench trace, which begins with {MAGIC!r}; the file begins "
                f"with {start[:8]!r} and has {size} bytes; pass a file written by --trace"
            )
        version, length, crc = HEAD.unpack_from(start, len(MAGIC))
        text = file.read(length) if length <= size else b""
        if version > VERSION:
            raise TraceError(
                f"{path}: trace version {version}; this package reads up to {VERSION}; "
                "open it with a newer reasoning-workbench"
            )
        if len(text) < length or zlib.crc32(text) != crc:
            raise TraceError(
                f"{path}: the header is damaged (wanted {length} bytes with check sum "
                f"{crc:08x}); without it no event can be read; use another copy"
            )
        places = []
        good = file.tell()
        while (place := _next_chunk(file.read(CHUNK.size), file.fileno(), good)) is not None:
            places.append(place)
            good = place.offset + place.length
            file.seek(good)
    return Scan(Codec(json.loads(text)["schema"]), tuple(places), good, size - good)


def _next_chunk(start: bytes, fd: int, at: int) -> Place | None:
    if len(start) < CHUNK.size:
        return None
    mark, length, crc, events = CHUNK.unpack(start)
    if mark != MARK:
        return None
    payload = os.pread(fd, length, at + CHUNK.size)
    if len(payload) < length:
        return None
    if zlib.crc32(payload, zlib.crc32(struct.pack("<I", events))) != crc:
        return None
    return Place(at + CHUNK.size, length, events)


class TraceFile:
    """An open trace file that chunks are appended to. One writer."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """Start a new file, or with `resume` cut a damaged tail off an old one and go on behind
        it."""
        self.path = path
        if resume:
            found = scan(path)
            if found.codec.declared != schema():
                raise TraceError(
                    f"{path}: written with other event types than this version has; "
                    "resume it with the version that wrote it, or start a new trace"
                )
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self.size = found.recovered_bytes
            os.ftruncate(self._fd, self.size)
            self.places = list(found.places)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            self.size = 0
            self.places = []
            self.size = self._write(head())

    def append(self, data: bytes, events: int) -> None:
        """Append one chunk as `chunk` made it. OSError where the disk is full; the file stays
        whole."""
        start = self.size
        self.size = self._write(data)
        self.places.append(Place(start + CHUNK.size, len(data) - CHUNK.size, events))

    def _write(self, data: bytes) -> int:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], self.size + done)
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        return self.size + done

    def read(self, place: Place) -> bytes:
        return read_chunk(self._fd, place)

    def blocks(self) -> Iterator[bytes]:
        return map(self.read, tuple(self.places))

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
