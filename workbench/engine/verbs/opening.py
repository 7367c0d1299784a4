"""open, fork, drop, edit: how branches come, divide, change and go."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from workbench.engine.checks import alive, check_room, idle, ids_of, require
from workbench.engine.errors import BadArgument, BranchGone, PoolTooSmall, PromptTooLong
from workbench.engine.jobs import Advance, Generate
from workbench.engine.protocols import NOTHING, Want
from workbench.engine.relocate import recall, relayout, relocate
from workbench.engine.sequence import ALL, Branch, Removal
from workbench.engine.verbs.putting import put, stream_ids
from workbench.engine.verbs.running import advance
from workbench.events import BranchDropped, BranchOpened, Pruned
from workbench.forward import Override
from workbench.words import Finish, FreeReason, Origin, PruneMode, RequestId

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


async def open_branch(
    engine: "Engine", prompt: str | Sequence[int] | Tensor, request: RequestId, override: Override,
    share: bool, want: Want,
) -> Branch:  # fmt: skip
    record = engine.requests.get(request)
    if record is None or record.finish is not None:
        raise BranchGone(f"request {request} is unknown or has ended; make a new one")
    require(engine, override=override, layers=want.hidden, vectors=isinstance(prompt, Tensor))
    ids = stream_ids(engine, prompt)
    _check_prompt(engine, len(ids))
    branch = engine.new_branch(request, override=override, share=share)
    put(branch, prompt, ids, Origin.PROMPT)
    record.fed += len(ids)
    engine.ledger.announce(branch)
    await advance(engine, branch, want, start=0)
    return branch


def _check_prompt(engine: "Engine", n: int) -> None:
    if not n:
        raise BadArgument("the prompt is empty; a branch needs at least one token")
    if n > engine.limit:
        raise PromptTooLong(
            f"the prompt has {n} tokens, the window {engine.limit}: shorten it, or allow a larger "
            "window"
        )
    need = engine.memory.pool.layout.pages_for(n)
    if need > engine.memory.pages.pages:
        raise PoolTooSmall(
            f"the prompt's {n} tokens need {need} pages of {engine.memory.page_size}; the pool has "
            f"{engine.memory.pages.pages}: give the pool more pages"
        )


# ---- fork ----


async def fork(
    engine: "Engine", branch: Branch, n: int, at: int | None, override: Override | None
) -> list[Branch]:
    alive(engine, branch)
    if n < 1:
        raise BadArgument(f"fork makes at least one branch, got n={n}")
    if at is not None and not 1 <= at <= len(branch.tokens):
        raise BadArgument(f"at must lie in [1, {len(branch.tokens)}], got {at}")
    if override is not None:
        require(engine, override=override)
    net = branch.override if override is None else override
    if branch.pending > 1 and not engine.control.paused and engine.net_of(net) == branch.net:
        await _flush(engine, branch)
    at = len(branch.tokens) if at is None else at
    resident = _resident_at(branch, at)
    if not resident:
        raise BadArgument(f"{branch!r} had nothing in memory before token {at}: fork behind it")
    recall(engine, branch)
    return [_child(engine, branch, at, list(resident), net) for _ in range(n)]


async def _flush(engine: "Engine", branch: Branch) -> None:
    """Compute what waits once, in the parent, instead of in every child."""
    if branch.job is None:
        await advance(engine, branch, NOTHING, start=len(branch.tokens))
    elif isinstance(branch.job, Advance):
        await asyncio.wait([branch.job.reply])
    alive(engine, branch)


def _child(
    engine: "Engine", parent: Branch, at: int, resident: list[int], override: Override
) -> Branch:
    child = engine.new_branch(parent.request, parent=parent, override=override, share=parent.share)
    child.tokens = parent.tokens[:at]
    child.origins = [(start, origin) for start, origin in parent.origins if start < at]
    child.vectors = {i: vector for i, vector in parent.vectors.items() if i < at}
    child.removals = [r for r in parent.removals if r.at <= at]
    child.encoded = min(parent.encoded, at)
    child.resident = resident
    common = _common(parent.resident, child.resident)
    _copy_positions(child, parent, common)
    shared = min(common, parent.stored) if child.net == parent.net else 0
    child.pure = min(parent.pure if shared > parent.pure else child.pure, child.first_vector())
    if child.positions is not None:
        child.pure = min(child.pure, parent.pure)
    engine.tell(
        BranchOpened(engine.now, engine.t(), child.seq, child.request, parent.seq, at, shared)
    )
    engine.memory.inherit(child, parent, shared)
    if shared and child.split < shared:
        relayout(engine, child, ALL)
    if child.length == parent.length == common and child.net == parent.net:
        child.logits, child.hidden = parent.logits, dict(parent.hidden)
    return child


def _resident_at(parent: Branch, at: int) -> list[int]:
    """What `parent` had in memory when its stream was `at` tokens long."""
    if all(removal.at <= at for removal in parent.removals):
        return parent.resident[: bisect_left(parent.resident, at)]
    there = bytearray(b"\1" * at)
    for removal in parent.removals:
        if removal.at <= at:
            there[removal.start : removal.stop] = bytes(len(there[removal.start : removal.stop]))
    return [i for i in range(at) if there[i]]


def _common(one: list[int], other: list[int]) -> int:
    """Length of the longest common prefix of two ascending lists."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(i for i in range(shorter) if one[i] != other[i])


def _copy_positions(child: Branch, parent: Branch, common: int) -> None:
    if parent.positions is not None:
        child.positions = parent.positions[:common]
        for _ in range(len(child.resident) - common):
            child.positions.append(child.positions[-1] + 1 if child.positions else 0)


# ---- drop ----


def drop(engine: "Engine", branches: Branch | Sequence[Branch], reason: str) -> None:
    several = [branches] if isinstance(branches, Branch) else list(branches)
    going = {branch.seq for branch in several}
    for branch in several:
        for reader in engine.memory.branches.values():
            if reader.seq not in going and any(r.branch is branch for r in reader.reading):
                raise BadArgument(f"{branch!r} is read by {reader!r}: detach that one first")
    for branch in sorted(several, key=lambda b: -b.seq):
        let_go(engine, branch, reason, FreeReason.DROPPED)


def let_go(engine: "Engine", branch: Branch, reason: str, why: FreeReason) -> None:
    """End a branch; nothing happens when it is gone already."""
    if branch.gone is not None:
        return
    branch.gone = reason
    job = branch.job
    engine.memory.leave(branch, why)
    branch.reading = ()
    branch.logits, branch.hidden = None, {}
    if engine.ledger.told(branch):
        engine.tell(BranchDropped(engine.now, branch.seq, reason))
    if isinstance(job, Generate):
        job.finish(Finish.CANCELLED, reason)
    elif job is not None:
        job.fail(BranchGone(f"{branch!r} was dropped while it was computed: {reason}"))


# ---- edit ----


async def edit(
    engine: "Engine", branch: Branch, start: int, stop: int, tokens: Sequence[int], reuse: str
) -> Branch:
    idle(engine, branch)
    if not 0 <= start <= stop <= len(branch.tokens):
        raise BadArgument(f"a span lies in [0, {len(branch.tokens)}], got [{start}, {stop})")
    if reuse not in ("recompute", "reposition"):
        raise BadArgument(f"reuse is 'recompute' or 'reposition', got {reuse!r}")
    if any(
        reader.branch is branch for b in engine.memory.branches.values() for reader in b.reading
    ):
        raise BadArgument(f"{branch!r} is read by others: detach them before an edit")
    new = ids_of(engine, tokens)
    first, past = branch.entry(start), branch.entry(stop)
    if branch.length - (past - first) + len(new) < 1:
        raise BadArgument("an edit must leave at least one token in memory")
    check_room(engine, branch, max(0, len(new) - (past - first)))
    recall(engine, branch)
    before, held = branch.length, engine.memory.pages.held
    if reuse == "reposition" and branch.stored > past:
        rotated = _reposition(engine, branch, first, past, len(new))
        reencoded = 0
    else:
        rotated, reencoded = 0, max(0, branch.stored - past)
        engine.memory.cut(branch, min(first, branch.stored), _edited(engine, past))
    told_stop = len(branch.tokens)
    _splice(branch, start, stop, new, first, past)
    if branch.length > first and not branch.island:
        branch.pure = min(branch.pure, branch.first_vector())
    engine.tell(
        Pruned(
            engine.now, engine.t(), branch.seq, None, start, told_stop, past - first, reencoded,
            rotated, held - engine.memory.pages.held,
            PruneMode.ROTATE if rotated else PruneMode.REENCODE, before, branch.length, "edit",
        )
    )  # fmt: skip
    engine.ledger.fed(branch, start)
    _tell_holes(engine, branch, start)
    engine.requests[branch.request].fed += len(new)
    if branch.island is not None:
        await advance(engine, branch, NOTHING, start=len(branch.tokens))
    return branch


def _tell_holes(engine: "Engine", branch: Branch, start: int) -> None:
    """Of the tokens told again from `start` on, those that had left memory before are not back."""
    there = [start - 1, *branch.resident[branch.entry(start) :], len(branch.tokens)]
    for before, after in pairwise(there):
        if after - before > 1:
            engine.tell(
                Pruned(
                    engine.now, engine.t(), branch.seq, None, before + 1, after, 0, 0, 0, 0,
                    PruneMode.REENCODE, branch.length, branch.length, "earlier",
                )
            )  # fmt: skip


def _edited(engine: "Engine", past: int) -> Callable[[int], FreeReason]:
    size = engine.memory.page_size
    return lambda place: FreeReason.PRUNED if place * size < past else FreeReason.REENCODED


def _reposition(engine: "Engine", branch: Branch, first: int, past: int, n: int) -> int:
    """Turn what is stored behind the span to its new place; the gap before it waits for `n`
    tokens."""
    stored, turn = branch.stored, n - (past - first)
    moves = [(past, stored, first + n)]
    relocate(engine, branch, first, moves, stored + turn, branch.split)
    branch.stored = first if n else stored + turn
    branch.island = (first + n, stored + turn) if n else None
    branch.pure = min(branch.pure, first)
    return stored - past


def _splice(branch: Branch, start: int, stop: int, new: list[int], first: int, past: int) -> None:
    """The lists after the edit: stream, memory, origins, vectors, removals."""
    turn = len(new) - (stop - start)
    tail = branch.tokens[stop:]
    branch.tokens[start:] = [*new, *tail]
    branch.resident[first:] = [
        *range(start, start + len(new)), *(i + turn for i in branch.resident[past:])
    ]  # fmt: skip
    if branch.positions is not None:
        begin = branch.positions[first - 1] + 1 if first else 0
        branch.positions[first:] = range(begin, begin + branch.length - first)
    behind = [(max(at, stop), origin) for at, origin in branch.origins if at <= stop]
    later = [(at + turn, origin) for at, origin in branch.origins if at > stop]
    origins = [run for run in branch.origins if run[0] < start]
    if new:
        origins.append((start, Origin.FED))
    if tail:
        origins.append((stop + turn, behind[-1][1]))
    branch.origins = [*origins, *later]
    branch.vectors = {
        (i if i < start else i + turn): v
        for i, v in branch.vectors.items()
        if not start <= i < stop
    }
    branch.removals = [
        Removal(
            min(r.at, start),
            r.start if r.start < start else max(start, r.start + turn),
            r.stop if r.stop <= start else max(start, r.stop + turn),
        )
        for r in branch.removals
    ]  # fmt: skip
    branch.encoded = min(branch.encoded, start)
    branch.logits = None
