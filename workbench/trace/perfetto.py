"""Tables as a Perfetto trace: TrackEvent packets, written by a protobuf encoder of twenty lines.

Field numbers are those of perfetto's `trace_packet.proto`, `track_event.proto`,
`track_descriptor.proto` and `debug_annotation.proto`. Times are nanoseconds since the run started.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.trace.columns import Tables
from workbench.trace.tables import NEVER
from workbench.words import Phase

SLICE_BEGIN, SLICE_END, INSTANT, COUNTER = 1, 2, 3, 4  # TrackEvent.Type
RUN, STEPS, TOOLS, RESIDENT, UNPRUNED, PAGES = range(1, 7)  # track uuids
BRANCHES = 1000  # uuid of the first branch's track
SEQUENCE = 1


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF  # int64 as two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field: an int as varint, a float as double, a text or a message as length and bytes."""
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def _packet(*fields: bytes) -> bytes:
    return field(1, b"".join(fields) + field(10, SEQUENCE))


def _track(uuid: int, name: str, *more: bytes, parent: int = RUN) -> bytes:
    upward = field(5, parent) if uuid != RUN else b""
    return _packet(field(60, field(1, uuid) + field(2, name) + upward + b"".join(more)))


def _event(
    kind: int,
    track: int,
    t: int,
    name: str = "",
    facts: Mapping[str, int | float | str] | None = None,
) -> bytes:
    body = field(9, kind) + field(11, track)
    if name:
        body += field(23, name)
    for key, value in (facts or {}).items():
        number = 6 if isinstance(value, str) else 5 if isinstance(value, float) else 4
        body += field(4, field(10, key) + field(number, value))
    return _packet(field(8, t), field(11, body))


def _count(track: int, t: int, value: int) -> bytes:
    return _packet(field(8, t), field(11, field(9, COUNTER) + field(11, track) + field(30, value)))


class Clock:
    """Begin and end of every step, in nanoseconds."""

    def __init__(self, tables: Tables) -> None:
        steps = tables["steps"]
        begin = steps.numbers("t")
        self.begin: NDArray[np.int64] = np.rint(begin * 1e9).astype(np.int64)
        self.end = self.begin + np.rint(steps.numbers("dt") * 1e9).astype(np.int64)
        # seconds are kept in four bytes: an end may be rounded past the next begin
        self.end[:-1] = np.minimum(self.end[:-1], self.begin[1:])

    def at(self, step: int, *, end: bool = False) -> int:
        if not len(self.begin):
            return 0
        found = self.end if end else self.begin
        return int(found[min(step, len(found) - 1)])


def perfetto(tables: Tables) -> bytes:
    """The whole trace file."""
    return b"".join(_packets(tables))


def _packets(tables: Tables) -> Iterator[bytes]:
    clock = Clock(tables)
    model = str(tables.meta.get("model") or "run")
    # TrackDescriptor.process: pid and process_name; .counter: an empty descriptor makes a counter
    # track
    yield _track(RUN, model, field(3, field(1, 1) + field(6, f"reasoning-workbench: {model}")))
    yield _track(STEPS, "engine steps")
    yield _track(TOOLS, "tools")
    for uuid, name in (
        (RESIDENT, "resident tokens"),
        (UNPRUNED, "unpruned tokens"),
        (PAGES, "pages held"),
    ):
        yield _track(uuid, name, field(8, b""))
    yield from _steps(tables, clock)
    yield from _tools(tables, clock)
    yield from _branches(tables, clock)


def _steps(tables: Tables, clock: Clock) -> Iterator[bytes]:
    steps = tables["steps"]
    names = [phase.name.lower() for phase in Phase]
    columns = {
        c: steps.numbers(c).tolist()
        for c in (
            "phase",
            "rows",
            "prefill",
            "decode",
            "extend",
            "reencode",
            "resident",
            "unpruned",
            "pages",
        )
    }
    for step in range(steps.rows):
        begin, end = clock.at(step), clock.at(step, end=True)
        facts = {c: columns[c][step] for c in ("rows", "prefill", "decode", "extend", "reencode")}
        facts = {"step": step} | {c: n for c, n in facts.items() if n}
        yield _event(SLICE_BEGIN, STEPS, begin, names[columns["phase"][step]], facts)
        yield _event(SLICE_END, STEPS, end)
        for track, column in ((RESIDENT, "resident"), (UNPRUNED, "unpruned"), (PAGES, "pages")):
            if not step or columns[column][step] != columns[column][step - 1]:
                yield _count(track, end, columns[column][step])


def _tools(tables: Tables, clock: Clock) -> Iterator[bytes]:
    nodes = tables["nodes"]
    called = nodes.numbers("called")
    last = 0
    for node in np.flatnonzero(called != NEVER)[
        np.argsort(called[called != NEVER], kind="stable")
    ].tolist():
        begin = max(last, clock.at(int(called[node])))
        seconds = nodes.cell("tool_seconds", node)
        last = begin + (int(seconds * 1e9) if seconds == seconds else 0)
        facts = {"node": nodes.cell("path", node).decode(), "ok": nodes.cell("tool_ok", node)}
        yield _event(SLICE_BEGIN, TOOLS, begin, nodes.cell("tool", node).decode(), facts)
        yield _event(SLICE_END, TOOLS, last)


def _branches(tables: Tables, clock: Clock) -> Iterator[bytes]:
    branches, nodes = tables["branches"], tables["nodes"]
    order: dict[int, list[int]] = {}
    for node in np.argsort(nodes.numbers("first"), kind="stable").tolist():
        order.setdefault(nodes.cell("branch", node), []).append(node)
    prunes = tables["prunes"]
    for row in range(branches.rows):
        track = BRANCHES + row
        yield _track(track, f"branch {branches.cell('id', row)}")
        yield from _nodes(tables, clock, track, order.get(row, []))
        for prune in np.flatnonzero(prunes.numbers("branch") == row).tolist():
            facts: dict[str, Any] = {
                c: prunes.cell(c, prune) for c in ("removed", "reencoded", "pages_freed")
            }
            yield _event(INSTANT, track, clock.at(prunes.cell("step", prune)), "prune", facts)


def _nodes(tables: Tables, clock: Clock, track: int, order: list[int]) -> Iterator[bytes]:
    """Slices of one track, each inside the one around it: begins and ends never go back in time."""
    nodes, born = tables["nodes"], tables["tokens"].numbers("born")
    now = 0
    open_nodes: list[int] = []

    def close(until: int) -> Iterator[bytes]:
        nonlocal now
        while open_nodes and nodes.cell("last", open_nodes[-1]) <= until:
            last = nodes.cell("last", open_nodes.pop())
            now = max(now, clock.at(int(born[last - 1]), end=True) if last else 0)
            yield _event(SLICE_END, track, now)

    for node in order:
        first = nodes.cell("first", node)
        if first == NEVER:
            continue
        yield from close(first)
        now = max(now, clock.at(int(born[first])))
        name = f"{nodes.cell('path', node).decode()} {nodes.cell('title', node).decode()}".strip()
        facts = {
            "owner": nodes.cell("owner", node),
            "conclusion": nodes.cell("conclusion", node).decode(),
        }
        yield _event(SLICE_BEGIN, track, now, name or "root", facts)
        open_nodes.append(node)
    yield from close(NEVER - 1)
    for _ in open_nodes:  # still open when the trace ends
        yield _event(SLICE_END, track, max(now, clock.at(NEVER, end=True)))
