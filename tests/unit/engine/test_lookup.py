"""Drafts from a branch's own text: what is told is the same, in fewer passes."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.fakes import (
    Bench,
    ScriptedModel,
    StepClock,
    TinyForward,
    bench,
    drive,
    poison_unowned,
)
from tests.unit.engine.test_ahead import whatever
from workbench.bench.script import Forced
from workbench.commands import Pause, Resume, StepTokens
from workbench.engine.errors import BadArgument
from workbench.engine.lookup import Grams
from workbench.engine.protocols import Inject, Sampler, Stop, Until
from workbench.events import Event, RunPaused, StepEnded, TokenSampled
from workbench.forward import ForwardBatch, ForwardOutput
from workbench.words import Finish, PruneMode

SONG = "la la la, " * 6 + "so la la la, " * 5 + "<end>"


class ManyForward(TinyForward):
    """A net for which many tokens in a step cost little."""

    few_tokens = 40


def facts(b: Bench) -> list[Event]:
    """All but the steps, which differ in what they hold."""
    told = [e for e in b.told if not isinstance(e, StepEnded)]
    return [dataclasses.replace(e, step=0) for e in told]


def passes(b: Bench) -> int:
    return len(b.of(StepEnded))


async def sung(b: Bench) -> None:
    """A greedy text that repeats itself, pruned, forked, fed and sampled hot."""
    engine = b.engine
    branch = await engine.open(list(range(30, 47)) * 2, request=b.request)
    for turn, heat in enumerate((0.0, 0.0, 0.4, 1.0)):
        sampler = Sampler(temperature=heat)
        await engine.decode(branch, until=Until(max_tokens=40, eos=False), sampler=sampler)
        mode = PruneMode.ROTATE if turn == 1 else PruneMode.REENCODE
        await engine.prune(branch, [(5 + 9 * turn, 12 + 9 * turn)], mode=mode)
        await engine.feed(branch, [40, 41, 42])
    (child,) = await engine.fork(branch, 1, at=60)
    await engine.decode(child, until=Until(max_tokens=30, eos=False))


async def watched(b: Bench) -> None:
    """A monitor injects and stops, a predicate looks, a number of tokens ends it."""
    branch = await b.engine.open(list(range(30, 47)), request=b.request)

    def monitor(branch: Any, token: int) -> Stop | Inject | None:
        at = len(branch.tokens)
        return Stop("enough") if at == 61 else Inject((5, 6, 7)) if at in (33, 41) else None

    until = Until(max_tokens=90, predicate=lambda branch: len(branch.tokens) == 49, eos=False)
    for _ in range(3):
        await b.engine.decode(branch, until=until, monitor=monitor)


@pytest.mark.parametrize("work", [sung, watched])
@pytest.mark.parametrize("page_size", [4, 16])
def test_every_fact_is_the_same(
    work: Callable[[Bench], Coroutine[Any, Any, None]], page_size: int
) -> None:
    told, steps = [], []
    for lookup in (0, 4):
        b = bench(ManyForward(), pages=64, page_size=page_size, lookup=lookup, clock=StepClock())
        poison_unowned(b)
        drive(b, work(b))
        told.append(facts(b))
        steps.append(passes(b))
        kept = b.engine.lookup.kept
    assert kept > 8 and steps[0] == steps[1] + kept
    assert len(told[0]) == len(told[1])
    for one, other in zip(*told, strict=True):
        if isinstance(one, TokenSampled) and isinstance(other, TokenSampled):
            assert np.allclose(one.top_logprobs, other.top_logprobs, atol=1e-5)
            kept = {"logprob": 0.0, "entropy": 0.0, "top_logprobs": ()}
            one, other = dataclasses.replace(one, **kept), dataclasses.replace(other, **kept)
        assert one == other


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_same_tokens_are_sampled(seed: int) -> None:
    told, kept = [], 0
    for lookup in (0, 5):
        b = bench(ManyForward(), pages=36 + 20 * (seed % 2), lookup=lookup, clock=StepClock())
        poison_unowned(b)
        drive(b, whatever(seed)(b))
        told.append([(e.seq, e.index, e.token) for e in b.of(TokenSampled)])
        kept = b.engine.lookup.kept
    assert kept > 0
    assert sorted(told[0]) == sorted(told[1])


def test_what_a_grammar_forces_is_drafted() -> None:
    b = bench(lookup=4)
    matcher = Forced([7, 90, 31, 200, 11, 5, 64, 63, 8, 9, 10])

    async def work() -> None:
        branch = await b.engine.open("abcdefg", request=b.request)
        [done] = await b.engine.decode(branch, until=Until(eos=False), grammar=matcher)
        assert done.finish is Finish.GRAMMAR
        assert branch.tokens[7:] == matcher.ids and matcher.finished

    drive(b, work())
    # the prompt's pass, the first token from its logits, then five at a time
    assert passes(b) == 4 and b.engine.lookup.kept == b.engine.lookup.drafted == 8


def test_a_script_is_sung_in_fewer_passes() -> None:
    texts, counts = [], []
    for lookup in (0, 7):
        model = ScriptedModel({"sing: ": SONG})
        model.few_tokens = 40  # type: ignore[attr-defined]
        b = bench(model, lookup=lookup, pages=128)

        async def work(b: Bench) -> None:
            branch = await b.engine.open("sing: ", request=b.request)
            [done] = await b.engine.decode(branch, until=Until())
            texts.append(done.text)

        drive(b, work(b))
        counts.append(passes(b))
    assert texts[0] == texts[1] and counts[1] < counts[0] / 3


def test_a_step_of_three_tokens_has_three() -> None:
    b = bench(ScriptedModel({"sing: ": SONG}), lookup=6, pages=128)

    async def work() -> None:
        branch = await b.engine.open("sing: ", request=b.request)
        b.engine.submit(Pause())
        await asyncio.sleep(0)
        job = asyncio.ensure_future(b.engine.decode(branch, until=Until(max_tokens=80, eos=False)))
        for n in (1, 2, 3, 7, 11):
            before = len(b.of(TokenSampled))
            b.engine.submit(StepTokens(n))
            pauses = len(b.of(RunPaused))
            while len(b.of(RunPaused)) == pauses:
                await asyncio.sleep(0)
            assert len(b.of(TokenSampled)) == before + n
        b.engine.submit(Resume())
        await job

    drive(b, work())
    assert b.engine.lookup.kept > 5


def test_a_pause_takes_the_tokens_that_are_not_settled() -> None:
    class Interrupted(TinyForward):
        """A pause arrives behind the pass that had drafts for the tenth time."""

        times = 0

        def __call__(
            self, batch: ForwardBatch, pool: Any, pulse: Callable[[], None] = lambda: None
        ) -> ForwardOutput:
            output = super().__call__(batch, pool)
            self.times += len(batch.logit_rows) > 1
            if self.times == 10:
                b.engine.submit(Pause())
            return output

    b = bench(Interrupted(), lookup=6, pages=128)

    async def work() -> None:
        branch = await b.engine.open(list(range(30, 47)) * 2, request=b.request)
        job = asyncio.ensure_future(b.engine.decode(branch, until=Until(max_tokens=80, eos=False)))
        while not b.of(RunPaused):
            await asyncio.sleep(0)
        assert b.of(StepEnded)[-1].sampled == 1
        b.forward.times = 100
        b.engine.submit(Resume())
        await job
        assert len(b.of(TokenSampled)) == 80

    drive(b, work())


def test_nobody_gives_way_for_drafts() -> None:
    """A pool that just holds two branches: drafts take what is free, and no page of theirs."""
    for lookup in (0, 3):
        b = bench(ScriptedModel({"a: ": SONG, "b: ": SONG.upper()}), lookup=lookup, pages=22)

        async def work(b: Bench) -> None:
            two = [await b.engine.open(text, request=b.request) for text in ("a: ", "b: ")]
            await b.engine.decode(two, until=Until(max_tokens=41, eos=False))

        drive(b, work(b))
        assert not [e for e in b.told if "Preempted" in type(e).__name__]
    assert b.engine.lookup.kept > 10


def test_many_rows_draft_nothing() -> None:
    b = bench(lookup=6, pages=256)  # eight tokens a step at most

    async def work() -> None:
        rows = [await b.engine.open([50 + i] * 9, request=b.request) for i in range(5)]
        await b.engine.decode(rows, until=Until(max_tokens=20, eos=False))
        assert not b.engine.lookup.drafted
        await b.engine.decode(rows[:4], until=Until(max_tokens=20, eos=False))
        assert b.engine.lookup.drafted

    drive(b, work())
    many = bench(ManyForward(), lookup=6).engine.lookup  # forty tokens, three a row at least
    assert [many.each(rows) for rows in (1, 6, 10, 11)] == [6, 5, 3, 0]


def test_grams_say_what_came_last() -> None:
    grams = Grams()
    grams.catch_up([1, 2, 3, 9, 2, 3, 8, 1])

    def said(*context: int, mask: npt.NDArray[np.int32] | None = None) -> int | None:
        guess = grams.next(context, mask)
        return None if guess is None else guess[0]

    assert said(1, 2, 3) == 9  # the longest context
    assert said(7, 2, 3) == 8  # the newest of a shorter one
    assert said(7, 7, 1) == 2 and said(7, 7, 7) is None
    assert said(1, 2, 3, mask=np.array([1 << 8], np.int32)) == 8
    grams.catch_up([1, 2])  # an edit cut the stream
    assert grams.read == 2


def test_grams_know_how_often_they_are_right() -> None:
    grams = Grams()
    grams.catch_up([1, 2, 3, 4] * 30)
    rhyme = grams.next([2, 3, 4], None)
    grams = Grams()
    grams.catch_up([token for n in range(30) for token in (9, 50 + n * n % 37)])
    noise = grams.next([9], None)
    assert rhyme is not None and rhyme[0] == 1 and rhyme[1] > 0.9
    assert noise is not None and noise[1] < 0.4


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(BadArgument, match="lookup must be at least 0, got -1"):
        bench(lookup=-1)
