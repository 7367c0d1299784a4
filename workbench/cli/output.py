"""What the verbs share: JSON lines, tables, progress on standard error, `k=v` parameters."""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol


class Failure(Exception):
    """A verb could not be carried out. The message says what was wanted, what came, what to do."""


class Verbs(Protocol):
    """What `add_subparsers` gives."""

    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser: ...


def emit(row: Mapping[str, Any]) -> None:
    """One JSON line, strict: a number that is none of JSON's becomes null."""
    print(json.dumps(strict(row), ensure_ascii=False, allow_nan=False), flush=True)


def strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict(v) for v in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as aligned text."""
    cells = [list(columns), *([shown(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Progress:
    """A line on standard error that is written over; plain and seldom where that is no terminal."""

    def __init__(self, every: float = 0.2, plain_every: float = 5.0) -> None:
        self._tty = sys.stderr.isatty()
        self._every = every if self._tty else plain_every
        self._due = 0.0
        self._drawn = 0

    def show(self, text: str, now: bool = False) -> None:
        clock = time.monotonic()
        if clock < self._due and not now:
            return
        self._due = clock + self._every
        if self._tty:
            print("\r" + text.ljust(self._drawn), end="", file=sys.stderr, flush=True)
            self._drawn = len(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def done(self, text: str = "") -> None:
        if self._tty and self._drawn:
            print("\r" + " " * self._drawn + "\r", end="", file=sys.stderr)
        if text:
            print(text, file=sys.stderr, flush=True)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pairs(items: Iterable[str] | None, what: str) -> dict[str, Any]:
    """`k=v` arguments; a value is JSON where it parses as such, else text."""
    out: dict[str, Any] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise Failure(f"{what}: k=v was wanted, {item!r} came; write e.g. threshold=1")
        try:
            out[key.strip().replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            out[key.strip().replace("-", "_")] = value
    return out
