"""A run as a notebook holds it: wait for it, steer it, ask it. Every method returns at once but
`wait`."""

import asyncio
import json
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from workbench.commands import (
    AddNote,
    Cancel,
    Command,
    EditText,
    ForkAt,
    ForkNode,
    Pause,
    PinNode,
    PruneNode,
    Resume,
    StepNode,
    StepOut,
    StepTokens,
)
from workbench.reasoning.strategy import Answer, Strategy, Task
from workbench.reasoning.tree import Node
from workbench.session.context import RunContext
from workbench.session.meter import Listener
from workbench.session.spans import Found, Span, find, span
from workbench.trace import LiveTrace
from workbench.words import Finish, NodeId, PruneMode, SeqId

if TYPE_CHECKING:
    from workbench.session.session import Session

REPLY = 10.0  # seconds that a call waits for the answer to its command


class RunFailed(RuntimeError):
    """A run ended by an error; the message is the error's."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `summary` has the fields of `workbench run --json`."""

    answer: str
    finish: Finish
    error: str
    summary: dict[str, Any]


@dataclass(slots=True, eq=False)
class Fork:
    """A branch that a person forked off; it runs beside the first to an answer of its own."""

    seq: SeqId
    at: int  # stream index of its first own token
    token: int | None  # chosen for it
    is_edit: bool = False  # it took the place of the first branch
    result: "Future[str]" = field(default_factory=Future)

    @property
    def done(self) -> bool:
        return self.result.done()

    def wait(self, timeout: float | None = None) -> str:
        """The branch's answer."""
        return self.result.result(timeout)


@dataclass(eq=False)
class Run:
    """One run of a strategy. Made by `Session.run`."""

    session: "Session"
    strategy: Strategy
    task: Task
    seed: int
    budget: Mapping[str, Any]
    title: str
    forks: dict[SeqId, Fork] = field(default_factory=dict)
    at: int | None = None  # step that views show; None follows the run
    bookmarks: list[tuple[int, str]] = field(default_factory=list)
    contexts: list[RunContext] = field(default_factory=list)  # of its branches, the first one first
    future: "Future[Result]" = field(default_factory=Future)
    edited: Answer | None = None  # of the branch that took the first one's place
    listener: Listener | None = None  # told the run's facts, on the engine's thread
    unwanted: bool = False  # cancelled, perhaps before it began

    @property
    def main(self) -> SeqId | None:
        """The branch whose answer is the run's; None before it is opened."""
        edits = [fork.seq for fork in self.forks.values() if fork.is_edit]
        if edits:
            return edits[-1]
        return next(iter(self.contexts[0].branches), None) if self.contexts else None

    # waiting

    @property
    def done(self) -> bool:
        return self.future.done()

    def wait(self, timeout: float | None = None) -> Result:
        """Block until the run has ended. Ctrl-C cancels the run, keeps what was recorded and goes
        up. Raises RunFailed when an error ended it, TimeoutError when it still runs after
        `timeout` s."""
        left = timeout
        try:
            while True:
                slice_s = 0.2 if left is None else min(0.2, left)  # short, so that Ctrl-C is heard
                try:
                    return self.future.result(slice_s)
                except NotYet:
                    if self.future.done():
                        raise
                    if left is not None:
                        left -= slice_s
                        if left <= 0:
                            raise
        except KeyboardInterrupt:
            self.cancel()
            raise

    def wait_for(self, node: str, timeout: float = 60.0) -> Node:
        """Block until the node at a path such as "1.2" has begun. Raises KeyError when the run
        ends without it, TimeoutError after `timeout` s."""
        until = time.monotonic() + timeout
        while not self.done and time.monotonic() < until:
            if any(known.path == node for known in self.nodes.values()):
                break
            time.sleep(0.005)
        else:
            if not self.done:
                raise TimeoutError(f"node {node!r} had not begun after {timeout:g} s")
        return self.node(node)

    def __await__(self) -> Generator[Any, None, Result]:
        return asyncio.wrap_future(self.future).__await__()

    def counts(self) -> dict[str, int]:
        """Live numbers for a progress line."""
        return self.session.counts(self)

    # steering

    def pause(self) -> dict[str, Any]:
        return self._ask(Pause())

    def resume(self) -> dict[str, Any]:
        return self._ask(Resume())

    def step(self, n: int = 1) -> dict[str, Any]:
        """Sample `n` tokens, then pause."""
        return self._ask(StepTokens(n))

    def step_node(self) -> dict[str, Any]:
        """To the next node that opens or closes."""
        return self._ask(StepNode())

    def step_out(self, node: str | None = None) -> dict[str, Any]:
        """To the end of a node (the innermost open one when None)."""
        return self._ask(StepOut(None if node is None else self.node(node).id))

    def cancel(self) -> None:
        self.unwanted = True  # before the look at `contexts`: a run that begins now sees it
        request = self.contexts[0].request if self.contexts else None
        if request is not None and not self.done:
            self.session.submit(Cancel(request))

    def prune(self, node: str, mode: PruneMode | str = PruneMode.REENCODE) -> dict[str, Any]:
        """Take the subtask list of a node, named by its path, out of memory."""
        return self._ask(PruneNode(self.node(node).id, PruneMode(mode)))

    def pin(self, node: str, pinned: bool = True) -> dict[str, Any]:
        return self._ask(PinNode(self.node(node).id, pinned))

    def note(self, text: str, node: str | None = None) -> dict[str, Any]:
        return self._ask(AddNote(text, None if node is None else self.node(node).id))

    def fork(
        self,
        token: int,
        rank: int | None = None,
        *,
        choose: int | None = None,
        seq: SeqId | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Fork:
        """A second branch from stream token `token` on: with the `rank`-th most probable token
        recorded there (0 is the best), the token id `choose`, or, with neither, drawn anew."""
        branch = self.main if seq is None else seq
        if branch is None:
            raise RunFailed("the run has not begun yet; wait for its first token")
        outcome = self._ask(ForkAt(branch, token, choose, rank, temperature, seed))
        return self.forks[SeqId(outcome["seq"])]

    def fork_node(
        self, node: str, *, temperature: float | None = None, seed: int | None = None
    ) -> Fork:
        """A second branch from the first token of a node on."""
        outcome = self._ask(ForkNode(self.node(node).id, temperature, seed))
        return self.forks[SeqId(outcome["seq"])]

    def edit(self, start: int, stop: int, text: str) -> dict[str, Any]:
        """Replace stream tokens [start, stop); what follows is dropped and generated anew."""
        if self.main is None:
            raise RunFailed("the run has not begun yet; wait for its first token")
        return self._ask(EditText(self.main, start, stop, text))

    def _ask(self, command: Command) -> dict[str, Any]:
        return self.session.submit(command).result(REPLY)

    # asking

    @property
    def trace(self) -> LiveTrace:
        return self.session.trace

    @property
    def nodes(self) -> dict[NodeId, Node]:
        return dict(self.contexts[0].tree.nodes) if self.contexts else {}

    def node(self, path: str) -> Node:
        """The node at a path such as "4.2" of the first branch; KeyError with those that there
        are."""
        found = [node for node in self.nodes.values() if node.path == path]
        if not found:
            known = ", ".join(sorted({n.path for n in self.nodes.values() if n.path})[:12])
            raise KeyError(f"no node {path!r}; there are {known or 'none yet'}")
        return found[0]

    def seek(self, step: int | None) -> None:
        """Move the cursor of views shown from this run; None follows the run."""
        self.at = step
        for view in self.session.views:
            view.at = step

    def find(self, text: str) -> list[Found]:
        """Where `text` stands in titles, conclusions and tokens."""
        return find(self.trace.tables(), text)

    def __getitem__(self, steps: slice) -> Span:
        """Figures of the steps [a, b)."""
        return span(self.trace.tables(), steps)

    def show(self) -> object:
        """The composite view of the run."""
        view = self.session.view()
        self.session.views.append(view)
        return view

    def __repr__(self) -> str:
        state = "running"
        if self.done:
            error = self.future.exception()
            state = f"failed: {error}" if error else f"{self.future.result().finish}"
        counts = self.counts()
        return (
            f"Run({self.title!r}, {self.strategy.name}, {state})\n"
            f"  {counts['sampled']} sampled, {counts['nodes']} nodes\n"
            f"  {counts['resident']} tokens in {counts['pages']} pages, {counts['pruned']} pruned"
        )


def params_json(strategy: Strategy) -> str:
    return json.dumps(
        {field.name: getattr(strategy, field.name) for field in fields(strategy)}, default=str
    )
