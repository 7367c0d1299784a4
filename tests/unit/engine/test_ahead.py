"""Passes launched before their tokens are read: what is told is the same to the last fact."""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from tests.fakes import (
    Bench,
    StepClock,
    TinyForward,
    bench,
    drive,
    plain_sample,
    poison_unowned,
)
from workbench.commands import Pause, Resume
from workbench.engine.protocols import Inject, Sampler, Stop, Until
from workbench.engine.sequence import Branch
from workbench.events import Event, RunPaused, StepEnded, TokenSampled
from workbench.forward import PLAIN, ForwardBatch, ForwardOutput, Override
from workbench.ops.contract import Sampled
from workbench.words import PruneMode


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


def whatever(seed: int) -> Callable[[Bench], Coroutine[Any, Any, None]]:
    """A random program: branches that decode side by side, each its own way, and are pruned in both
    modes, forked, edited, fed and dropped between its decodes."""

    async def talk(b: Bench, rng: random.Random, branch: Branch) -> None:
        engine = b.engine
        for _ in range(rng.randint(3, 6)):
            sampler = Sampler(temperature=rng.choice([0.0, 0.9]), top_p=rng.choice([1.0, 0.8]))
            until = Until(max_tokens=rng.randint(1, 12), eos=False)
            await engine.decode(branch, until=until, sampler=sampler)
            n = len(branch.tokens)
            match rng.randrange(7):
                case 0 | 1:
                    start = rng.randrange(1, n - 2)
                    mode = rng.choice([PruneMode.REENCODE, PruneMode.ROTATE])
                    await engine.prune(branch, [(start, rng.randint(start + 1, n - 1))], mode=mode)
                case 2:
                    (child,) = await engine.fork(branch, 1)
                    await engine.decode(child, until=Until(max_tokens=5, eos=False))
                    engine.drop(child, "seen enough")
                case 3:
                    start = rng.randrange(1, n - 1)
                    reuse = rng.choice(["recompute", "reposition"])
                    await engine.edit(branch, start, start + 1, [rng.randrange(256)], reuse=reuse)
                case 4:
                    await engine.feed(
                        branch, [rng.randrange(256) for _ in range(rng.randint(1, 5))]
                    )
                case _:
                    pass

    async def work(b: Bench) -> None:
        rngs = [random.Random(100 * seed + i) for i in range(5)]
        overrides = [PLAIN, PLAIN, Override(adapter="a"), PLAIN, Override(adapter="a", scale=0.5)]
        branches = [
            await b.engine.open(list(range(20 + i, 33 + 2 * i)), request=b.request, override=o)
            for i, o in enumerate(overrides)
        ]
        await asyncio.gather(
            *(talk(b, r, branch) for r, branch in zip(rngs, branches, strict=True))
        )

    return work


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_same_tokens_are_sampled(seed: int) -> None:
    told, hits = [], 0
    for forward, sample in ((TinyForward(), plain_sample), (AheadForward(), sample_there)):
        b = bench(forward, pages=36 + 20 * (seed % 2), ops_sample=sample, clock=StepClock())
        poison_unowned(b)
        drive(b, whatever(seed)(b))
        told.append([(e.seq, e.index, e.token) for e in b.of(TokenSampled)])
        hits = b.engine.ahead.hits
    assert hits > 0
    assert sorted(told[0]) == sorted(told[1])


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


def test_a_pause_gives_a_guess_up_and_says_so() -> None:
    class Interrupted(AheadForward):
        """A pause arrives in the fifth guess."""

        guesses = 0

        def __call__(
            self, batch: ForwardBatch, pool: Any, pulse: Callable[[], None] = lambda: None
        ) -> ForwardOutput:
            self.guesses += batch.drawn is not None
            if batch.drawn is not None and self.guesses == 5:
                b.engine.submit(Pause())
                pulse()
            return super().__call__(batch, pool, pulse)

    b = bench(Interrupted(), ops_sample=sample_there)

    async def work() -> None:
        branch = await b.engine.open("abc", request=b.request)
        job = asyncio.ensure_future(b.engine.decode(branch, until=Until(max_tokens=12, eos=False)))
        while not b.of(RunPaused):
            await asyncio.sleep(0)
        assert b.of(RunPaused)[0].abandoned
        b.engine.submit(Resume())
        await job
        assert len(b.of(TokenSampled)) == 12

    drive(b, work())


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
