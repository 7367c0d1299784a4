"""A branch serves one verb at a time; dropped and cancelled callers leave nothing behind."""

import asyncio

import pytest

from tests.fakes import TinyForward, bench, drive, text_of
from workbench.engine.errors import BadArgument, BranchBusy, BranchGone
from workbench.engine.protocols import (
    Sampler,
    Until,
)
from workbench.events import TokenKnown, TokensFed
from workbench.words import Finish

FORWARD = TinyForward()
TEXT = "tell me something"


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


def test_a_branch_serves_one_verb_at_a_time_and_none_when_gone() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        running = asyncio.ensure_future(b.engine.decode(branch, until=greedy(5)))
        await asyncio.sleep(0)
        for verb in (
            b.engine.feed(branch, "x"), b.engine.peek(branch), b.engine.edit(branch, 0, 1),
            b.engine.decode(branch, until=greedy(1)),
        ):  # fmt: skip
            with pytest.raises(BranchBusy):
                await verb
        assert len((await running)[0].tokens) == 5
        with pytest.raises(BadArgument, match="twice"):
            await b.engine.decode([branch, branch], until=greedy(1))
        with pytest.raises(BadArgument, match="max_tokens"):
            await b.engine.decode(branch, until=Until(max_tokens=0))
        b.engine.drop(branch, "done")
        b.engine.drop(branch, "again")
        with pytest.raises(BranchGone):
            await b.engine.feed(branch, "x")

    drive(b, work())


def test_dropping_a_running_branch_ends_its_decode_and_frees_its_pages() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        keep, lose = await b.engine.fork(branch, 2)
        running = asyncio.ensure_future(b.engine.decode([keep, lose], until=greedy(6)))
        while len(lose.tokens) < len(TEXT) + 2:
            await asyncio.sleep(0)
        held = b.engine.memory.pages.held
        b.engine.drop(lose, "a sibling won")
        assert b.engine.memory.pages.held < held
        kept, lost = await running
        assert (kept.finish, lost.finish, lost.why) == (
            Finish.LENGTH, Finish.CANCELLED, "a sibling won"
        )  # fmt: skip
        fresh = list(TEXT.encode())
        for _ in range(6):
            fresh.append(int(FORWARD.dense(fresh)[-1].argmax()))
        assert text_of(keep) == fresh, "drop never changes a sibling"

    drive(b, work())


def test_a_cancelled_caller_leaves_the_branch_idle() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        running = asyncio.ensure_future(b.engine.decode(branch, until=greedy(500)))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert branch.job is None
        await b.engine.decode(branch, until=greedy(2), sampler=Sampler(temperature=1.0))

    drive(b, work())


def test_each_token_is_told_before_it_is_mentioned_and_only_once() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(6))

    drive(b, work())
    known: set[int] = set()
    for event in b.told:
        if isinstance(event, TokenKnown):
            assert event.token not in known
            known.add(event.token)
        elif isinstance(event, TokensFed):
            assert known.issuperset(event.tokens)
        elif hasattr(event, "top_ids"):
            assert known.issuperset({event.token, *event.top_ids})
