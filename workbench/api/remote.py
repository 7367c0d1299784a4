"""A client's tools inside a tree: the inference waits, its memory kept, for the client's result.

A reply ends with `tool_calls`, and the run is parked. The next request, whose last message is the
result, goes on in the same inference: nothing is computed twice.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.api.prompts import Message
from workbench.api.tools import ClientTool
from workbench.session import Run

MARGIN = 30.0  # seconds that the tool's own limit lies behind the end of a parked run

if TYPE_CHECKING:
    from workbench.api.flow import Flow
    from workbench.api.replies import Teller


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A call that waits for its result, as an item of a flow."""

    name: str
    arguments: str  # compact JSON
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(8)}")
    reply: "Future[Any]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True, eq=False)
class RemoteTool:
    """A tool of the client's, called on a thread of its own. `ask` hands the call over."""

    client: ClientTool
    patience: float  # seconds that a call waits
    ask: Callable[[Wanted], None]

    @property
    def timeout(self) -> float:
        return self.patience + MARGIN

    @property
    def name(self) -> str:
        return self.client.name

    @property
    def description(self) -> str:
        return self.client.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.client.parameters

    def __call__(self, **arguments: Any) -> Any:
        text = json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)
        wanted = Wanted(self.name, text)
        self.ask(wanted)
        return wanted.reply.result(self.timeout)


@dataclass(slots=True, eq=False)
class Course:
    """A run on its way, perhaps over several replies."""

    run: Run
    flow: "Flow"
    teller: "Teller"
    wanted: Wanted | None = None  # it waits for this


class Parked:
    """Runs that wait for a client's result, by the call's id; after `timeout` s they end."""

    def __init__(self, timeout: float, end: Callable[[Course], None]) -> None:
        self.timeout = timeout
        self._end = end
        self._waiting: dict[str, tuple[Course, asyncio.TimerHandle]] = {}

    def park(self, course: Course) -> None:
        assert course.wanted is not None
        name = course.wanted.id
        timer = asyncio.get_running_loop().call_later(self.timeout, self._expire, name)
        self._waiting[name] = (course, timer)

    def take(self, message: Message) -> Course | None:
        """The run that waits for this message, its result handed in; None where none does."""
        course, timer = self._waiting.pop(message.answers, (None, None))
        if course is None or timer is None or course.wanted is None:
            return None
        timer.cancel()
        wanted, course.wanted = course.wanted, None
        wanted.reply.set_result(_value(message.content))
        return course

    def _expire(self, name: str) -> None:
        course, _ = self._waiting.pop(name)
        if course.wanted is not None:
            course.wanted.reply.cancel()
        self._end(course)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
