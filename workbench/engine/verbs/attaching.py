"""attach, detach: one branch reads the growing caches of others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from workbench.engine.errors import BadArgument, Unserved, WindowFull
from workbench.engine.relocate import recall, relayout
from workbench.engine.sequence import ALL, Branch, Reading
from workbench.forward import ForwardBatch, Segment

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


def attach(engine: "Engine", branch: Branch, others: Sequence[Branch], start: int) -> None:
    engine.idle(branch)
    if branch.reading:
        raise BadArgument(f"{branch!r} reads others already: detach it first")
    _check_others(engine, branch, others, start)
    _check_served(engine)
    for one in (branch, *others):
        recall(engine, one)
    relayout(engine, branch, start)
    branch.reading = tuple(
        Reading(other, other.resident[start] if start < other.length else len(other.tokens))
        for other in others
    )
    branch.pure = min(branch.pure, max(start, branch.stored))
    branch.logits, branch.hidden = None, {}


def _check_others(
    engine: "Engine", branch: Branch, others: Sequence[Branch], start: int
) -> None:
    seqs = {other.seq for other in others}
    if not others or len(seqs) != len(others) or branch.seq in seqs:
        raise BadArgument("attach wants other branches, each named once")
    for other in (branch, *others):
        engine.alive(other)
        if not 0 <= start <= other.length:
            raise BadArgument(f"start must lie in [0, {other.length}] for {other!r}, got {start}")
        if other.net != branch.net:
            raise BadArgument(f"{other!r} runs under another override; its K/V means nothing here")
    seen = branch.length + sum(other.length - start for other in others)
    if seen > engine.limit:
        raise WindowFull(
            f"{branch!r} would read {seen} tokens; the window is {engine.limit}: attach fewer, or prune"
        )


def _check_served(engine: "Engine") -> None:
    one = torch.zeros(1, dtype=torch.int64)
    batch = ForwardBatch(one, one, one, torch.tensor([0, 1]), one + 1, one[None], logit_rows=one)
    batch.attached = [[Segment([0], 0, 1, -1)]]
    why = engine.forward.unserved(batch)
    if why:
        raise Unserved(why)


def detach(engine: "Engine", branch: Branch) -> None:
    engine.idle(branch)
    if branch.reading:
        recall(engine, branch)
        relayout(engine, branch, ALL)
        branch.reading = ()
        branch.logits, branch.hidden = None, {}
