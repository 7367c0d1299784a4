"""What the engine does not count of a run: nodes, tool time, and where memory stands now."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workbench.engine.request import Request
from workbench.events import (
    BranchOpened,
    Event,
    NodeOpened,
    RequestEnded,
    StepEnded,
    ToolReturned,
)
from workbench.words import NodeId, RequestId, SeqId

COUNTED = frozenset({StepEnded, NodeOpened, BranchOpened, ToolReturned})
Listener = Callable[[Event], None]


@dataclass(slots=True)
class Spent:
    """Counts of one request, beside the engine's."""

    nodes: int = 0
    depth: int = 0
    tool_s: float = 0.0


@dataclass(slots=True)
class Meter:
    """Hands every event on and counts as it passes. Engine's thread writes, others read numbers."""

    pass_on: Callable[[Event], None]
    resident: int = 0
    pages: int = 0
    spent: dict[RequestId, Spent] = field(default_factory=dict)
    listeners: dict[RequestId, Listener] = field(default_factory=dict)  # until its request ends
    _request_of: dict[SeqId, RequestId] = field(default_factory=dict)
    _node_of: dict[NodeId, RequestId] = field(default_factory=dict)
    _depths: dict[NodeId, int] = field(default_factory=dict)

    def emit(self, event: Event) -> None:
        self.pass_on(event)
        if type(event) in COUNTED:
            self._count(event)
        if self.listeners:
            self._tell(event)
        if isinstance(event, RequestEnded):
            self._forget(event.request)

    def _count(self, event: Event) -> None:
        match event:
            case StepEnded():
                self.resident, self.pages = event.resident, event.pages_held
            case NodeOpened():
                above = -1 if event.parent is None else self._depths.get(event.parent, 0)
                self._depths[event.node] = above + 1
                self._node_of[event.node] = event.request
                spent = self.of(event.request)
                spent.nodes += 1
                spent.depth = max(spent.depth, above + 1)
            case BranchOpened():
                self._request_of[event.seq] = event.request
            case ToolReturned():
                if event.seq in self._request_of:
                    self.of(self._request_of[event.seq]).tool_s += event.seconds

    def _forget(self, request: RequestId) -> None:
        for node in [n for n, owner in self._node_of.items() if owner == request]:
            del self._node_of[node], self._depths[node]
        for seq in [s for s, owner in self._request_of.items() if owner == request]:
            del self._request_of[seq]

    def _tell(self, event: Event) -> None:
        request = getattr(event, "request", None)
        if request is None:
            request = self._request_of.get(getattr(event, "seq", SeqId(-1)))
        if request is None:
            request = self._node_of.get(getattr(event, "node", NodeId(-1)))
        listener = None if request is None else self.listeners.get(request)
        if listener is not None:
            listener(event)
            if isinstance(event, RequestEnded):
                del self.listeners[event.request]

    def of(self, request: RequestId) -> Spent:
        return self.spent.setdefault(request, Spent())


def summary(
    request: Request, spent: Spent, *, answer: str, now: float, page_size: int
) -> dict[str, Any]:
    """A run's figures, named as the command line names them; `now` in the engine's seconds."""
    wall = now - request.opened
    first = request.first_token
    return {
        "answer": answer,
        "finish": str(request.finish) if request.finish else None,
        "tokens": {
            "sampled": request.sampled,
            "computed": request.computed,
            "reused": request.reused,
            "scorer": request.scorer,
            "drafted": request.drafted,
            "kept": request.kept,
        },
        "ttft_s": None if first is None else first - request.opened,
        "tok_s": request.sampled / max(wall - spent.tool_s, 1e-9),
        "kv": {
            "page_size": page_size,
            "peak_pages": request.peak_pages,
            "peak_tokens": request.peak_tokens,
            "own_peak_tokens": request.peak_own,
            "pruned_tokens": request.pruned,
            "reencoded_tokens": request.reencoded,
        },
        "tree": {"nodes": spent.nodes, "depth": spent.depth},
        "tool_s": spent.tool_s,
        "wall_s": wall,
    }
