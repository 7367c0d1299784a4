"""Tables in memory: growing columns that remember what changed, so that a view gets only that."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.trace.tables import META, TABLES

TYPECODES = {"u1": "B", "u2": "H", "u4": "I", "i4": "i", "f4": "f", "f8": "d"}
REMEMBERED = 64  # revisions that a delta can start from


@dataclass(frozen=True, slots=True)
class Append:
    """New rows of a column. `values` is an array of the column's dtype, or a list of bytes for
    texts."""

    table: str
    column: str
    dtype: str
    start: int
    values: NDArray[Any] | list[bytes]


@dataclass(frozen=True, slots=True)
class Patch:
    """New values of rows (u4 [n]) that existed already."""

    table: str
    column: str
    dtype: str
    rows: NDArray[np.uint32]
    values: NDArray[Any] | list[bytes]


@dataclass(frozen=True, slots=True)
class Delta:
    """What leads from revision `since` to `revision`; a whole snapshot when `since` is None."""

    revision: int
    since: int | None
    meta: Mapping[str, Any]
    rows: Mapping[str, int]  # of every table, afterwards
    appends: tuple[Append, ...]
    patches: tuple[Patch, ...]


class Numbers:
    """A column of numbers."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.values: array[Any] = array(TYPECODES[dtype])
        self.append = self.values.append
        self.log: list[int] | None = None  # patched rows, once somebody watches
        self.base = 0  # of the log, after trimming

    def __len__(self) -> int:
        return len(self.values)

    def set(self, row: int, value: Any) -> None:
        if self.values[row] != value:
            self.values[row] = value
            if self.log is not None:
                self.log.append(row)

    def set_rows(self, rows: NDArray[Any], value: Any) -> None:
        """Set many rows to one value or to an array of values."""
        if not len(rows):
            return
        view = np.frombuffer(self.values, self.dtype)
        changed = rows[view[rows] != value] if self.log is not None else rows
        if np.ndim(value):
            changed = rows
        view[changed] = value
        if self.log is not None:
            self.log.extend(changed.tolist())

    def take(self, rows: Any) -> NDArray[Any]:
        """A copy of some rows (an index array or a slice)."""
        view = (
            np.frombuffer(self.values, self.dtype) if len(self.values) else np.empty(0, self.dtype)
        )
        return np.array(view[rows])


class Texts:
    """A column of texts, held as bytes."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.values: list[bytes] = []
        self.log: list[int] | None = None
        self.base = 0

    def __len__(self) -> int:
        return len(self.values)

    def append(self, value: str | bytes) -> None:
        self.values.append(self._bytes(value))

    def _bytes(self, value: str | bytes) -> bytes:
        return value.encode("utf-8", "replace") if isinstance(value, str) else value

    def set(self, row: int, value: str | bytes) -> None:
        self.values[row] = self._bytes(value)
        if self.log is not None:
            self.log.append(row)

    def take(self, rows: Any) -> list[bytes]:
        return self.values[rows] if isinstance(rows, slice) else [self.values[row] for row in rows]


class Table(Mapping[str, Any]):
    """Columns of equal length. `table["born"]` is a copy, an array or a list of texts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.columns: dict[str, Numbers | Texts] = {
            column: Texts(dtype) if dtype in ("str", "bytes") else Numbers(dtype)
            for column, dtype in TABLES[name].items()
        }
        self._appends = [column.append for column in self.columns.values()]
        self._first = next(iter(self.columns.values()))

    @property
    def rows(self) -> int:
        return len(self._first)

    def append(self, *values: Any) -> int:
        """Add a row, values in the order of the schema; returns its number."""
        for append, value in zip(self._appends, values, strict=True):
            append(value)
        return len(self._first) - 1

    def set(self, column: str, row: int, value: Any) -> None:
        self.columns[column].set(row, value)

    def cell(self, column: str, row: int) -> Any:
        return self.columns[column].values[row]

    def column(self, name: str) -> Numbers:
        """A column of numbers itself, for its owner."""
        found = self.columns[name]
        assert isinstance(found, Numbers), f"{self.name}.{name} is a column of texts"
        return found

    def __getitem__(self, column: str) -> Any:
        found = self.columns[column]
        return self.texts(column) if found.dtype == "str" else found.take(slice(None))

    def numbers(self, column: str) -> NDArray[Any]:
        """A copy of a column of numbers."""
        return self.column(column).take(slice(None))

    def texts(self, column: str) -> list[str]:
        """A copy of a column of texts."""
        found = self.columns[column]
        assert isinstance(found, Texts), f"{self.name}.{column} is a column of numbers"
        return [value.decode("utf-8", "replace") for value in found.values]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


class Tables(Mapping[str, Table]):
    """All tables of a run. One owner changes them; `delta` tells a view what changed since it
    looked."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] = dict.fromkeys(META)
        self.revision = 0
        self._tables = {name: Table(name) for name in TABLES}
        self._marks: dict[int, tuple[list[int], list[int]]] = {}

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def _columns(self) -> Iterator[tuple[str, str, Numbers | Texts]]:
        for name, table in self._tables.items():
            for column, values in table.columns.items():
                yield name, column, values

    def touch(self) -> None:
        """Say that something changed: what a view saw before is an older revision."""
        self.revision += 1

    def delta(self, since: int | None = None) -> Delta:
        """What changed after revision `since`; a snapshot for None or one too old to be
        remembered."""
        mark = self._marks.get(since) if since is not None else None
        if mark is None:
            found = Delta(
                self.revision,
                None,
                dict(self.meta),
                self._counts(),
                tuple(Append(t, c, v.dtype, 0, v.take(slice(None))) for t, c, v in self._columns()),
                (),
            )
        else:
            found = self._since(since, *mark)
        self._remember()
        return found

    def _counts(self) -> dict[str, int]:
        return {name: table.rows for name, table in self._tables.items()}

    def _since(self, since: int | None, starts: list[int], seen: list[int]) -> Delta:
        appends: list[Append] = []
        patches: list[Patch] = []
        for (table, column, values), start, position in zip(
            self._columns(), starts, seen, strict=True
        ):
            if len(values) > start:
                new = values.take(slice(start, None))
                appends.append(Append(table, column, values.dtype, start, new))
            assert values.log is not None
            if len(values.log) + values.base > position:
                rows = np.unique(np.array(values.log[position - values.base :], np.uint32))
                rows = rows[rows < start]  # newer rows carry their latest value already
                if len(rows):
                    patches.append(Patch(table, column, values.dtype, rows, values.take(rows)))
        return Delta(
            self.revision, since, dict(self.meta), self._counts(), tuple(appends), tuple(patches)
        )

    def _remember(self) -> None:
        for _, _, values in self._columns():
            if values.log is None:
                values.log = []
        columns = [values for _, _, values in self._columns()]
        self._marks[self.revision] = (
            [len(v) for v in columns],
            [v.base + len(v.log or ()) for v in columns],
        )
        while len(self._marks) > REMEMBERED:
            self._marks.pop(min(self._marks))
        oldest = self._marks[min(self._marks)][1]
        for values, position in zip(columns, oldest, strict=True):
            if values.log is not None and position - values.base > 4096:
                del values.log[: position - values.base]
                values.base = position


def text_column(values: Sequence[bytes] | Iterable[bytes]) -> tuple[NDArray[np.uint32], bytes]:
    """Offsets u4 [n + 1] and the joined bytes, as texts go over the wire."""
    parts = list(values)
    offsets = np.zeros(len(parts) + 1, np.uint32)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return offsets, b"".join(parts)
