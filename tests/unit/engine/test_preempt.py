"""A pool that is short: somebody gives way, nobody's text changes, and who can't be served is
told."""

import asyncio

import pytest
import torch

from tests.fakes import Bench, TinyForward, bench, drive, poison_unowned
from workbench.engine.errors import PoolTooSmall
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch
from workbench.events import BranchPreempted, BranchRestored
from workbench.words import PruneMode

FORWARD = TinyForward()


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


def test_more_requests_than_the_pool_holds_all_end_with_their_own_text() -> None:
    def texts(pages: int) -> list[list[int]]:
        b = bench(FORWARD, pages=pages, page_size=4)
        poison_unowned(b)

        async def one(i: int) -> list[int]:
            branch = await b.engine.open(f"number {i} asks ", request=b.request)
            await b.engine.decode(branch, until=greedy(16))
            b.engine.drop(branch, "done")
            return branch.tokens

        async def work() -> list[list[int]]:
            return list(await asyncio.gather(*(one(i) for i in range(6))))

        result = drive(b, work())
        preempted = b.of(BranchPreempted)
        assert bool(preempted) is (pages < 40)
        assert {e.by for e in preempted} <= {"recompute"}
        assert {e.seq for e in b.of(BranchRestored)} <= {e.seq for e in preempted}
        assert len(preempted) < 20, "nobody is let in to be thrown out again"
        return result

    assert texts(14) == texts(200)


@pytest.mark.parametrize("mode", list(PruneMode))
def test_recompute_where_tokens_are_enough_and_swap_where_not(mode: PruneMode) -> None:
    b = bench(FORWARD, pages=200, page_size=4)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open("something to prune and then to forget", request=b.request)
        await b.engine.prune(branch, [(4, 17)], mode=mode)
        await b.engine.decode(branch, until=greedy(1), want=Want(logits=True))
        (again,) = await b.engine.fork(branch)
        b.engine.preempt(branch)
        results = await b.engine.decode([branch, again], until=greedy(5), want=Want(logits=True))
        one, other = (d.logits for d in results)
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, atol=1e-5)

    drive(b, work())
    by = "swap" if mode is PruneMode.ROTATE else "recompute"
    assert [e.by for e in b.of(BranchPreempted)] == [by]
    assert [e.by for e in b.of(BranchRestored)] == [by]


def test_idle_branches_give_way_and_come_back_when_asked() -> None:
    b = bench(FORWARD, pages=12, page_size=4)

    async def work() -> None:
        idle = await b.engine.open("an older branch, idle now", request=b.request)
        busy = await b.engine.open("a younger one that goes on", request=b.request)
        await b.engine.decode(busy, until=greedy(20))
        assert not idle.pages
        peek = await b.engine.peek(idle, Want(logits=True))
        assert peek.logits is not None
        (token,) = (await b.engine.decode(idle, until=greedy(1)))[0].tokens
        fresh = FORWARD.dense(list(b"an older branch, idle now"))[-1]
        assert token == int(fresh.argmax())

    drive(b, work())


def test_a_branch_that_outgrows_the_pool_fails_alone() -> None:
    b = bench(FORWARD, pages=6, page_size=4)

    async def work() -> None:
        async def grow() -> None:
            branch = await b.engine.open("this one grows", request=b.request)
            with pytest.raises(PoolTooSmall, match=r"needs 7 pages .* has 6"):
                await b.engine.decode(branch, until=greedy(99))
            b.engine.drop(branch, "too big")

        async def stay() -> Branch:
            branch = await b.engine.open("small", request=b.request)
            await b.engine.decode(branch, until=greedy(4))
            return branch

        _, small = await asyncio.gather(grow(), stay())
        assert len(small.tokens) == 9

    drive(b, work())


def test_a_prompt_that_no_pool_of_this_size_holds_is_refused_at_once() -> None:
    b = bench(FORWARD, pages=3, page_size=4)
    with pytest.raises(PoolTooSmall, match="13 tokens need 4 pages of 4; the pool has 3"):
        drive(b, b.engine.open("thirteen char", request=b.request))
    assert b.engine.memory.pages.held == 0


def test_pinned_pages_are_not_taken() -> None:
    b: Bench = bench(FORWARD, pages=8, page_size=4)

    async def work() -> None:
        pinned = await b.engine.open("this stays here", request=b.request)
        b.engine.memory.pages.pin(pinned.pages[0], True)
        busy = await b.engine.open("12345678", request=b.request)
        with pytest.raises(PoolTooSmall, match="1 are pinned"):
            await b.engine.decode(busy, until=greedy(20))
        assert len(pinned.pages) == 4
        b.engine.drop([pinned, busy], "done")

    drive(b, work())
