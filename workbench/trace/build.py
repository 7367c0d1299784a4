"""Facts to tables, one fact at a time: requests, branches, tokens, prunes and steps.

`TableBuilder.apply` is a reducer: what it does depends on the facts so far alone. Nodes are in
`nodes`, pages in `stays`, what people did in `marks`.
"""

from array import array
from collections.abc import Callable, Iterable
from math import nan
from typing import Any

import numpy as np

from workbench import events as ev
from workbench.trace.columns import Tables
from workbench.trace.marks import Marks
from workbench.trace.nodes import Nodes
from workbench.trace.spans import Spans
from workbench.trace.stays import Stays
from workbench.trace.streams import UNKNOWN, Rows, Stream
from workbench.trace.tables import DERIVED, NEVER, NOBODY
from workbench.words import Field, Origin, PruneMode


class TableBuilder:
    """Owns `tables` and brings them up to date with each event."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.tables.meta |= {
            "complete": False,
            "live": True,
            "last_step": -1,
            "provenance": DERIVED,
        }
        self._facts = 0
        self._requests: dict[int, int] = {}
        self._streams: dict[int, Stream] = {}
        self._by_row: list[Stream] = []
        self._former: list[Stream] = []  # streams as they were before an edit
        self._holders = array("I")  # per row of tokens: live branches that have it in memory
        self._births = array("I")  # per row of tokens: number of the fact that brought it
        self._lost: dict[int, int] = {}  # branch row -> tokens that its prunes took out of memory
        self._stays = Stays(self.tables, self._streams)
        self._nodes = Nodes(self.tables, self._streams, self._by_row, self._stays)
        self._marks = Marks(self.tables, self._nodes)
        parts = (self, self._stays, self._nodes, self._marks)
        self._apply: dict[type[ev.Event], list[Callable[[Any], None]]] = {
            cls: [h for part in parts if (h := getattr(part, f"on_{name}", None)) is not None]
            for name, cls in ev.EVENTS.items()
        }

    def apply(self, events: Iterable[ev.Event]) -> Tables:
        """Take events in their order; returns the tables, one revision later if there were any."""
        any_event = False
        handlers = self._apply
        for event in events:
            self._facts += 1
            any_event = True
            for handler in handlers[type(event)]:
                handler(event)
        if any_event:
            self.tables.touch()
        return self.tables

    # ---- the run ----

    def on_RunStarted(self, e: ev.RunStarted) -> None:
        for name in (
            "model backend page_size pages window limit layers experts started_at versions reasons"
        ).split():
            self.tables.meta[name] = getattr(e, name)
        self._stays.page_size = e.page_size

    def on_RunEnded(self, e: ev.RunEnded) -> None:
        self._stays.settle(e.step)
        self.tables.meta |= {"complete": e.complete, "live": False}

    def on_RequestOpened(self, e: ev.RequestOpened) -> None:
        self._requests[e.request] = self.tables["requests"].append(
            e.request, e.step, NEVER, e.title, e.strategy, e.params, "", "", ""
        )

    def on_RequestEnded(self, e: ev.RequestEnded) -> None:
        row = self._requests.get(e.request)
        if row is None:
            return
        requests = self.tables["requests"]
        requests.set("closed", row, e.step)
        for name in ("finish", "answer", "error"):
            requests.set(name, row, str(getattr(e, name)))

    # ---- branches ----

    def on_BranchOpened(self, e: ev.BranchOpened) -> None:
        parent = self._streams.get(e.parent) if e.parent is not None else None
        at = min(e.at, parent.length) if parent else 0
        row = self.tables["branches"].append(
            e.seq,
            self._requests.get(e.request, 0),
            parent.row if parent else NOBODY,
            NEVER,
            e.step,
            NEVER,
            e.reused,
            "running",
        )
        stream = Stream(e.seq, row, parent, at, Spans(), NOBODY)
        if parent:
            self._inherit(stream, parent, e.step)
        self._streams[e.seq] = stream
        self._by_row.append(stream)

    def _inherit(self, stream: Stream, parent: Stream, step: int) -> None:
        at = stream.at
        differs = parent.rowat(at) if at < parent.length else self.tables["tokens"].rows
        self.tables["branches"].set("at", stream.row, differs)
        stream.fielded = parent.fielded
        stream.node = self._innermost(parent, at)
        stream.sampled_last = parent.sampled_last and at == parent.length
        row = parent.rowat(at) if at < parent.length else UNKNOWN
        fact = self._births[row] if row != UNKNOWN else self._facts
        stream.cuts = [(n, a, min(b, at)) for n, a, b in parent.cuts if n < fact and a < at]
        for a, b in parent.memory_at(at, fact).spans:
            rows = parent.rows(a, b)
            for place in np.flatnonzero(
                np.frombuffer(self._holders, np.uint32)[rows] == 0
            ).tolist():
                stream.redone[a + place] = self._again(stream, int(rows[place]), step)
            np.frombuffer(self._holders, np.uint32)[stream.rows(a, b)] += 1
            stream.resident.append(a, b)

    def _again(self, stream: Stream, old: int, step: int) -> int:
        """A row for a token that had left memory and is encoded again for a fork."""
        cell = self.tables["tokens"].cell
        row = self._row(
            stream,
            cell("index", old),
            cell("id", old),
            cell("node", old),
            cell("field", old),
            cell("origin", old),
            step,
            cell("logprob", old),
            cell("entropy", old),
        )
        self._births[row] = self._births[old]  # what was pruned before it first came stays pruned
        return row

    def _innermost(self, parent: Stream, at: int) -> int:
        """The node that a fork's first token belongs to, until a fact says otherwise."""
        row = parent.rowat(at) if at < parent.length else UNKNOWN
        return parent.node if row == UNKNOWN else self.tables["tokens"].cell("node", row)

    def on_BranchDropped(self, e: ev.BranchDropped) -> None:
        stream = self._streams.get(e.seq)
        if stream is None or not stream.live:
            return
        stream.live = False
        self._leave(stream.rows_of(stream.resident.spans), e.step)
        self._lost.pop(stream.row, None)
        stream.resident = Spans()
        self.tables["branches"].set("closed", stream.row, e.step)
        self.tables["branches"].set("state", stream.row, e.reason)

    def _leave(self, rows: Rows, step: int) -> Rows:
        """One branch fewer has `rows` in memory; returns those that nobody has any more."""
        if not len(rows):
            return rows
        holders = np.frombuffer(self._holders, np.uint32)
        holders[rows] -= np.minimum(holders[rows], 1)
        dead: Rows = rows[holders[rows] == 0]
        self.tables["tokens"].column("died").set_rows(dead, step)
        return dead

    def on_BranchPreempted(self, e: ev.BranchPreempted) -> None:
        if (stream := self._streams.get(e.seq)) is not None:
            self.tables["branches"].set("state", stream.row, "preempted")

    def on_BranchRestored(self, e: ev.BranchRestored) -> None:
        if (stream := self._streams.get(e.seq)) is not None:
            self._stays.touch(stream, 0)
            self.tables["branches"].set("state", stream.row, "running")

    # ---- tokens ----

    def on_TokenKnown(self, e: ev.TokenKnown) -> None:
        self.tables["vocabulary"].append(e.token, e.text)

    def on_TokensFed(self, e: ev.TokensFed) -> None:
        stream = self._streams.get(e.seq)
        if stream is None:
            return
        self._make_room(stream, e.index, e.step)
        if e.origin is Origin.PROMPT:
            field = Field.PROMPT
        elif e.origin is Origin.TOOL:
            field = Field.RESULT
        else:
            field = Field.STRUCTURE if stream.fielded else Field.TEXT
        for index, token in enumerate(e.tokens, e.index):
            self._add(stream, index, token, field, e.origin, e.step, nan, nan)
        stream.sampled_last = False

    def on_TokenSampled(self, e: ev.TokenSampled) -> None:
        stream = self._streams.get(e.seq)
        if stream is None:
            return
        if e.index != stream.length:
            self._make_room(stream, e.index, e.step)
        field = Field.STRUCTURE if stream.fielded else Field.TEXT
        row = self._add(
            stream, e.index, e.token, field, Origin.SAMPLED, e.step, e.logprob, e.entropy
        )
        stream.sampled_last = True
        add = self.tables["alternatives"].append
        for token, logprob in zip(e.top_ids, e.top_logprobs, strict=False):
            add(row, token, logprob)

    def _make_room(self, stream: Stream, index: int, step: int) -> None:
        """Bring a stream to length `index`: what lay behind was edited away; a gap has no rows."""
        if index < stream.length:
            self._leave(stream.rows_of(stream.resident.remove(index, stream.length)), step)
            before = stream.copy()  # forks go on reading what they were forked from
            for child in (*self._by_row, *self._former):
                if child.parent is stream and child.at > index:
                    child.parent = before
            self._former.append(before)
            stream.truncate(index)
            self._lost[stream.row] = sum(map(len, stream.gone))
            stream.node = self._still_open(stream, index)
            entry = stream.resident.count
            self._stays.cut(stream, entry)
        while stream.length < index:
            stream.own.append(UNKNOWN)

    def _still_open(self, stream: Stream, index: int) -> int:
        row = stream.rowat(index - 1) if index else UNKNOWN
        return NOBODY if row == UNKNOWN else self.tables["tokens"].cell("node", row)

    def _add(
        self,
        stream: Stream,
        index: int,
        token: int,
        field: int,
        origin: int,
        step: int,
        logprob: float,
        entropy: float,
    ) -> int:
        row = self._row(stream, index, token, stream.node, field, origin, step, logprob, entropy)
        self._holders[row] = 1
        stream.own.append(row)
        if stream.dirty is None:
            self._stays.touch(stream, stream.resident.count)
        stream.resident.append(index, index + 1)
        self._nodes.begin(stream, row)
        return row

    def _row(
        self,
        stream: Stream,
        index: int,
        token: int,
        node: int,
        field: int,
        origin: int,
        step: int,
        logprob: float,
        entropy: float,
    ) -> int:
        self._holders.append(0)
        self._births.append(self._facts)
        return self.tables["tokens"].append(
            stream.row, index, token, node, field, origin, step, NEVER, logprob, entropy
        )

    # ---- prunes ----

    def on_Pruned(self, e: ev.Pruned) -> None:
        stream = self._streams.get(e.seq)
        if stream is None:
            return
        if e.cause != "earlier":
            self._tell_prune(stream, e)
        if e.cause == "edit":
            self._make_room(stream, e.start, e.step)
            return
        self._stays.cut(stream, stream.resident.entry(e.start))
        spans = stream.resident.remove(e.start, e.stop)
        since = 0 if e.cause == "earlier" else self._facts
        stream.cuts.append((since, e.start, e.stop))
        if e.mode is PruneMode.REENCODE:
            stream.sampled_last = False  # it runs in the same pass as the survivors
        dead = self._leave(stream.rows_of(spans), e.step)
        if len(dead):
            stream.gone.append(np.concatenate([np.arange(a, b) for a, b in spans]))
            self._lost[stream.row] = self._lost.get(stream.row, 0) + len(dead)

    def _tell_prune(self, stream: Stream, e: ev.Pruned) -> None:
        node = self._nodes.row(e.node)
        if node != NOBODY:
            self.tables["nodes"].set("pruned", node, e.step)
        rows = stream.rows(e.start, e.stop)
        first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (NEVER, NEVER)
        self.tables["prunes"].append(
            e.step, node, stream.row, first, last, e.removed, e.reencoded, e.rotated, e.pages_freed,
            e.length_before, e.length_after, str(e.mode), e.cause,
        )  # fmt: skip

    # ---- steps and routes ----

    def on_StepEnded(self, e: ev.StepEnded) -> None:
        self._stays.settle(e.step)
        self.tables["steps"].append(
            e.t,
            e.seconds,
            e.phase,
            e.rows,
            e.prefill,
            e.decode,
            e.extend,
            e.reencode,
            e.sampled,
            self.tables["tokens"].rows,
            e.resident,
            e.resident + sum(self._lost.values()),
            e.pages_held,
            e.waiting,
        )
        self.tables.meta["last_step"] = e.step

    def on_Routed(self, e: ev.Routed) -> None:
        experts, counts = np.unique(np.array(e.experts, np.int64), return_counts=True)
        add = self.tables["routes"].append
        for expert, count in zip(experts.tolist(), counts.tolist(), strict=True):
            add(e.step, e.layer, expert, min(count, 0xFFFF))
