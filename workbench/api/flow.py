"""From the engine's thread to the server's loop: a run's facts in order, then how it ended."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from workbench.api.errors import ApiError, failed
from workbench.api.remote import Wanted
from workbench.engine.errors import BadArgument, EngineError, PoolTooSmall, PromptTooLong, Unserved
from workbench.engine.grammar import GrammarError
from workbench.events import Event
from workbench.session import Result
from workbench.words import Finish

REFUSALS = (BadArgument, PoolTooSmall, PromptTooLong, Unserved, GrammarError)  # of what was asked


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """The last item of a flow: one of both."""

    result: Result | None = None
    error: BaseException | None = None


class Flow:
    """Made on the server's loop; `listener` and `ended` are called on the engine's thread."""

    def __init__(self, kinds: tuple[type[Event], ...]) -> None:
        self._kinds = kinds
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | Wanted | Ended] = asyncio.Queue()

    def listener(self, event: Event) -> None:
        if isinstance(event, self._kinds):
            self.put(event)

    def ended(self, future: "Future[Result]") -> None:
        error = future.exception()
        self.put(Ended(error=error) if error else Ended(future.result()))

    def put(self, item: Event | Wanted | Ended) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the server's loop has gone; nobody listens
            return

    async def items(self) -> AsyncIterator[list[Any]]:
        """What has come since the last look, at least one; ends with an `Ended` or a `Wanted`."""
        while True:
            batch = [await self._queue.get()]
            while not (self._queue.empty() or isinstance(batch[-1], Wanted)):
                batch.append(self._queue.get_nowait())
            yield batch
            if isinstance(batch[-1], Ended | Wanted):
                return


def outcome(ended: Ended) -> Result:
    """The run's result. Raises ApiError for one that is none."""
    if ended.error is not None:
        cause = ended.error.__cause__
        if isinstance(cause, REFUSALS):
            code = "context_length_exceeded" if isinstance(cause, PromptTooLong) else None
            raise ApiError(str(cause), "messages" if code else None, code=code)
        raise failed(str(cause) if isinstance(cause, EngineError) else str(ended.error))
    assert ended.result is not None
    if ended.result.finish is Finish.CANCELLED:
        why = f" ({ended.result.error})" if ended.result.error else ""
        raise ApiError(f"the run was cancelled{why}", status=503, type="server_error")
    if ended.result.finish is Finish.ERROR:
        raise failed(ended.result.error)
    return ended.result
