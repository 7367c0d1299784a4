"""The next token of every branch that has logits, and of the drafted ones behind it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.engine.batch import Row
from workbench.engine.jobs import Generate
from workbench.engine.sampler import Draws, draw
from workbench.engine.settling import settle_draw
from workbench.words import SeqId

if TYPE_CHECKING:
    from workbench.engine.engine import Engine

Told = tuple[float, int]  # seconds that masks took, tokens sampled


def draw_all(
    engine: "Engine", jobs: list[Generate], rows: Sequence[Row], whole: Tensor | None,
    waited: bool, counts: list[int],
) -> Told:  # fmt: skip
    """Draw and settle. `whole` are the logits [R, V] of the pass of `rows`; `waited`: some jobs had
    theirs before it. `counts` of tokens by phase go on by the drafted ones that are kept."""
    drafts = {row.branch.seq: row for row in rows if row.drafted}
    if drafts and whole is not None:
        return _draw_drafts(engine, jobs, drafts, whole, waited, counts)
    logits = [job.branch.logits for job in jobs if job.branch.logits is not None]
    try:
        # each row's one, in order, where nobody has waited
        alike = whole is not None and not waited and whole.shape[0] == len(jobs)
        stacked = whole if whole is not None and alike else torch.stack(logits)
        drawing = draw(engine.sample, jobs, stacked, engine.record_top)
        if not engine.lookup.each(len(jobs)):
            engine.ahead.launch(jobs, drawing.sampled)
        draws = drawing.land()
        engine.ahead.landed(draws)
    except Exception as error:
        engine.ahead.drop()
        return _draw_apart(engine, jobs, logits, error), len(jobs)
    for job, row in zip(jobs, draws.rows, strict=True):
        settle_draw(engine, job, row)
    return draws.grammar_s, len(jobs)


def _draw_drafts(
    engine: "Engine", jobs: list[Generate], drafts: dict[SeqId, Row], whole: Tensor,
    waited: bool, counts: list[int],
) -> Told:  # fmt: skip
    """Every place at once; then token by token while the draws are the drafted ones."""
    logits = whole.unbind(0)
    asked: list[Generate] = []
    behind: list[int] = []
    wanted: list[Tensor] = []
    firsts: list[int] = []
    for job in jobs:
        assert job.branch.logits is not None
        row = drafts.get(job.branch.seq)
        count = 1 + len(row.drafted) if row is not None else 1
        firsts.append(len(asked))
        asked += [job] * count
        behind += range(count)
        wanted.append(job.branch.logits)
        wanted += logits[row.logits[0] + 1 : row.logits[1]] if row is not None else ()
    try:
        alike = not waited and len(asked) == len(whole)
        stacked = whole if alike else torch.stack(wanted)
        draws = draw(engine.sample, asked, stacked, engine.record_top, behind).land()
    except Exception as error:
        engine.lookup.drop(list(drafts.values()))
        return _draw_apart(engine, jobs, [wanted[at] for at in firsts], error), len(jobs)
    for job, at in zip(jobs, firsts, strict=True):
        settle_draw(engine, job, draws.rows[at])
    going = [
        (drafts[job.branch.seq], job, at)
        for job, at in zip(jobs, firsts, strict=True)
        if job.branch.seq in drafts
    ]
    return draws.grammar_s, len(jobs) + _keep(engine, going, draws, logits, counts)


def _keep(
    engine: "Engine", going: list[tuple[Row, Generate, int]], draws: Draws,
    logits: Sequence[Tensor], counts: list[int],
) -> int:  # fmt: skip
    """Settle the draws behind the first, whose place in `draws` stands by each row, for as long as
    they are right. Returns how many."""
    lookup, drafts, sampled, n = engine.lookup, [row for row, _, _ in going], 0, 0
    kept = dict.fromkeys([row.branch.seq for row in drafts], 0)
    while going:
        n += 1
        going = [one for one in going if lookup.goes_on(one[0], n)]
        for row, _, _ in going:
            lookup.keep(row, n, logits, counts)
            kept[row.branch.seq] += 1
        for _, job, at in going:
            settle_draw(engine, job, draws.rows[at + n])
        sampled += len(going)
    for row in drafts:
        lookup.count(row, kept[row.branch.seq])
    lookup.drop(drafts)
    return sampled


def _draw_apart(
    engine: "Engine", jobs: list[Generate], rows: list[Tensor], error: Exception
) -> float:
    """One row spoiled the draw (a grammar that allows nothing, a matcher that raises): find it,
    fail it alone, draw the others."""
    grammar_s = 0.0
    for job, logits in zip(jobs, rows, strict=True):
        try:
            draws = draw(engine.sample, [job], logits[None], engine.record_top).land()
        except Exception as fault:
            fault.__context__ = error
            job.fail(fault)
            continue
        grammar_s += draws.grammar_s
        settle_draw(engine, job, draws.rows[0])
    return grammar_s
