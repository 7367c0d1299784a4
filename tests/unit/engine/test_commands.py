"""Commands at a safe point: obeyed or refused, told either way; and what a pause waits for."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from tests.fakes import Bench, FakePool, StepClock, TinyForward, bench, drive
from workbench.commands import (
    AddNote,
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
from workbench.engine.errors import Refused, RequestCancelled
from workbench.engine.protocols import Until
from workbench.events import (
    CommandAccepted,
    CommandRefused,
    NodeClosed,
    NodeOpened,
    PageFreed,
    PagePinned,
    RequestEnded,
    RunPaused,
    RunResumed,
    StepEnded,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    Waited,
)
from workbench.forward import ForwardBatch, ForwardOutput
from workbench.words import Finish, FreeReason, NodeId, NodeKind, PageId, RequestId

TEXT = "a question"


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


async def obeyed(b: Bench, command: Command) -> dict[str, Any]:
    return await asyncio.wrap_future(b.engine.submit(command))


async def refused(b: Bench, command: Command) -> str:
    with pytest.raises(Refused) as error:
        await obeyed(b, command)
    return str(error.value)


async def until_paused(b: Bench) -> None:
    while not b.engine.control.paused:
        await asyncio.sleep(0)


def opened(b: Bench, node: int, parent: int | None = None) -> NodeOpened:
    where = None if parent is None else NodeId(parent)
    return NodeOpened(
        b.engine.now, NodeId(node), where, 0, b.request, NodeKind.TASK, str(node), 0, 0, 0  # type: ignore[arg-type]
    )  # fmt: skip


def test_pause_step_and_resume() -> None:
    b = bench()

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        decoding = asyncio.ensure_future(b.engine.decode(branch, until=greedy(12)))
        await obeyed(b, Pause())
        assert await refused(b, Pause()) == "the run is paused already"
        stood = len(branch.tokens)
        await asyncio.sleep(0.01)
        assert len(branch.tokens) == stood
        await obeyed(b, StepTokens(3))
        await until_paused(b)
        assert len(branch.tokens) == stood + 3
        assert "at least 1" in await refused(b, StepTokens(0))
        await obeyed(b, Resume())
        assert await refused(b, Resume()) == "the run is not paused"
        await decoding
        assert len(branch.tokens) == len(TEXT) + 12

    drive(b, work())
    assert len(b.of(RunPaused)) == len(b.of(RunResumed)) == 2
    assert [e.command for e in b.of(CommandAccepted)] == ["Pause", "StepTokens", "Resume"]
    assert [e.command for e in b.of(CommandRefused)] == ["Pause", "StepTokens", "Resume"]
    assert json.loads(b.of(CommandAccepted)[1].arguments) == {"n": 3}
    assert {e.on for e in b.of(Waited)} == {"paused"}


def test_stepping_to_the_next_node_and_out_of_one() -> None:
    b = bench()

    def monitor(branch: Any, token: int) -> None:
        place = len(branch.tokens) - len(TEXT)
        for at, event in {
            2: opened(b, 1), 4: opened(b, 2, 1), 6: NodeClosed(b.engine.now, NodeId(2), 0, ""),
            8: opened(b, 3, 1), 9: NodeClosed(b.engine.now, NodeId(3), 0, ""),
            11: NodeClosed(b.engine.now, NodeId(1), 0, ""),
        }.items():  # fmt: skip
            if place == at:
                b.engine.emit(event)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        assert await refused(b, StepOut()) == "no node is open"
        await obeyed(b, Pause())
        decoding = asyncio.ensure_future(b.engine.decode(branch, until=greedy(14), monitor=monitor))
        places = []
        for command in (StepNode(), StepNode(), StepOut(), StepNode(), StepOut(NodeId(1))):
            await obeyed(b, command)
            await until_paused(b)
            places.append(len(branch.tokens) - len(TEXT))
        assert places == [2, 4, 6, 8, 11]
        assert "node 3 is not open" in await refused(b, StepOut(NodeId(3)))
        await obeyed(b, Resume())
        await decoding

    drive(b, work())


def test_pages_are_pinned_and_evicted_or_it_is_said_why_not() -> None:
    b = bench(page_size=2, pages=10)

    async def work() -> None:
        branch = await b.engine.open("abcdef", request=b.request)
        first, second, third = (PageId(page) for page in branch.pages)
        assert "free" in await refused(b, PinPage(PageId(9)))
        assert "pages are 0 to 9" in await refused(b, PinPage(PageId(99)))
        assert "held by 1" in await refused(b, EvictPage(third))
        b.engine.drop(branch, "done")
        await obeyed(b, PinPage(second))
        assert "pinned already" in await refused(b, PinPage(second))
        assert f"page {second} is pinned" in await refused(b, EvictPage(first))
        await obeyed(b, PinPage(second, pinned=False))
        assert "not pinned" in await refused(b, PinPage(second, pinned=False))
        assert (await obeyed(b, EvictPage(second)))["pages"] == [third, second]
        assert "not in the prefix cache" in await refused(b, EvictPage(second))

    drive(b, work())
    assert [(e.page, e.pinned) for e in b.of(PagePinned)] == [(1, True), (1, False)]
    assert [(e.page, e.reason) for e in b.of(PageFreed)] == [
        (2, FreeReason.EVICTED), (1, FreeReason.EVICTED)
    ]  # fmt: skip


def test_a_pin_keeps_a_cached_page_when_the_pool_is_short() -> None:
    b = bench(page_size=2, pages=4)

    async def work() -> None:
        branch = await b.engine.open("abcdef", request=b.request)
        pages = list(branch.pages)
        b.engine.drop(branch, "done")
        await obeyed(b, PinPage(PageId(pages[1])))
        await b.engine.open("uvwx", request=b.request)
        assert b.engine.memory.prefix.match(0, list(b"abcdef")).pages == tuple(pages[:2])

    drive(b, work())


def test_cancelling_a_request_ends_its_decodes_and_no_others() -> None:
    b = bench()
    told: list[RequestId] = []
    b.engine.on_cancel = told.append

    async def work() -> None:
        other = b.engine.new_request(title="other", strategy="none", params="{}", seed=0)
        mine = await b.engine.open(TEXT, request=b.request)
        theirs = await b.engine.open(TEXT, request=other)
        going = asyncio.ensure_future(b.engine.decode(theirs, until=greedy(20)))
        decoding = asyncio.ensure_future(b.engine.decode(mine, until=greedy(400)))
        await asyncio.sleep(0)
        await obeyed(b, Cancel(b.request))
        (decoded,) = await decoding
        assert decoded.finish is Finish.CANCELLED
        with pytest.raises(RequestCancelled):
            await b.engine.feed(mine, "x")
        assert "has ended" in await refused(b, Cancel(b.request))
        assert "unknown" in await refused(b, Cancel(RequestId(99)))
        assert len((await going)[0].tokens) == 20
        b.engine.end_request(b.request, Finish.STOP)

    drive(b, work())
    assert told == [b.request]
    assert [(e.request, e.finish) for e in b.of(RequestEnded)] == [(b.request, Finish.CANCELLED)]


def test_other_commands_go_to_the_session_and_come_back_answered() -> None:
    b = bench()

    async def obey(command: Command) -> Mapping[str, Any]:
        assert isinstance(command, AddNote)
        if command.text == "no":
            raise Refused("not today")
        if command.text == "oops":
            raise KeyError("x")
        return {"text": command.text}

    async def work() -> None:
        assert "nobody here obeys AddNote" in await refused(b, AddNote("early"))
        b.engine.on_command = obey
        assert await obeyed(b, AddNote("yes")) == {"text": "yes"}
        assert await refused(b, AddNote("no")) == "not today"
        assert "KeyError" in await refused(b, AddNote("oops"))

    drive(b, work())


def test_commands_may_come_from_any_thread() -> None:
    b = bench()

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await obeyed(b, Pause())
        decoding = asyncio.ensure_future(b.engine.decode(branch, until=greedy(3)))
        futures = []
        thread = threading.Thread(target=lambda: futures.append(b.engine.submit(Resume())))
        thread.start()
        await decoding
        thread.join()
        assert futures[0].result(timeout=5) == {}

    drive(b, work())


def test_a_tool_that_is_awaited_is_what_the_engine_waits_on() -> None:
    b = bench()

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        call = (b.engine.t(), NodeId(0), branch.seq, 0)
        b.engine.emit(ToolCalled(b.engine.now, *call, "slow", "{}"))
        await asyncio.sleep(0.02)
        b.engine.emit(ToolReturned(b.engine.now, *call, True, "1", 0.02))
        await b.engine.decode(branch, until=greedy(1))

    drive(b, work())
    assert [e.on for e in b.of(Waited)] == ["tool"]


# ---- the way of a pause into a running pass ----


class Ticking(TinyForward):
    """Eight layers that each take a second of a fake clock; a command may arrive at a given
    second."""

    def __init__(self, clock: StepClock) -> None:
        from tests.fakes import Facts

        super().__init__(Facts(layers=8))
        self.clock = clock
        self.at: dict[float, Callable[[], object]] = {}
        self.ended: list[float] = []  # seconds at which a layer ended

    def _layer(self, *args: Any) -> torch.Tensor:
        x = super()._layer(*args)
        self.clock.now += 1.0
        self.ended.append(self.clock.now)
        if arrives := self.at.pop(self.clock.now - 0.5, None):
            arrives()
        return x


@pytest.mark.parametrize("command", ["pause", "cancel"])
@pytest.mark.parametrize("what", ["prefill", "decode"])
def test_after_a_pause_arrives_at_most_the_layer_in_flight_completes(
    what: str, command: str
) -> None:
    clock = StepClock()
    forward = Ticking(clock)
    b = bench(forward, clock=clock, page_size=4)

    async def work() -> None:
        first = await b.engine.open("abc", request=b.request)
        sent = clock.now + (8 if what == "decode" else 0) + 2.5  # in the third layer of a pass
        order: Command = Pause() if command == "pause" else Cancel(b.request)
        forward.at[sent] = lambda: b.engine.submit(order)
        if what == "prefill":
            job = asyncio.ensure_future(b.engine.open("a longer prompt", request=b.request))
        else:
            job = asyncio.ensure_future(b.engine.decode(first, until=greedy(5)))
        while forward.at:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [t for t in forward.ended if t > sent] == [sent + 0.5], (
            "the layer in flight, no other"
        )
        b.engine.audit()
        if command == "pause":
            (paused,) = b.of(RunPaused)
            assert paused.abandoned
            assert paused.t == sent + 0.5
            steps = len(b.of(StepEnded))
            await obeyed(b, Resume())
            await job
            assert len(b.of(StepEnded)) > steps, "the step is done again, whole"
        else:
            with pytest.raises(Exception, match="cancelled") if what == "prefill" else _fine():
                await job
        forward.at.clear()

    drive(b, work())
    if what == "decode" and command == "pause":
        ids = list(b"abc")
        for event in b.of(TokenSampled):
            ids.append(int(forward.dense(ids)[-1].argmax()))
            assert event.token == ids[-1], "nothing of an abandoned step counts"


class _fine:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_pass_that_raises_fails_its_branches_and_the_engine_goes_on() -> None:
    class Once(TinyForward):
        broken = False

        def __call__(
            self, batch: ForwardBatch, pool: FakePool, pulse: Callable[[], None] = lambda: None
        ) -> ForwardOutput:
            if self.broken:
                self.broken = False
                raise MemoryError("no more")
            return super().__call__(batch, pool, pulse)

    forward = Once()
    b = bench(forward)

    async def work() -> None:
        from workbench.engine.errors import StepFailed

        branch = await b.engine.open(TEXT, request=b.request)
        forward.broken = True
        with pytest.raises(StepFailed, match="no more"):
            await b.engine.decode(branch, until=greedy(3))
        await b.engine.decode(branch, until=greedy(3))

    drive(b, work())


def test_a_stop_raised_after_its_letter_was_read_costs_one_pass_at_most() -> None:
    """`put` hands the letter in, then raises the stop: the engine may read between the two."""
    b = bench()

    async def work() -> list[int]:
        branch = await b.engine.open([1, 2, 3], request=b.request)
        b.engine.inbox.stop.set()  # its letter is gone already
        [decoded] = await b.engine.decode(branch, until=Until(max_tokens=3, eos=False))
        return list(decoded.tokens)

    assert len(drive(b, work())) == 3
