"""One chat completion as a response: begins a run, tells it, and ends it when the client goes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from workbench.api.body import ChatRequest
from workbench.api.errors import ApiError, failed
from workbench.api.flow import Ended, Flow, outcome
from workbench.api.plan import plan
from workbench.api.remote import Course, RemoteTool, Wanted
from workbench.api.replies import SPOKEN, TREE, ChatTeller, Delta, TreeTeller
from workbench.api.wire import DONE, Envelope, sse

if TYPE_CHECKING:
    from workbench.api.app import Api

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


class Completion(Response):
    """The run lives no longer than the client's connection, but for one that waits for the result
    of the client's own tool."""

    def __init__(self, api: "Api", asked: ChatRequest) -> None:
        self.api, self.asked = api, asked
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_there(receive, self._respond(scope, receive, send))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with self.api.gate:
                course = self.api.parked.take(self.asked.messages[-1]) or await self._begin()
                course.teller.asked = self.asked
                answer = self._stream if self.asked.stream else self._whole
                await answer(course, scope, receive, told)
        except ApiError as error:
            await self._refuse(error, begun, scope, receive, send)
        except Exception as fault:  # ours: the client is told, the server's log says where
            await self._refuse(failed(repr(fault)), begun, scope, receive, send)
            raise

    async def _refuse(
        self, error: ApiError, begun: bool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if begun:  # the status has gone out: the error comes as an event
            await send(_body(sse(error.body) + DONE, last=True))
        else:
            await JSONResponse(error.body, error.status)(scope, receive, send)

    async def _begin(self) -> Course:
        api = self.api
        ready = await asyncio.to_thread(plan, api.session, api.tools, self.asked)
        flow = Flow((*SPOKEN, *TREE) if self.asked.extension.events else SPOKEN)
        remote = [RemoteTool(tool, api.parked.timeout, flow.put) for tool in ready.remote]
        run = api.session.run(
            ready.prompt,
            ready.strategy,
            seed=ready.seed,
            budget=self.asked.extension.budget,
            tools=[*ready.tools, *remote],
            ids=ready.ids,
            listener=flow.listener,
        )
        run.future.add_done_callback(flow.ended)
        api.runs.add(run)
        kind = TreeTeller if ready.is_tree else ChatTeller
        teller = kind(self.asked, api.session.model.tokenizer.token_bytes, api.session.texts.eos)
        return Course(run, flow, teller)

    async def _whole(self, course: Course, scope: Scope, receive: Receive, send: Send) -> None:
        deltas = [delta async for batch in self._told(course) for delta in batch]
        reply = self._envelope().whole(deltas, course.teller.usage, self.asked.logprobs)
        await JSONResponse(reply)(scope, receive, send)

    async def _stream(self, course: Course, scope: Scope, receive: Receive, send: Send) -> None:
        envelope = self._envelope()
        begun = False
        async for batch in self._told(course):
            if not batch:
                continue
            if not begun:
                begun = True
                await send(
                    {"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS}
                )
            chunks = (envelope.chunk(delta, self.asked.include_usage) for delta in batch)
            await send(_body(b"".join(map(sse, chunks))))
        usage = envelope.usage_chunk(course.teller.usage)
        await send(_body((sse(usage) if self.asked.include_usage else b"") + DONE, last=True))

    async def _told(self, course: Course) -> AsyncIterator[list[Delta]]:
        """The run's deltas as they come. Leaving early ends the run; one that waits for the client
        is parked."""
        teller = course.teller
        try:
            yield list(teller.begin())
            async for batch in course.flow.items():
                told: list[Delta] = []
                for item in batch:
                    if isinstance(item, Ended):
                        told += teller.end(outcome(item))
                    elif isinstance(item, Wanted):
                        course.wanted = item
                        sampled = course.run.counts()["sampled"]
                        told += teller.pause(item.id, item.name, item.arguments, sampled)
                    else:
                        told += teller.hear(item)
                yield told
        except BaseException:
            course.wanted = None
            raise
        finally:
            if course.wanted is None:
                self.api.end(course)
            else:
                self.api.parked.park(course)

    def _envelope(self) -> Envelope:
        return Envelope(self.asked.model, self.api.fingerprint)


def _body(body: bytes, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}


async def while_there(
    receive: Callable[[], Awaitable[Any]], work: Coroutine[Any, Any, None]
) -> None:
    """Run `work` while the client is connected; cancel it when the client hangs up."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    if not working.cancelled() and (fault := working.exception()) is not None:
        raise fault


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
