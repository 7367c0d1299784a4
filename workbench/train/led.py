"""Led along the right text: which problems an adapter would solve word for word.

The gold text of a problem is encoded as a pruned run would encode it, and at every position that
the model samples its likeliest token is compared. If all are right, a free greedy run writes just
that text; a wrong token that a grammar forbids would not have stood in one.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.tasks.catalogue import task
from workbench.tasks.splits import SPLITS, Split
from workbench.train.corpus import Encoder, Mixture, pack
from workbench.train.step import Step
from workbench.train.views import NO_TARGET, View

ROWS, ROW = 2, 8192
LONG = 40  # level of the long problems, where a family has no other


@dataclass(frozen=True, slots=True)
class Replay:
    """`exact` of `n` problems; `errors` in `sampled` tokens, the commonest as (wanted, came)."""

    family: str
    level: int
    n: int
    exact: int
    sampled: int
    errors: int
    commonest: tuple[tuple[int, int, int], ...]  # wanted, came, how often


def levels(split: Split) -> tuple[int, int]:
    """A level of training and a long one."""
    long = max(LONG, split.held_out) if split.train[1] > 4 else split.held_out + 1
    return split.train[1], long + (split.odd and long % 2 == 0)


def views_of(encoder: Encoder, style: str, family: str, level: int, n: int) -> list[View]:
    """Of `n` problems those that fit a row."""
    mixture = Mixture("tree" if style == "tree" else "flat", thresholds=(0,), gap_share=0.0)
    problems = [task(family, level, seed) for seed in range(n)]
    views = [encoder.view(problem, mixture, random.Random(0)) for problem in problems]
    return [view for view in views if len(view) <= ROW]


def judge(step: Step, family: str, level: int, views: Sequence[View]) -> Replay:
    """Run the views and count."""
    exact = sampled = errors = 0
    confused: Counter[tuple[int, int]] = Counter()
    left = list(views)
    while left:
        batch, left = pack(left, ROWS, ROW)
        came = step.predictions(batch)
        wrong = came != batch.targets
        for b in range(ROWS):
            for number in range(batch.document[b].max() + 1):
                exact += not wrong[b][batch.document[b] == number].any()
        sampled += int((batch.targets != NO_TARGET).sum())
        errors += int(wrong.sum())
        confused.update(zip(batch.targets[wrong].tolist(), came[wrong].tolist(), strict=True))
    common = tuple((w, c, n) for (w, c), n in confused.most_common(4))
    return Replay(family, level, len(views), exact, sampled, errors, common)


def replays(step: Step, encoder: Encoder, style: str, n: int) -> Iterator[Replay]:
    """`n` problems of every family at both its levels."""
    for family, split in SPLITS.items():
        for level in levels(split):
            yield judge(step, family, level, views_of(encoder, style, family, level, n))
