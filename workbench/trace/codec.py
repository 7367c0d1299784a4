"""Events as columns: a list of typed events to bytes and back, exactly.

One block a type that occurs, one column a field, and the global order as one small number an event.
Whole numbers take the least width that holds them, raw or as differences; floats take four bytes
where that loses nothing. None is -1, enumerations are their number (or place, for texts).
"""

import struct
import types
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, StrEnum
from operator import attrgetter
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from workbench.events import EVENTS, Event

Ints = NDArray[np.int64]
WIDTHS = tuple(map(np.dtype, ("<i1", "<i2", "<i4", "<i8")))
DIFFERENCES = 4  # bits of a column's code beside its width: stored as differences,
SAME = 8  # all the same
FIRST = struct.Struct("<q")
COUNT = struct.Struct("<BI")  # type, events of it
LENGTH = struct.Struct("<I")


class Reader:
    """A cursor over the bytes of a block."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]

    def array(self, dtype: Any, n: int) -> NDArray[Any]:
        found = np.frombuffer(self.data, np.dtype(dtype).newbyteorder("<"), n, self.at)
        self.at += found.nbytes
        return found


def _pack_ints(values: Ints) -> bytes:
    """A code, then: the first value where differences follow; then one value, or all of them."""
    if not len(values):
        return b"\0"
    code, kept, first = _width(values), values, b""
    if code & 3 and len(values) > 2:
        steps = values[1:] - values[:-1]
        if (other := _width(steps)) & 3 < code & 3 or other & SAME:
            code, kept, first = other | DIFFERENCES, steps, FIRST.pack(int(values[0]))
    if code & SAME:
        kept = kept[:1]
    return bytes((code,)) + first + kept.astype(WIDTHS[code & 3]).tobytes()


def _width(values: Ints) -> int:
    low, high = int(np.minimum.reduce(values)), int(np.maximum.reduce(values))
    same = SAME if low == high else 0
    for code, bits in enumerate((7, 15, 31)):
        if -(1 << bits) <= low and high < 1 << bits:
            return code | same
    return 3 | same


def _take_ints(reader: Reader, n: int) -> Ints:
    code = reader.take(1)[0]
    if not n:
        return np.empty(0, np.int64)
    if code & DIFFERENCES:
        out = np.empty(n, np.int64)
        (out[0],) = FIRST.unpack(reader.take(FIRST.size))
        out[1:] = reader.array(WIDTHS[code & 3], 1 if code & SAME else n - 1)
        return out.cumsum()
    values: Ints = reader.array(WIDTHS[code & 3], 1 if code & SAME else n).astype(np.int64)
    return np.full(n, values[0]) if code & SAME else values


def _pack_floats(values: Sequence[float]) -> bytes:
    wide = np.array(values, np.float64)
    narrow = wide.astype(np.float32)
    same = bool(np.array_equal(narrow.astype(np.float64), wide, equal_nan=True))
    return bytes((not same,)) + (narrow.astype("<f4") if same else wide.astype("<f8")).tobytes()


def _take_floats(reader: Reader, n: int) -> list[float]:
    wide = reader.take(1)[0]
    found: list[float] = reader.array(np.float64 if wide else np.float32, n).astype(float).tolist()
    return found


def _pack_bytes(values: Sequence[bytes]) -> bytes:
    return _pack_ints(np.fromiter(map(len, values), np.int64, len(values))) + b"".join(values)


def _take_bytes(reader: Reader, n: int) -> list[bytes]:
    return [reader.take(length) for length in _take_ints(reader, n).tolist()]


def _flat(values: Sequence[Sequence[Any]]) -> list[Any]:
    return [item for value in values for item in value]


def _groups(lengths: list[int], flat: list[Any]) -> list[tuple[Any, ...]]:
    out, at = [], 0
    for length in lengths:
        out.append(tuple(flat[at : at + length]))
        at += length
    return out


class Column:
    """How one field is written and read; `kind` is its name in a file's header."""

    def __init__(self, kind: str, enum: type[IntEnum] | type[StrEnum] | None = None) -> None:
        self.kind = kind
        self.enum = enum
        self.members: list[Any] = list(enum) if enum else []

    def pack(self, values: Sequence[Any]) -> bytes:
        n = len(values)
        match self.kind:
            case "int" | "bool":
                return _pack_ints(np.array(values, np.int64))
            case "int?":
                return _pack_ints(np.array([-1 if v is None else v for v in values], np.int64))
            case "choice":
                place = {member: i for i, member in enumerate(self.members)}
                return _pack_ints(np.array([place[v] for v in values], np.int64))
            case "float":
                return _pack_floats(values)
            case "str":
                return _pack_bytes([v.encode("utf-8", "surrogatepass") for v in values])
            case "bytes":
                return _pack_bytes(values)
        lengths = _pack_ints(np.fromiter(map(len, values), np.int64, n))
        flat = _flat(values)
        if self.kind == "floats":
            return lengths + _pack_floats(flat)
        return lengths + _pack_ints(np.array(flat, np.int64))

    def take(self, reader: Reader, n: int) -> list[Any]:
        match self.kind:
            case "int":
                numbers = _take_ints(reader, n).tolist()
                return [self.enum(v) for v in numbers] if self.enum else numbers
            case "bool":
                return [bool(v) for v in _take_ints(reader, n).tolist()]
            case "int?":
                return [None if v < 0 else v for v in _take_ints(reader, n).tolist()]
            case "choice":
                return [self.members[v] for v in _take_ints(reader, n).tolist()]
            case "float":
                return _take_floats(reader, n)
            case "str":
                return [v.decode("utf-8", "surrogatepass") for v in _take_bytes(reader, n)]
            case "bytes":
                return list(_take_bytes(reader, n))
        lengths = _take_ints(reader, n).tolist()
        total = sum(lengths)
        floats = self.kind == "floats"
        flat = _take_floats(reader, total) if floats else _take_ints(reader, total).tolist()
        return _groups(lengths, flat)

    def absent(self) -> Any:
        """The value of a field that an older file does not have."""
        if self.enum:
            return self.members[0]
        empty: dict[str, Any] = {
            "int": 0,
            "bool": False,
            "int?": None,
            "float": 0.0,
            "str": "",
            "bytes": b"",
            "ints": (),
            "floats": (),
        }
        return empty[self.kind]


def column_for(hint: Any) -> Column:
    """The column of a field annotated `hint`; TypeError for one that the store cannot hold."""
    if isinstance(hint, NewType):
        return column_for(hint.__supertype__)
    if get_origin(hint) in (Union, types.UnionType):
        inner = [column_for(arg).kind for arg in get_args(hint) if arg is not type(None)]
        if inner == ["int"]:
            return Column("int?")
    if get_origin(hint) is tuple:
        inner = [column_for(arg).kind for arg in get_args(hint) if arg is not ...]
        if inner in (["int"], ["float"]):
            return Column(inner[0] + "s")
    if isinstance(hint, type):
        if issubclass(hint, StrEnum):
            return Column("choice", hint)
        if issubclass(hint, IntEnum):
            return Column("int", hint)
        for kind in (bool, int, float, str, bytes):
            if hint is kind:
                return Column(kind.__name__)
    raise TypeError(
        f"an event field of type {hint} has no column; use int, float, bool, str, bytes, "
        "an enumeration, an optional int or a tuple of numbers"
    )


class Layout:
    """The columns of one event type, as this version of the package knows it."""

    def __init__(self, cls: type[Event]) -> None:
        hints = get_type_hints(cls)
        self.cls = cls
        self.names: tuple[str, ...] = tuple(hints)
        self.columns = {name: column_for(hint) for name, hint in hints.items()}
        self.get: Callable[[Any], tuple[Any, ...]] = (
            attrgetter(*self.names) if len(hints) > 1 else lambda e: (e.step,)
        )


LAYOUTS = {name: Layout(cls) for name, cls in EVENTS.items()}
Schema = list[list[Any]]  # [[type, [[field, kind, [members …]] …]] …], as in a file's header


def schema() -> Schema:
    """This version's event types, for a file's header."""
    return [
        [name, [[f, c.kind, [m.name for m in c.members]] for f, c in layout.columns.items()]]
        for name, layout in LAYOUTS.items()
    ]


class Codec:
    """Encodes by this version's types; decodes a file by the types that its header declares."""

    def __init__(self, declared: Schema | None = None) -> None:
        self.declared = declared or schema()
        self.code = {entry[0]: i for i, entry in enumerate(self.declared)}

    def encode(self, events: Sequence[Event]) -> bytes:
        groups: dict[type[Event], list[Event]] = {}
        for event in events:
            groups.setdefault(type(event), []).append(event)
        out = [LENGTH.pack(len(events)), bytes((len(groups),))]
        with np.errstate(over="ignore"):  # a double too large for four bytes is kept in eight
            for cls, members in groups.items():
                layout = LAYOUTS[cls.__name__]
                out.append(COUNT.pack(self.code[cls.__name__], len(members)))
                columns = zip(*map(layout.get, members), strict=True)
                for column, values in zip(layout.columns.values(), columns, strict=True):
                    block = column.pack(values)
                    out += (LENGTH.pack(len(block)), block)
        codes = {cls: self.code[cls.__name__] for cls in groups}
        out.append(bytes(codes[type(event)] for event in events))
        return b"".join(out)

    def decode(self, data: bytes, only: frozenset[str] | None = None) -> list[Event]:
        """The events in their order; `only` these types where given. Types unknown here are
        skipped."""
        reader = Reader(data)
        (n,) = LENGTH.unpack(reader.take(4))
        feeds: dict[int, Iterator[Event]] = {}
        for _ in range(reader.take(1)[0]):
            code, count = COUNT.unpack(reader.take(COUNT.size))
            name, fields = self.declared[code]
            layout = LAYOUTS.get(name)
            wanted = layout is not None and (only is None or name in only)
            found: dict[str, list[Any]] = {}
            for field, *_rest in fields:
                (length,) = LENGTH.unpack(reader.take(4))
                block = reader.take(length)
                if wanted and layout and field in layout.columns:
                    found[field] = layout.columns[field].take(Reader(block), count)
            if wanted and layout:
                feeds[code] = _rows(layout, found, count)
        order = reader.take(n)
        return [next(feeds[code]) for code in order if code in feeds]

    def counts(self, data: bytes) -> dict[str, int]:
        """How many events of each declared type a block holds, without decoding them."""
        reader = Reader(data)
        (n,) = LENGTH.unpack(reader.take(4))
        order = np.frombuffer(data, np.uint8, n, len(data) - n)
        tally = np.bincount(order, minlength=len(self.declared)).tolist()
        return {entry[0]: c for entry, c in zip(self.declared, tally, strict=False) if c}


def _rows(layout: Layout, found: dict[str, list[Any]], count: int) -> Iterator[Event]:
    columns = [found.get(name) or [layout.columns[name].absent()] * count for name in layout.names]
    return map(layout.cls, *columns)
