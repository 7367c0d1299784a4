"""open and fork: pages change nothing, sharing changes nothing, neighbours change nothing."""

import pytest
import torch

from tests.fakes import Bench, TinyForward, bench, drive, poison_unowned, text_of
from workbench.engine.errors import BadArgument
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch
from workbench.events import BranchOpened, PageCopied, PageShared, StepEnded
from workbench.forward import PLAIN, Override, Steering

TEXT = "a long enough prompt to need some pages."
FORWARD = TinyForward()


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


def dense_greedy(text: str, n: int) -> list[int]:
    ids = list(text.encode())
    for _ in range(n):
        ids.append(int(FORWARD.dense(ids)[-1].argmax()))
    return ids


async def check(b: Bench, branch: Branch, override: Override = PLAIN) -> None:
    peek = await b.engine.peek(branch, Want(logits=True))
    assert peek.logits is not None
    fresh = FORWARD.dense(text_of(branch), override=override)[-1]
    assert torch.allclose(peek.logits, fresh, atol=1e-5)


@pytest.mark.parametrize("page_size", [1, 2, 5, 16, 64])
@pytest.mark.parametrize("chunk", [3, 512])
def test_paged_equals_unpaged_with_every_unowned_slot_poisoned(page_size: int, chunk: int) -> None:
    b = bench(FORWARD, page_size=page_size, chunk=chunk, pages=70)
    poison_unowned(b)

    async def work() -> Branch:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(10))
        return branch

    assert drive(b, work()).tokens == dense_greedy(TEXT, 10)
    prefilled = [e.prefill for e in b.of(StepEnded) if e.prefill]
    assert sum(prefilled) == len(TEXT)
    assert max(prefilled) <= chunk


@pytest.mark.parametrize("page_size", [1, 4])
def test_forks_decode_as_if_unforked_and_copy_only_when_they_write(page_size: int) -> None:
    b = bench(FORWARD, page_size=page_size)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT + "??", request=b.request)
        held = b.engine.memory.pages.held
        kids = await b.engine.fork(branch, 4)
        assert b.engine.memory.pages.held == held, "a fork holds no page of its own"
        computed = b.engine.requests[b.request].computed
        await b.engine.decode([*kids, branch], until=greedy(6))
        for one in [*kids, branch]:
            assert one.tokens == dense_greedy(TEXT + "??", 6)
        assert b.engine.requests[b.request].computed == computed + 5 * 5, (
            "nothing is prefilled twice"
        )

    drive(b, work())
    assert len(b.of(PageCopied)) == (4 if page_size == 4 else 0), "the last to write needs no copy"
    opened = b.of(BranchOpened)
    assert [e.parent for e in opened] == [None, 0, 0, 0, 0]
    assert opened[1].reused == opened[1].at == len(TEXT) + 2


def test_fork_at_a_token_sees_only_what_stood_before_it() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(12))
        (child,) = await b.engine.fork(branch, at=len(TEXT) + 5)
        assert child.tokens == branch.tokens[: len(TEXT) + 5]
        await b.engine.decode(child, until=greedy(7))
        assert child.tokens == branch.tokens
        (early,) = await b.engine.fork(branch, at=1)
        await check(b, early)

    drive(b, work())


def test_fork_before_a_prune_sees_what_the_parent_saw_then() -> None:
    b = bench(FORWARD)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(4))
        await b.engine.prune(branch, [(5, 20)])
        await b.engine.decode(branch, until=greedy(4))
        (before,) = await b.engine.fork(branch, at=len(TEXT) + 3)
        assert before.resident == list(range(len(TEXT) + 3))
        await check(b, before)
        (after,) = await b.engine.fork(branch, at=len(TEXT) + 4)
        assert after.resident == [i for i in range(len(TEXT) + 4) if not 5 <= i < 20]
        await check(b, after)

    drive(b, work())


def test_a_fork_of_waiting_text_computes_it_once() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.feed(branch, "a hint that is fed and waits")
        kids = await b.engine.fork(branch, 3)
        assert all(kid.pending == 0 for kid in kids)
        await check(b, kids[2])
        assert b.engine.requests[b.request].computed == branch.length

    drive(b, work())


def test_equal_prompts_share_pages_and_unequal_nets_do_not() -> None:
    b = bench(FORWARD, page_size=4)
    poison_unowned(b)
    steered = Override(steering=(Steering(0, torch.ones(FORWARD.facts.width)),))

    async def work() -> None:
        record = b.engine.requests[b.request]
        first = await b.engine.open(TEXT, request=b.request)
        assert record.reused == 0
        second = await b.engine.open(TEXT + " And more", request=b.request)
        assert record.reused == len(TEXT) // 4 * 4
        await check(b, second)
        b.engine.drop([first, second], "done")
        assert b.engine.memory.pages.held == 0
        await b.engine.open(TEXT, request=b.request)
        assert record.reused == len(TEXT) // 4 * 4 + (len(TEXT) - 1) // 4 * 4, "cached pages serve"
        for override in (Override(adapter="x"), Override(exit_layer=1), steered):
            before = record.reused
            other = await b.engine.open(TEXT, request=b.request, override=override)
            assert record.reused == before
            await check(b, other, override)
        await b.engine.open(TEXT, request=b.request, share=False)
        assert record.reused == before

    drive(b, work())
    assert {e.refcount for e in b.of(PageShared)} == {1, 2}


def test_equal_prompts_that_come_together_are_computed_once() -> None:
    b = bench(FORWARD, page_size=4)

    async def work() -> None:
        import asyncio

        branches = await asyncio.gather(
            *(b.engine.open(TEXT + tail, request=b.request) for tail in "abcd")
        )
        for branch in branches:
            await check(b, branch)

    drive(b, work())
    record = b.engine.requests[b.request]
    assert record.computed == len(TEXT) + 1 + 3
    assert record.computed + record.reused == 4 * (len(TEXT) + 1)


@pytest.mark.parametrize(
    "override",
    [
        Override(adapter="x", scale=0.5),
        Override(exit_layer=1),
        Override(steering=(Steering(1, torch.linspace(-1, 1, 16)),)),
    ],
)
def test_a_fork_under_another_override_recomputes_all(override: Override) -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        (child,) = await b.engine.fork(branch, override=override)
        assert child.stored == 0
        await check(b, child, override)
        (grandchild,) = await b.engine.fork(child)
        assert grandchild.stored == child.stored == len(TEXT)
        await b.engine.decode([branch, grandchild], until=greedy(3))
        await check(b, grandchild, override)
        await check(b, branch)

    drive(b, work())


@pytest.mark.parametrize(("n", "at"), [(0, None), (1, 0), (1, 999)])
def test_impossible_forks_are_refused(n: int, at: int | None) -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        with pytest.raises(BadArgument):
            await b.engine.fork(branch, n, at=at)

    drive(b, work())


@pytest.mark.parametrize(
    "override",
    [
        Override(exit_layer=0),
        Override(exit_layer=9),
        Override(steering=(Steering(9, torch.ones(16)),)),
        Override(steering=(Steering(0, torch.ones(5)),)),
    ],
)
def test_impossible_overrides_are_refused(override: Override) -> None:
    b = bench(FORWARD)
    with pytest.raises(BadArgument):
        drive(b, b.engine.open(TEXT, request=b.request, override=override))
