"""Passes launched before their tokens are read: what is told is the same to the last fact."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from tests.fakes import Bench, StepClock, TinyForward, bench, drive, plain_sample
from workbench.engine.protocols import Inject, Sampler, Stop, Until
from workbench.events import Event, StepEnded, TokenSampled
from workbench.forward import ForwardBatch, ForwardOutput, Override
from workbench.ops.contract import Sampled


class AheadForward(TinyForward):
    """A tiny net whose token ids may lie where they were drawn."""

    ahead = True

    def __call__(
        self, batch: ForwardBatch, pool: Any, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        if batch.drawn is not None:
            batch = dataclasses.replace(batch, token_ids=batch.drawn, drawn=None)
        return super().__call__(batch, pool, pulse)


def sample_there(*args: Any) -> Sampled:
    sampled = plain_sample(*args)
    sampled.on_device = sampled.token
    return sampled


async def of_many_lengths(b: Bench) -> None:
    """Forks that end at different steps, by length, by a monitor, by what a predicate sees."""
    root = await b.engine.open(list(range(30, 47)), request=b.request)
    children = await b.engine.fork(root, 5)
    sampler = Sampler(temperature=1.3, top_p=0.9)

    def monitor(branch: Any, token: int) -> Stop | Inject | None:
        if len(branch.tokens) == 26 and branch.seq % 2:
            return Stop("enough")
        return Inject((5, 6, 7)) if len(branch.tokens) == 23 and branch.seq == 2 else None

    until = Until(max_tokens=25, predicate=lambda branch: branch.tokens[-1] % 37 == 0, eos=False)
    await b.engine.decode(children, until=until, sampler=sampler, monitor=monitor)
    await b.engine.decode(children[1:3], until=Until(max_tokens=6, eos=False), sampler=sampler)


async def pruned_between(b: Bench) -> None:
    """Two branches under two nets; one is pruned and forked between decodes that overlap."""
    one = await b.engine.open(list(range(40, 63)), request=b.request)
    two = await b.engine.open(
        list(range(70, 80)), request=b.request, override=Override(adapter="a", scale=0.5)
    )
    for mode_at in range(4):
        await b.engine.decode([one, two], until=Until(max_tokens=7, eos=False))
        await b.engine.prune(one, [(4 + mode_at, 9 + mode_at)])
        if mode_at == 2:
            (child,) = await b.engine.fork(two, 1)
            await b.engine.decode([one, child], until=Until(max_tokens=5, eos=False))


async def short_of_pages(b: Bench) -> None:
    """Branches that take pages from each other."""
    branches = [
        await b.engine.open(list(range(30 + i, 44 + i)), request=b.request) for i in range(4)
    ]
    await b.engine.decode(branches, until=Until(max_tokens=20, eos=False))


@pytest.mark.parametrize(
    ("work", "pages", "exact"),
    [(of_many_lengths, 64, True), (pruned_between, 64, True), (short_of_pages, 22, False)],
)
def test_every_fact_is_the_same(
    work: Callable[[Bench], Coroutine[Any, Any, None]], pages: int, exact: bool
) -> None:
    """But for which idle page goes first, where pages are short: a guess asks for its pages at
    once."""
    told: list[Sequence[Event]] = []
    for forward, sample in ((TinyForward(), plain_sample), (AheadForward(), sample_there)):
        b = bench(forward, pages=pages, ops_sample=sample, clock=StepClock())
        drive(b, work(b))
        told.append(b.told if exact else b.of(TokenSampled))
        ahead = b.engine.ahead
    assert ahead.hits > 10, (ahead.hits, ahead.misses)
    assert len(told[0]) == len(told[1])
    for plain, guessed in zip(*told, strict=True):
        assert plain == guessed


def test_wrong_guesses_are_made_less_often() -> None:
    b = bench(AheadForward(), ops_sample=sample_there)

    async def work() -> None:
        branch = await b.engine.open(list(range(30, 47)), request=b.request)
        injects = lambda branch, token: Inject((token,))  # noqa: E731
        await b.engine.decode(
            branch, until=Until(max_tokens=40, eos=False), monitor=injects,
        )  # fmt: skip

    drive(b, work())
    assert b.engine.ahead.hits == 0 and 0 < b.engine.ahead.misses <= 9


def test_long_rows_are_held_for_each_other_but_not_for_long() -> None:
    """Eleven branches decode; replies to some of them come at different steps."""
    b = bench(AheadForward(), pages=256, ops_sample=sample_there)

    async def talk(first: int) -> None:
        branch = await b.engine.open(list(range(first, first + 9)), request=b.request)
        for turn in range(3):
            most = 4 + (first * 5 + turn * 3) % 7
            await b.engine.decode(branch, until=Until(max_tokens=most, eos=False))
            await b.engine.feed(branch, [40, 41, 42, 43, 44])
        await b.engine.decode(branch, until=Until(max_tokens=30, eos=False))

    async def work() -> None:
        await asyncio.gather(*(talk(20 + i) for i in range(11)))

    drive(b, work())
    steps = b.of(StepEnded)
    mixed = [i for i, step in enumerate(steps) if step.extend]
    held = [step.waiting for step in steps]
    assert max(held) >= 2 and len(mixed) < 20
    assert all(0 in held[i : i + 10] for i in range(len(held) - 9))
    assert b.engine.ahead.hits > b.engine.ahead.misses
