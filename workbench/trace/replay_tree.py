"""The audit's part about trees: spans inside spans, one request a tree, text against structure."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench import events as ev
from workbench.words import Field, NodeKind

if TYPE_CHECKING:
    from workbench.trace.replay import StreamAudit

WORTH = (Field.THOUGHT, Field.CONCLUSION)  # fields whose text the JSON gives again


@dataclass(slots=True, eq=False)
class AuditedNode:
    opened: ev.NodeOpened
    children: "list[AuditedNode]" = field(default_factory=list)
    spans: list[ev.FieldSpanned] = field(default_factory=list)
    closed: ev.NodeClosed | None = None

    @property
    def name(self) -> str:
        return f"node {self.opened.node} ({self.opened.path or 'root'})"


class TreeAudit:
    """Nodes and their spans against the streams."""

    def __init__(self, say: Callable[[str], None], streams: "StreamAudit") -> None:
        self.say = say
        self._streams = streams
        self._nodes: dict[int, AuditedNode] = {}
        self._ended: set[int] = set()

    def on_NodeOpened(self, e: ev.NodeOpened) -> None:
        if e.node in self._nodes:
            self.say(f"step {e.step}: node {e.node} is opened twice")
        node = self._nodes[e.node] = AuditedNode(e)
        if not 0 <= e.owner <= 12:
            self.say(
                f"step {e.step}: {node.name} has owner colour {e.owner}; there are 1 to 12 and 0"
            )
        branch = self._streams.branches.get(e.seq)
        if branch is None:
            self.say(f"step {e.step}: {node.name} lies on branch {e.seq}, which nobody opened")
        elif branch.request != e.request:
            self.say(
                f"step {e.step}: {node.name} is of request {e.request}, its branch of request "
                f"{branch.request}"
            )
        if e.parent is None:
            return
        parent = self._nodes.get(e.parent)
        if parent is None:
            self.say(f"step {e.step}: {node.name} has parent {e.parent}, which nobody opened")
            return
        parent.children.append(node)
        if parent.opened.request != e.request:
            self.say(
                f"step {e.step}: {node.name} is of request {e.request}, its parent of request "
                f"{parent.opened.request}: a tree belongs to one request"
            )
        if parent.opened.seq == e.seq and e.index < parent.opened.index:
            self.say(
                f"step {e.step}: {node.name} begins at {e.index}, before its parent at "
                f"{parent.opened.index}"
            )
        if parent.closed is not None:
            self.say(f"step {e.step}: {node.name} is opened in {parent.name}, which is closed")

    def _inside(self, step: int, node: int, seq: int, start: int, stop: int, what: str) -> None:
        found = self._nodes.get(node)
        if found is None:
            self.say(f"step {step}: {what} of node {node}, which nobody opened")
            return
        branch = self._streams.branches.get(seq)
        length = len(branch.tokens) if branch else 0
        if not start <= stop <= length:
            self.say(f"step {step}: {what} of {found.name} is [{start}, {stop}) in {length} tokens")
        if seq == found.opened.seq and start < found.opened.index:
            self.say(
                f"step {step}: {what} of {found.name} begins at {start}, before the node at "
                f"{found.opened.index}"
            )

    def on_FieldSpanned(self, e: ev.FieldSpanned) -> None:
        self._inside(e.step, e.node, e.seq, e.start, e.stop, f"the {e.field.name.lower()}")
        if e.node in self._nodes:
            self._nodes[e.node].spans.append(e)

    def on_ListSpanned(self, e: ev.ListSpanned) -> None:
        self._inside(e.step, e.node, e.seq, e.start, e.stop, "the subtask list")
        for child in self._nodes[e.node].children if e.node in self._nodes else ():
            last = child.closed.index if child.closed else e.stop
            here = child.opened.seq == e.seq
            if here and not (e.start <= child.opened.index and last <= e.stop):
                self.say(f"step {e.step}: {child.name} lies outside the subtask list of its parent")

    def on_NodeClosed(self, e: ev.NodeClosed) -> None:
        node = self._nodes.get(e.node)
        if node is None:
            self.say(f"step {e.step}: node {e.node} is closed, nobody opened it")
            return
        if node.closed is not None:
            self.say(f"step {e.step}: {node.name} is closed twice")
        if e.index < node.opened.index:
            self.say(f"step {e.step}: {node.name} ends at {e.index}, before it begins")
        node.closed = e
        for child in node.children:
            if child.closed is None and child.opened.seq == node.opened.seq:
                self.say(f"step {e.step}: {node.name} closes while {child.name} is open")
        self._against_text(node, e)

    def _against_text(self, node: AuditedNode, e: ev.NodeClosed) -> None:
        seq = node.opened.seq
        if node.opened.kind is not NodeKind.TASK or seq not in self._streams.branches:
            return
        value = _json(self._streams.text(seq, node.opened.index, e.index))
        if value is None or "thought" not in value:
            return
        tasks = [child for child in node.children if child.opened.kind is NodeKind.TASK]
        listed = len(value.get("subtasks") or ())
        if listed != len(tasks) + self._inherited(node):
            self.say(
                f"step {e.step}: the text of {node.name} lists {listed} subtasks, the tree has "
                f"{len(tasks)}"
            )
        for span in node.spans:
            if span.field in WORTH and span.seq == seq:
                self._field(node, e, span, value.get(span.field.name.lower()))
        if value.get("conclusion") is not None and value["conclusion"] != e.conclusion:
            self.say(
                f"step {e.step}: the text of {node.name} concludes {value['conclusion']!r}, the "
                f"tree {e.conclusion!r}"
            )

    def _inherited(self, node: AuditedNode) -> int:
        """Subtasks in the text of a fork's node that were done before the fork: they stand under
        the node of which it is the copy."""
        branch = self._streams.branches[node.opened.seq]
        if branch.parent is None or node.opened.index >= branch.at:
            return 0
        place = (branch.parent, node.opened.path, node.opened.index)
        for other in self._nodes.values():
            if (other.opened.seq, other.opened.path, other.opened.index) == place:
                done = [
                    child for child in other.children
                    if child.opened.kind is NodeKind.TASK and child.opened.seq == branch.parent
                    and child.closed is not None and child.closed.index <= branch.at
                ]  # fmt: skip
                return len(done) + self._inherited(other)
        return 0

    def _field(self, node: AuditedNode, e: ev.NodeClosed, span: ev.FieldSpanned, said: Any) -> None:
        text = self._streams.text(span.seq, span.start, span.stop).decode("utf-8", "replace")
        if not isinstance(said, str):
            return
        escaped = json.dumps(said, ensure_ascii=False)[1:-1]
        if escaped.strip() not in text and said.strip() not in text:
            self.say(
                f"step {e.step}: the {span.field.name.lower()} of {node.name} is {said!r}, "
                f"its tokens say {text!r}"
            )

    def on_RequestEnded(self, e: ev.RequestEnded) -> None:
        self._ended.add(e.request)
        if e.finish != "stop":
            return
        for node in self._nodes.values():
            if node.opened.request == e.request and node.closed is None:
                self.say(f"step {e.step}: request {e.request} ends well while {node.name} is open")

    def end(self) -> None:
        roots: dict[int, int] = {}
        for node in self._nodes.values():
            if node.opened.parent is None and node.opened.kind is NodeKind.ROOT:
                roots[node.opened.request] = roots.get(node.opened.request, 0) + 1
        for request, count in roots.items():
            if count > 1:
                self.say(f"request {request} has {count} roots: a tree belongs to one request")


def _json(text: bytes) -> dict[str, Any] | None:
    start, stop = text.find(b"{"), text.rfind(b"}")
    try:
        value = json.loads(text[start : stop + 1])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
