"""The tree part of the reducer: nodes, their spans, and whose each token is."""

from math import nan

from workbench import events as ev
from workbench.trace.columns import Tables
from workbench.trace.stays import Stays
from workbench.trace.streams import UNKNOWN, Stream
from workbench.trace.tables import NEVER, NOBODY
from workbench.words import Field

WITH_FIELDS = (Field.THOUGHT, Field.CALL, Field.RESULT, Field.CONCLUSION)


class Nodes:
    """Keeps `nodes`, and the node and field of each row of `tokens`."""

    def __init__(
        self, tables: Tables, streams: dict[int, Stream], by_row: list[Stream], stays: Stays
    ) -> None:
        self.rows: dict[int, int] = {}  # node -> row
        self._nodes, self._tokens = tables["nodes"], tables["tokens"]
        self._streams, self._by_row, self._stays = streams, by_row, stays
        self._waiting: dict[int, list[int]] = {}  # branch row -> nodes whose first token is to come

    def row(self, node: int | None) -> int:
        return NOBODY if node is None else self.rows.get(node, NOBODY)

    def begin(self, stream: Stream, row: int) -> None:
        """A token came: the first of nodes that were opened before it."""
        if stream.row in self._waiting:
            for node in self._waiting.pop(stream.row):
                self._nodes.set("first", node, row)

    def on_NodeOpened(self, e: ev.NodeOpened) -> None:
        stream = self._streams.get(e.seq)
        parent = self.row(e.parent)
        depth = self._nodes.cell("depth", parent) + 1 if parent != NOBODY else 0
        first = stream.rowat(e.index) if stream else UNKNOWN
        row = self._nodes.append(
            e.node,
            parent,
            stream.row if stream else 0,
            e.kind,
            min(depth, 255),
            e.owner,
            min(e.lap, 255),
            e.step,
            NEVER,
            NEVER,
            first,
            NEVER,
            NEVER,
            NEVER,
            0,
            NEVER,
            0,
            nan,
            e.path,
            "",
            "",
            "",
        )
        self.rows[e.node] = row
        if stream is None:
            return
        if first == UNKNOWN:
            self._waiting.setdefault(stream.row, []).append(row)
        stream.node = row
        self._give(stream, max(e.index, stream.at), stream.length, row)

    def _give(
        self, stream: Stream, start: int, stop: int, node: int, field: int | None = None
    ) -> None:
        """Stream tokens [start, stop) belong to `node`."""
        if start >= stop:
            return
        rows = stream.rows(start, stop)
        self._tokens.column("node").set_rows(rows, node)
        if field is not None:
            self._tokens.column("field").set_rows(rows, field)
        self._stays.touch(stream, stream.resident.entry(start))

    def on_NodeTitled(self, e: ev.NodeTitled) -> None:
        if e.node in self.rows:
            self._nodes.set("title", self.rows[e.node], e.title)

    def on_FieldSpanned(self, e: ev.FieldSpanned) -> None:
        stream, node = self._streams.get(e.seq), self.rows.get(e.node)
        if stream is None or node is None:
            return
        if not stream.fielded and e.field in WITH_FIELDS:
            self._field(stream)
        self._give(stream, e.start, e.stop, node, e.field)

    def _field(self, stream: Stream) -> None:
        """The first field of a stream: what counted as free text so far is structure."""
        stream.fielded = True
        rows = stream.rows(0, stream.length)
        column = self._tokens.column("field")
        column.set_rows(rows[column.take(rows) == Field.TEXT], Field.STRUCTURE)

    def on_ListSpanned(self, e: ev.ListSpanned) -> None:
        stream, node = self._streams.get(e.seq), self.rows.get(e.node)
        if stream is None or node is None or e.start >= e.stop:
            return
        self._nodes.set("list_first", node, stream.rowat(e.start))
        self._nodes.set("list_last", node, min(NEVER, stream.rowat(e.stop - 1) + 1))

    def on_NodeClosed(self, e: ev.NodeClosed) -> None:
        node = self.rows.get(e.node)
        if node is None:
            return
        stream = self._by_row[self._nodes.cell("branch", node)]
        self._nodes.set("closed", node, e.step)
        last = stream.rowat(e.index - 1) if e.index else UNKNOWN
        self._nodes.set("last", node, min(NEVER, last + 1))
        self._nodes.set("conclusion", node, e.conclusion)
        if stream.node == node:
            stream.node = self._nodes.cell("parent", node)
            self._give(stream, max(e.index, stream.at), stream.length, stream.node)

    def on_ToolCalled(self, e: ev.ToolCalled) -> None:
        if e.node in self.rows:
            self._nodes.set("called", self.rows[e.node], e.step)
            self._nodes.set("tool", self.rows[e.node], e.tool)

    def on_ToolReturned(self, e: ev.ToolReturned) -> None:
        if e.node in self.rows:
            self._nodes.set("tool_ok", self.rows[e.node], int(e.ok))
            self._nodes.set("tool_seconds", self.rows[e.node], e.seconds)
