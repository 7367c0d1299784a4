"""feed, decode, stream, peek: what makes a branch run."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from workbench.engine.checks import check_room, idle, require
from workbench.engine.errors import BadArgument
from workbench.engine.jobs import Advance, Generate, Job
from workbench.engine.philox import child_seed
from workbench.engine.protocols import (
    Decoded,
    Fed,
    Feedback,
    HiddenFeedback,
    Matcher,
    Monitor,
    Peek,
    Sampler,
    Soft,
    Token,
    Until,
    Want,
)
from workbench.engine.sequence import Branch
from workbench.engine.verbs.putting import put, stream_ids
from workbench.words import Origin

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


def start_job(engine: "Engine", job: Job) -> None:
    job.branch.job = job
    engine.active[job.branch.seq] = job.branch
    engine.wake()


async def advance(engine: "Engine", branch: Branch, want: Want, start: int) -> Fed:
    """Run everything that waits; the reply reports on stream tokens from `start` on."""
    job = Advance(branch, asyncio.get_running_loop().create_future(), want, start)
    start_job(engine, job)
    return cast(Fed, await _reply(job))


async def _reply(job: Job) -> object:
    try:
        return await job.reply
    except asyncio.CancelledError:
        if job.branch.job is job:
            job.branch.job = None  # nobody waits for it any more
        raise


async def feed(
    engine: "Engine", branch: Branch, what: str | Sequence[int] | Tensor, origin: Origin,
    positions: Sequence[int] | None, want: Want,
) -> Fed:  # fmt: skip
    idle(engine, branch)
    require(engine, override=branch.override, layers=want.hidden, vectors=isinstance(what, Tensor))
    ids = stream_ids(engine, what)
    start = len(branch.tokens)
    if not ids:
        return Fed(start, start)
    if positions is not None:
        _check_positions(engine, branch, positions, len(ids))
    check_room(engine, branch, len(ids))
    before = branch.logits
    put(branch, what, ids, origin, positions)
    engine.requests[branch.request].fed += len(ids)
    engine.ledger.fed(branch, start)
    if want.nothing:
        return Fed(start, len(branch.tokens))
    if want.logprobs and before is None and branch.stored == branch.length - len(ids) > 0:
        branch.stored -= 1  # run the one before again: it predicts the first of these
        before = None
    job = Advance(branch, asyncio.get_running_loop().create_future(), want, start)
    if want.logprobs and branch.stored == branch.length - len(ids):
        first = (
            torch.log_softmax(before.float(), -1)[ids[0]]
            if before is not None
            else torch.tensor(torch.nan)
        )
        job.logprobs.append(first.reshape(1).cpu())
    start_job(engine, job)
    return cast(Fed, await _reply(job))


def _check_positions(engine: "Engine", branch: Branch, positions: Sequence[int], n: int) -> None:
    window = engine.forward.facts.window
    if len(positions) != n or any(not 0 <= p < window for p in positions):
        raise BadArgument(
            f"positions: one in [0, {window}) for each of the {n} tokens was wanted, got "
            f"{list(positions)}"
        )


async def decode(
    engine: "Engine", branches: Branch | Sequence[Branch], until: Until, sampler: Sampler,
    grammar: Matcher | Sequence[Matcher | None] | None, feedback: Feedback, monitor: Monitor | None,
    want: Want,
) -> list[Decoded]:  # fmt: skip
    several = [branches] if isinstance(branches, Branch) else list(branches)
    if len({branch.seq for branch in several}) != len(several):
        raise BadArgument("a branch was named twice in one decode")
    matchers = _matchers(grammar, len(several))
    jobs = [
        _generate(engine, branch, ordinal, until, sampler, matcher, feedback, monitor, want)
        for ordinal, (branch, matcher) in enumerate(zip(several, matchers, strict=True))
    ]
    for job in jobs:
        start_job(engine, job)
    try:
        return list(await asyncio.gather(*(job.reply for job in jobs)))
    except BaseException:
        for job in jobs:
            if job.branch.job is job:
                job.branch.job = None
        raise


def _matchers(grammar: Matcher | Sequence[Matcher | None] | None, n: int) -> list[Matcher | None]:
    if grammar is None:
        return [None] * n
    matchers: list[Matcher | None] = list(grammar) if isinstance(grammar, Sequence) else [grammar]
    if len(matchers) != n:
        raise BadArgument(
            f"{n} branches need a matcher each, got {len(matchers)}; use Matcher.copy"
        )
    return matchers


def _generate(
    engine: "Engine", branch: Branch, ordinal: int, until: Until, sampler: Sampler,
    matcher: Matcher | None, feedback: Feedback, monitor: Monitor | None, want: Want,
) -> Generate:  # fmt: skip
    idle(engine, branch)
    if until.max_tokens is not None and until.max_tokens < 1:
        raise BadArgument(f"max_tokens must be at least 1, got {until.max_tokens}")
    _check_sampler(engine, sampler)
    layers = (*want.hidden, -1) if isinstance(feedback, HiddenFeedback) else want.hidden
    require(
        engine,
        override=branch.override,
        layers=layers,
        vectors=isinstance(feedback, HiddenFeedback | Soft),
    )
    seed = branch.seed if sampler.seed is None else child_seed(sampler.seed, ordinal)
    return Generate(
        branch, asyncio.get_running_loop().create_future(), want, len(branch.tokens), until,
        sampler, seed, matcher, feedback, monitor, engine.forward.facts.vocabulary,
    )  # fmt: skip


def _check_sampler(engine: "Engine", s: Sampler) -> None:
    ranges = {
        "temperature": s.temperature >= 0, "top_k": s.top_k >= 0, "top_p": 0 < s.top_p <= 1,
        "min_p": 0 <= s.min_p <= 1, "repetition_penalty": s.repetition_penalty > 0,
        "bias": all(0 <= token < engine.forward.facts.vocabulary for token in s.bias),
    }  # fmt: skip
    for name, good in ranges.items():
        if not good:
            raise BadArgument(f"Sampler.{name} is out of range: {getattr(s, name)}")


async def stream(
    engine: "Engine", branch: Branch, until: Until, sampler: Sampler, grammar: Matcher | None,
    feedback: Feedback, monitor: Monitor | None,
) -> AsyncIterator[Token]:  # fmt: skip
    job = _generate(engine, branch, 0, until, sampler, grammar, feedback, monitor, Want())
    queue: asyncio.Queue[Token | None] = asyncio.Queue()
    job.queue = queue
    start_job(engine, job)
    try:
        while (token := await queue.get()) is not None:
            yield token
        await job.reply
    finally:
        if branch.job is job:
            branch.job = None


async def peek(engine: "Engine", branch: Branch, want: Want) -> Peek:
    idle(engine, branch)
    layers = tuple(dict.fromkeys((*want.hidden, *want.project)))
    require(engine, override=branch.override, layers=layers)
    if branch.logits is None or any(layer not in branch.hidden for layer in layers):
        await advance(engine, branch, Want(hidden=layers), start=len(branch.tokens))
    assert branch.logits is not None
    logits = branch.logits.float()
    logprobs = torch.log_softmax(logits, -1)
    among = logprobs[sorted(want.among)].exp().sum().item() if want.among else 0.0
    project = {
        layer: _top(
            torch.log_softmax(
                engine.forward.project(branch.hidden[layer][None], layer == -1)[0], -1
            ),
            want.top or 1,
        )
        for layer in want.project
    }
    return Peek(
        entropy=-(logprobs.exp() * logprobs.clamp_min(-1e30)).sum().item(),
        top=_top(logprobs, want.top),
        among=among,
        logits=logits.clone() if want.logits else None,
        hidden={layer: branch.hidden[layer].clone() for layer in want.hidden},
        project=project,
    )


def _top(logprobs: Tensor, n: int) -> tuple[tuple[int, float], ...]:
    if not n:
        return ()
    values, ids = logprobs.topk(min(n, logprobs.shape[-1]))
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))
