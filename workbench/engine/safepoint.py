"""Commands, obeyed between two steps: each is accepted or refused, and that is told."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workbench.commands import (
    Cancel,
    Command,
    EvictPage,
    Pause,
    PinPage,
    Resume,
    StepNode,
    StepOut,
    StepTokens,
)
from workbench.engine.errors import EngineError, Refused
from workbench.events import (
    CommandAccepted,
    CommandRefused,
    Event,
    NodeClosed,
    NodeOpened,
    PagePinned,
    RunPaused,
    RunResumed,
    ToolCalled,
    ToolReturned,
)
from workbench.words import Finish, NodeId, PageId

if TYPE_CHECKING:
    from workbench.engine.engine import Engine

Outcome = Mapping[str, Any]
Reply = "Future[dict[str, Any]]"


class Control:
    """Whether the engine may step, and what it waits for before it pauses again."""

    def __init__(self, engine: "Engine") -> None:
        self.paused = False
        self.abandoned = False  # the last pass was given up for a command
        self._engine = engine
        self.tokens_left: int | None = None  # to be sampled before a pause
        self._next_node = False
        self._out_of: NodeId | None = None
        self._open: dict[NodeId, None] = {}  # nodes that are open, oldest first
        self._tools = 0  # calls that have not returned
        self._handlers: set[asyncio.Future[Any]] = set()

    @property
    def waits_on(self) -> str:
        return "paused" if self.paused else "tool" if self._tools > 0 else "idle"

    # ---- obeying ----

    def obey(self) -> None:
        """Carry out whatever has arrived."""
        for command, future in self._engine.inbox.drain():
            obey = self._OBEYS.get(type(command))
            if obey is None:
                self._hand_on(command, future)
                continue
            try:
                outcome = obey(self, command)
            except EngineError as error:
                self._refuse(command, str(error), future)
            else:
                self._accept(command, outcome, future)
                if isinstance(command, Pause):
                    self._pause()

    def _pause_now(self, command: Pause) -> Outcome:
        if self.paused:
            raise Refused("the run is paused already")
        return {}

    def _resume(self, command: Resume) -> Outcome:
        if not self.paused:
            raise Refused("the run is not paused")
        self._go()
        return {}

    def _step_tokens(self, command: StepTokens) -> Outcome:
        if command.n < 1:
            raise Refused(f"n must be at least 1, got {command.n}")
        self._go()
        self.tokens_left = command.n
        return {}

    def _step_node(self, command: StepNode) -> Outcome:
        self._go()
        self._next_node = True
        return {}

    def _step_out(self, command: StepOut) -> Outcome:
        node = command.node
        if node is None:
            if not self._open:
                raise Refused("no node is open")
            node = next(reversed(self._open))
        elif node not in self._open:
            raise Refused(f"node {node} is not open")
        self._go()
        self._out_of = node
        return {"node": node}

    def _pin(self, command: PinPage) -> Outcome:
        pages, page = self._engine.memory.pages, command.page
        if not 0 <= page < pages.pages:
            raise Refused(f"pages are 0 to {pages.pages - 1}, got {page}")
        if not pages.refcount[page] and not pages.kept[page]:
            raise Refused(f"page {page} is free; only a page that holds something can be pinned")
        if (page in pages.pinned) == command.pinned:
            raise Refused(f"page {page} is {'pinned already' if command.pinned else 'not pinned'}")
        pages.pin(page, command.pinned)
        self._engine.tell(PagePinned(self._engine.now, PageId(page), command.pinned))
        return {}

    def _evict(self, command: EvictPage) -> Outcome:
        memory, page = self._engine.memory, command.page
        doomed = memory.prefix.below(page)
        if not doomed:
            raise Refused(f"page {page} is not in the prefix cache")
        for one in doomed:
            if memory.pages.refcount[one]:
                raise Refused(f"page {one} is held by {memory.pages.refcount[one]} branches")
            if one in memory.pages.pinned:
                raise Refused(f"page {one} is pinned")
        for one in doomed:
            memory.evict(one)
        return {"pages": doomed}

    def _cancel(self, command: Cancel) -> Outcome:
        engine = self._engine
        record = engine.requests.get(command.request)
        if record is None or record.finish is not None:
            raise Refused(f"request {command.request} is unknown or has ended")
        engine.end_request(command.request, Finish.CANCELLED)
        if engine.on_cancel is not None:
            engine.on_cancel(command.request)
        return {}

    _OBEYS: Mapping[type[Command], Callable[["Control", Any], Outcome]] = {
        Pause: _pause_now, Resume: _resume, StepTokens: _step_tokens, StepNode: _step_node,
        StepOut: _step_out, PinPage: _pin, EvictPage: _evict, Cancel: _cancel,
    }  # fmt: skip

    # ---- commands of the session ----

    def _hand_on(self, command: Command, future: Any) -> None:
        handler = self._engine.on_command
        if handler is None:
            self._refuse(command, f"nobody here obeys {type(command).__name__}", future)
            return
        task = asyncio.ensure_future(self._carry_out(handler(command), command, future))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _carry_out(self, work: Any, command: Command, future: Any) -> None:
        try:
            outcome = await work
        except EngineError as error:
            self._refuse(command, str(error), future)
        except Exception as error:
            self._refuse(command, f"it failed: {error!r}", future)
        else:
            self._accept(command, outcome or {}, future)

    @property
    def busy(self) -> bool:
        """A handler of the session has not had its turn yet."""
        return bool(self._handlers)

    def _accept(self, command: Command, outcome: Outcome, future: Any) -> None:
        engine = self._engine
        engine.tell(
            CommandAccepted(
                engine.now,
                engine.t(),
                type(command).__name__,
                _json(command),
                json.dumps(dict(outcome)),
            )
        )
        if future.set_running_or_notify_cancel():
            future.set_result(dict(outcome))

    def _refuse(self, command: Command, why: str, future: Any) -> None:
        engine = self._engine
        engine.tell(
            CommandRefused(engine.now, engine.t(), type(command).__name__, _json(command), why)
        )
        if future.set_running_or_notify_cancel():
            future.set_exception(Refused(why))

    # ---- pausing ----

    def _pause(self) -> None:
        self.tokens_left, self._next_node, self._out_of = None, False, None
        self.paused = True
        self._engine.tell(RunPaused(self._engine.now, self._engine.t(), self.abandoned))
        self.abandoned = False

    def _go(self) -> None:
        self.tokens_left, self._next_node, self._out_of = None, False, None
        if self.paused:
            self.paused = False
            self._engine.tell(RunResumed(self._engine.now, self._engine.t()))

    def sampled(self) -> None:
        """A token was sampled."""
        if self.tokens_left is not None:
            self.tokens_left -= 1

    def stepped(self) -> None:
        """A step has ended."""
        if self.tokens_left is not None and self.tokens_left <= 0:
            self._pause()

    def saw(self, event: Event) -> None:
        """A fact that a strategy told."""
        match event:
            case NodeOpened(node=node):
                self._open[node] = None
                reached = self._next_node
            case NodeClosed(node=node):
                self._open.pop(node, None)
                reached = self._next_node or node == self._out_of
            case ToolCalled():
                self._tools += 1
                return
            case ToolReturned():
                self._tools -= 1
                return
            case _:
                return
        if reached:
            self._pause()


def _json(command: Command) -> str:
    return json.dumps(asdict(command))
