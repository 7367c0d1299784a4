"""What people and programs did to a run, and what its recorder lost, as rows of `marks`."""

import json

from workbench import events as ev
from workbench.trace.columns import Tables
from workbench.trace.nodes import Nodes


class Marks:
    """Keeps `marks`, and the pins of nodes, which only commands tell of."""

    def __init__(self, tables: Tables, nodes: Nodes) -> None:
        self._marks, self._table = tables["marks"], tables["nodes"]
        self._nodes = nodes
        self._now = 0.0  # seconds; of the last fact that told the time

    def on_RequestOpened(self, e: ev.RequestOpened) -> None:
        self._now = e.t

    def on_StepEnded(self, e: ev.StepEnded) -> None:
        self._now = e.t + e.seconds

    def on_ToolReturned(self, e: ev.ToolReturned) -> None:
        self._now = e.t

    def _mark(self, step: int, kind: str, text: str) -> None:
        self._marks.append(step, self._now, kind, text)

    def on_Noted(self, e: ev.Noted) -> None:
        self._mark(e.step, "note", e.text)

    def on_CommandAccepted(self, e: ev.CommandAccepted) -> None:
        self._now = e.t
        asked = f'"command":{json.dumps(e.command)},"arguments":{e.arguments or "null"}'
        self._mark(e.step, "command", f'{{{asked},"outcome":{e.outcome or "null"}}}')
        if e.command == "PinNode":
            arguments = json.loads(e.arguments)
            if (node := self._nodes.rows.get(arguments.get("node"))) is not None:
                self._table.set("pinned", node, int(arguments.get("pinned", True)))

    def on_CommandRefused(self, e: ev.CommandRefused) -> None:
        self._now = e.t
        asked = f'"command":{json.dumps(e.command)},"arguments":{e.arguments or "null"}'
        self._mark(e.step, "refused", f'{{{asked},"why":{json.dumps(e.why)}}}')

    def on_RunPaused(self, e: ev.RunPaused) -> None:
        self._now = e.t
        self._mark(e.step, "pause", "a step was given up" if e.abandoned else "")

    def on_RunResumed(self, e: ev.RunResumed) -> None:
        self._now = e.t
        self._mark(e.step, "resume", "")

    def on_DetailDropped(self, e: ev.DetailDropped) -> None:
        self._mark(e.step, "loss", f"{e.count} × {e.kind}")
