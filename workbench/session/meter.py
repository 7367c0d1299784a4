"""What a run has spent so far, counted from the facts as they pass. Engine's thread writes, others read."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workbench.events import (
    BranchOpened,
    Event,
    NodeOpened,
    Pruned,
    Scored,
    StepEnded,
    TokenSampled,
    TokensFed,
    ToolReturned,
)
from workbench.words import NodeId, RequestId, SeqId


@dataclass(slots=True)
class Spent:
    """Counts of one request. `computed` is of all steps while it was the only one, else derived."""

    sampled: int = 0
    fed: int = 0
    reused: int = 0
    pruned: int = 0
    reencoded: int = 0
    scorer: int = 0
    stepped: int = 0  # tokens run by steps in which this request had a branch
    peak_tokens: int = 0
    peak_pages: int = 0
    resident: int = 0
    pages: int = 0
    nodes: int = 0
    depth: int = 0
    tool_s: float = 0.0
    started: float = 0.0
    first_token: float | None = None
    ended: float | None = None
    alone: bool = True

    @property
    def computed(self) -> int:
        if self.alone:
            return self.stepped
        return max(0, self.fed - self.reused) + self.sampled + self.reencoded

    @property
    def seconds(self) -> float:
        return (self.ended if self.ended is not None else time.perf_counter()) - self.started


@dataclass(slots=True)
class Meter:
    """Sees every event before the recorder does."""

    pass_on: Callable[[Event], None]
    watchers: list[Callable[[Event], None]] = field(default_factory=list)
    spent: dict[RequestId, Spent] = field(default_factory=dict)
    _request_of: dict[SeqId, RequestId] = field(default_factory=dict)
    _depths: dict[NodeId, int] = field(default_factory=dict)

    def open(self, request: RequestId) -> Spent:
        running = [s for s in self.spent.values() if s.ended is None]
        for other in running:
            other.alone = False
        self.spent[request] = Spent(started=time.perf_counter(), alone=not running)
        return self.spent[request]

    def close(self, request: RequestId) -> None:
        self.spent[request].ended = time.perf_counter()

    def emit(self, event: Event) -> None:
        self.pass_on(event)
        count = _COUNTS.get(type(event))
        if count is not None:
            count(self, event)
        for watcher in tuple(self.watchers):
            watcher(event)

    def _of(self, seq: SeqId) -> Spent | None:
        request = self._request_of.get(seq)
        return None if request is None else self.spent.get(request)

    def _branch(self, event: Any) -> None:
        self._request_of[event.seq] = event.request
        spent = self._of(event.seq)
        if spent is not None:
            spent.reused += event.reused

    def _sampled(self, event: Any) -> None:
        spent = self._of(event.seq)
        if spent is not None:
            spent.sampled += 1
            if spent.first_token is None:
                spent.first_token = time.perf_counter()

    def _fed(self, event: Any) -> None:
        spent = self._of(event.seq)
        if spent is not None:
            spent.fed += len(event.tokens)

    def _pruned(self, event: Any) -> None:
        spent = self._of(event.seq)
        if spent is not None:
            spent.pruned += event.removed
            spent.reencoded += event.reencoded

    def _scored(self, event: Any) -> None:
        spent = self._of(event.seq)
        if spent is not None:
            spent.scorer += event.tokens

    def _returned(self, event: Any) -> None:
        spent = self._of(event.seq)
        if spent is not None:
            spent.tool_s += event.seconds

    def _opened(self, event: Any) -> None:
        depth = 0 if event.parent is None else self._depths.get(event.parent, 0) + 1
        self._depths[event.node] = depth
        spent = self.spent.get(event.request)
        if spent is not None:
            spent.nodes += 1
            spent.depth = max(spent.depth, depth)

    def _stepped(self, event: Any) -> None:
        tokens = event.prefill + event.decode + event.extend + event.reencode
        for spent in self.spent.values():
            if spent.ended is None:
                spent.stepped += tokens
                spent.resident, spent.pages = event.resident, event.pages_held
                spent.peak_tokens = max(spent.peak_tokens, event.resident)
                spent.peak_pages = max(spent.peak_pages, event.pages_held)


_COUNTS: dict[type[Event], Callable[[Meter, Any], None]] = {
    BranchOpened: Meter._branch,
    TokenSampled: Meter._sampled,
    TokensFed: Meter._fed,
    Pruned: Meter._pruned,
    Scored: Meter._scored,
    ToolReturned: Meter._returned,
    NodeOpened: Meter._opened,
    StepEnded: Meter._stepped,
}


def summary(spent: Spent, *, answer: str, finish: str, page_size: int) -> dict[str, Any]:
    """A run's figures, named as the command line names them."""
    ttft = None if spent.first_token is None else spent.first_token - spent.started
    busy = max(spent.seconds - spent.tool_s, 1e-9)
    return {
        "answer": answer,
        "finish": finish,
        "tokens": {
            "sampled": spent.sampled,
            "computed": spent.computed,
            "reused": spent.reused,
            "scorer": spent.scorer,
        },
        "ttft_s": ttft,
        "tok_s": spent.sampled / busy,
        "kv": {
            "page_size": page_size,
            "peak_pages": spent.peak_pages,
            "peak_tokens": spent.peak_tokens,
            "pruned_tokens": spent.pruned,
            "reencoded_tokens": spent.reencoded,
        },
        "tree": {"nodes": spent.nodes, "depth": spent.depth},
        "tool_s": spent.tool_s,
        "wall_s": spent.seconds,
    }
