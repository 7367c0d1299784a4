"""A reasoning tree as it grows: nodes, their spans in the stream, and the colours of their owners.

A tree belongs to one request and may lie on several branches. It never looks at memory: spans are
stream indexes, which a prune does not shift. Every change is told as an event.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from workbench.events import (
    Event,
    FieldSpanned,
    ListSpanned,
    NodeClosed,
    NodeOpened,
    NodeTitled,
)
from workbench.words import Field, NodeId, NodeKind, RequestId, SeqId, Step

COLOURS = 12
STILL_SEEN = 0.05  # share of the resident tokens above which a holder keeps its colour to itself
TITLE = 80  # characters


@dataclass(slots=True, eq=False)
class Node:
    """One node. `first` and `last` bound its text, its children's included; `last` is None while
    open."""

    id: NodeId
    parent: "Node | None"
    seq: SeqId
    kind: NodeKind
    path: str
    first: int
    owner: int
    lap: int
    last: int | None = None
    title: str = ""
    conclusion: str = ""
    children: "list[Node]" = field(default_factory=list)
    fields: list[tuple[Field, int, int]] = field(default_factory=list)
    span: tuple[int, int] | None = None  # contents of its subtask list, once that is closed
    pinned: bool = False

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def open(self) -> bool:
        return self.last is None

    @property
    def finished(self) -> tuple[int, int] | None:
        """Contents of its subtask list; while that is being written, the subtasks before the
        newest, which goes on in the place of the first."""
        if self.span is not None:
            return self.span
        own = [child for child in self.children if child.seq == self.seq]
        return (own[0].first, own[-1].first) if len(own) > 1 else None

    def unpinned(self) -> list[tuple[int, int]]:
        """What is finished of its subtask list without the pinned nodes in it: what a prune may
        remove."""
        node: Node | None = self
        while node is not None:
            if node.pinned:
                return []
            node = node.parent
        if self.finished is None:
            return []
        start, stop = self.finished
        spans = []
        for first, last in sorted(self._pinned_below()):
            spans.append((start, first))
            start = last
        return [(a, b) for a, b in [*spans, (start, stop)] if a < b]

    def _pinned_below(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for child in self.children:
            if not child.pinned:
                found += child._pinned_below()
            elif child.last is not None:
                found.append((child.first, child.last))
        return found


class Palette:
    """Colours 1 to 12 in cycle order; one whose holder still fills memory is skipped."""

    def __init__(self) -> None:
        self._given = 0  # places of the cycle passed so far, skipped ones included

    def next(self, resident: Mapping[int, int]) -> tuple[int, int]:
        """Colour and lap for a new top-level subtree. `resident`: tokens in memory by colour, all
        of them (neutral ones under 0)."""
        total = sum(resident.values())
        for skip in range(COLOURS):
            place = self._given + skip
            colour = place % COLOURS + 1
            if resident.get(colour, 0) <= STILL_SEEN * total:
                break
        else:
            place = self._given
        self._given = place + 1
        return place % COLOURS + 1, place // COLOURS


def _only_task(node: Node) -> bool:
    root = node.parent
    return (
        root is not None and not root.owner and sum(c.kind is node.kind for c in root.children) == 1
    )


class Tree:
    """Opens and closes nodes, assigns owners, remembers which token belongs to whom.

    `resident(seq)` gives the stream indexes in memory; it is asked only when a top-level subtree
    is born.
    """

    def __init__(
        self,
        request: RequestId,
        *,
        emit: Callable[[Event], None],
        step: Callable[[], Step],
        new_id: Callable[[], NodeId],
        resident: Callable[[SeqId], Sequence[int]],
    ) -> None:
        self.request = request
        self.nodes: dict[NodeId, Node] = {}
        self._emit, self._step, self._new_id, self._resident = emit, step, new_id, resident
        self._palette = Palette()
        self._owners: dict[SeqId, list[tuple[int, int]]] = {}  # (first token, colour), ascending

    def open(
        self,
        parent: Node | None,
        kind: NodeKind,
        seq: SeqId,
        index: int,
        *,
        path: str | None = None,
    ) -> Node:
        """A node whose text begins at stream token `index` of `seq`. A child of a root or of a
        branch without owner begins a subtree of its own colour; so do the children of a root's
        only child, as the one task that holds all others would paint the whole run in its
        colour."""
        if path is None:
            path = "" if parent is None else self._path(parent, kind)
        owner, lap = (0, 0) if parent is None else (parent.owner, parent.lap)
        if parent is not None and (not owner or _only_task(parent)):
            owner, lap = self._palette.next(self._shares(seq))
        node = Node(self._new_id(), parent, seq, kind, path, index, owner, lap)
        if parent is not None:
            parent.children.append(node)
        self.nodes[node.id] = node
        self._mark(seq, index, owner)
        self._tell(node)
        return node

    def set_title(self, node: Node, text: str) -> None:
        node.title = text if len(text) <= TITLE else text[: TITLE - 1] + "…"
        self._emit(NodeTitled(self._step(), node.id, node.title))

    def set_field(self, node: Node, field: Field, start: int, stop: int) -> None:
        """Tokens [start, stop) are `field` of `node`; an empty span is not told."""
        if stop > start:
            node.fields.append((field, start, stop))
            self._emit(FieldSpanned(self._step(), node.id, node.seq, field, start, stop))

    def set_list(self, node: Node, start: int, stop: int) -> None:
        node.span = (start, stop)
        self._emit(ListSpanned(self._step(), node.id, node.seq, start, stop))

    def close(self, node: Node, index: int, conclusion: str = "") -> None:
        node.last = index
        node.conclusion = conclusion
        if node.parent is not None:
            self._mark(node.seq, index, node.parent.owner)
        self._emit(NodeClosed(self._step(), node.id, index, conclusion))

    def close_all(self, index: int, seq: SeqId) -> None:
        """Close what is still open on `seq`, inner nodes first: the stream ended there."""
        for node in sorted(self.nodes.values(), key=lambda n: -n.depth):
            if node.open and node.seq == seq:
                self.close(node, index, node.conclusion)

    @property
    def roots(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.parent is None]

    @property
    def depth(self) -> int:
        return max((node.depth for node in self.nodes.values()), default=0)

    def scratch(self) -> "Tree":
        """An empty tree that tells nobody: to read again what a fork shares with its parent."""
        ids = iter(range(-2, -(1 << 31), -1))
        return Tree(
            self.request,
            emit=lambda event: None,
            step=self._step,
            new_id=lambda: NodeId(next(ids)),
            resident=lambda seq: (),
        )

    def graft(
        self, other: "Tree", chain: Sequence[Node], seq: SeqId, parent: SeqId, at: int
    ) -> None:
        """Take over a scratch tree read from a fork `seq` of `parent` made before stream token
        `at`.

        `chain` are its open nodes from the root down: they go on under new ids below a node for the
        branch. Closed ones are those of the parent: they take their ids.
        """
        self._owners[seq] = [mark for mark in self._owners.get(parent, []) if mark[0] < at]
        twins = {(node.path, node.first): node for node in reversed(self.nodes.values())}
        for node in other.nodes.values():
            twin = twins.get((node.path, node.first))
            if twin is not None:
                node.id, node.owner, node.lap = twin.id, twin.owner, twin.lap
        above = self.roots[0]
        for place, node in enumerate(chain):
            node.id, node.parent = self._new_id(), above
            if not place:
                # it holds its open tasks, which began in the shared part
                node.kind = NodeKind.BRANCH
                node.first = chain[1].first if len(chain) > 1 else at
                node.title = f"fork at token {at}"
                above.children.append(node)
            self.nodes[node.id] = node
            self._tell(node)
            if node.title:
                self._emit(NodeTitled(self._step(), node.id, node.title))
            above = node

    def _tell(self, node: Node) -> None:
        parent = node.parent.id if node.parent else None
        self._emit(
            NodeOpened(
                self._step(), node.id, parent, node.seq, self.request, node.kind, node.path,
                node.first, node.owner, node.lap,
            )
        )  # fmt: skip

    def _path(self, parent: Node, kind: NodeKind) -> str:
        ordinal = sum(child.kind == kind for child in parent.children) + 1
        return f"{parent.path}.{ordinal}" if parent.path else str(ordinal)

    def _mark(self, seq: SeqId, index: int, owner: int) -> None:
        self._owners.setdefault(seq, []).append((index, owner))

    def _shares(self, seq: SeqId) -> Mapping[int, int]:
        marks = self._owners.get(seq, [])
        counts: Counter[int] = Counter()
        at, owner = 0, 0
        for index in self._resident(seq):
            while at < len(marks) and marks[at][0] <= index:
                owner = marks[at][1]
                at += 1
            counts[owner] += 1
        return counts
