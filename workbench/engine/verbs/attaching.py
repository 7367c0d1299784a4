"""attach, detach: one branch reads the growing caches of others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.engine.checks import alive, idle, require
from workbench.engine.errors import BadArgument, PoolTooSmall, WindowFull
from workbench.engine.relocate import recall, relayout
from workbench.engine.sequence import ALL, Branch, Reading

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


def attach(engine: "Engine", branch: Branch, others: Sequence[Branch], start: int) -> None:
    idle(engine, branch)
    if branch.reading:
        raise BadArgument(f"{branch!r} reads others already: detach it first")
    _check_others(engine, branch, others, start)
    require(engine, override=branch.override, attached=True)
    branch.reading = tuple(  # from here on nobody takes their pages
        Reading(other, other.resident[start] if start < other.length else len(other.tokens))
        for other in others
    )
    try:
        for other in others:
            recall(engine, other, spare=branch)
        recall(engine, branch)
        relayout(engine, branch, start)
    except PoolTooSmall:
        branch.reading = ()
        raise
    branch.pure = min(branch.pure, max(start, branch.stored))
    branch.logits, branch.hidden = None, {}


def _check_others(engine: "Engine", branch: Branch, others: Sequence[Branch], start: int) -> None:
    seqs = {other.seq for other in others}
    if not others or len(seqs) != len(others) or branch.seq in seqs:
        raise BadArgument("attach wants other branches, each named once")
    for other in (branch, *others):
        alive(engine, other)
        if not 0 <= start <= other.length:
            raise BadArgument(f"start must lie in [0, {other.length}] for {other!r}, got {start}")
        if other.net != branch.net:
            raise BadArgument(f"{other!r} runs under another override; its K/V means nothing here")
    seen = branch.length + sum(other.length - start for other in others)
    if seen > engine.limit:
        raise WindowFull(
            f"{branch!r} would read {seen} tokens; the window is {engine.limit}: attach fewer, or "
            f"prune"
        )


def detach(engine: "Engine", branch: Branch) -> None:
    idle(engine, branch)
    if branch.reading:
        recall(engine, branch)
        relayout(engine, branch, ALL)
        branch.reading = ()
        branch.logits, branch.hidden = None, {}
