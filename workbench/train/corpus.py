"""From families to batches: problems drawn, encoded, packed first-fit into rows.

Which levels and which problems may be trained on is told by `tasks.splits`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.tasks.gold import Problem, flat_pieces, tree_pieces
from workbench.tasks.recovery import with_faults
from workbench.tasks.splits import SPLITS, drawn
from workbench.train.views import NO_TARGET, Ints, View, encode_gold, pruned_view


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is trained on. A threshold of None is a run of which nothing is pruned."""

    style: Literal["tree", "flat"] = "tree"
    shares: tuple[tuple[str, float], ...] = tuple((name, 1.0) for name in SPLITS)
    fault_share: float = 0.15  # of problems with a tool in which calls go wrong
    faults: float = 0.15  # of such a problem's calls
    thresholds: tuple[int | None, ...] = (0, 0, 1, 2, None)
    gap_share: float = 0.3  # of problems that get free positions after the prompt
    longest_gap: int = 1500
    row: int = 2048  # tokens a row; longer documents are left out


def draw(mixture: Mixture, rng: random.Random, held_out: bool = False) -> Problem:
    """A problem of the mixture at a level of training, or `held_out` at one of validation; some
    with calls that go wrong."""
    [family] = rng.choices(*zip(*mixture.shares, strict=True))
    problem = drawn(family, rng, held_out)
    if problem.tool and rng.random() < mixture.fault_share:
        return with_faults(problem, rng, mixture.faults)
    return problem


@dataclass(frozen=True, slots=True)
class Encoder:
    """Text to ids: the chat template around a prompt, and single pieces."""

    prompt: Callable[[str], Sequence[int]]
    piece: Callable[[str], Sequence[int]]
    end: int

    def view(self, problem: Problem, mixture: Mixture, rng: random.Random) -> View:
        pieces = tree_pieces(problem) if mixture.style == "tree" else flat_pieces(problem)
        gold = encode_gold(pieces, self.piece, self.end)
        gap = rng.randint(1, mixture.longest_gap) if rng.random() < mixture.gap_share else 0
        threshold = rng.choice(mixture.thresholds) if mixture.style == "tree" else None
        return pruned_view(self.prompt(problem.prompt), gold, threshold, gap)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Packed rows, all [B, N] int32. `document` separates what must not see each other."""

    ids: Ints
    positions: Ints
    dead: Ints
    document: Ints
    targets: Ints

    @property
    def tokens(self) -> int:
        return int(self.ids.size)


def pack(views: Sequence[View], rows: int, row: int) -> tuple[Batch, list[View]]:
    """First-fit, longest first, in `rows` rows of `row` tokens; and the views that found no room.
    `dead` becomes an index into the row."""
    members: list[list[View]] = [[] for _ in range(rows)]
    free = [row] * rows
    over: list[View] = []
    for view in sorted(views, key=len, reverse=True):
        place = next((i for i, left in enumerate(free) if left >= len(view)), None)
        if place is None:
            over.append(view)
        else:
            members[place].append(view)
            free[place] -= len(view)
    shape = (rows, row)
    batch = Batch(
        ids=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        dead=np.zeros(shape, np.int32),
        document=np.full(shape, -1, np.int32),
        targets=np.full(shape, NO_TARGET, np.int32),
    )
    for b, packed in enumerate(members):
        at = 0
        for number, view in enumerate(packed):
            span = slice(at, at + len(view))
            batch.ids[b, span] = view.ids
            batch.positions[b, span] = view.positions
            batch.dead[b, span] = np.minimum(view.dead, len(view)) + at
            batch.document[b, span] = number
            batch.targets[b, span] = view.targets
            at += len(view)
    return batch, over


def batch_at(
    mixture: Mixture, encoder: Encoder, tokens: int, seed: int, step: int, held_out: bool = False
) -> Batch:
    """The batch of `tokens` tokens for a step: a pure function, so a run can be resumed. The shape
    is the same for every step."""
    rng = random.Random(f"{seed}/{step}/{held_out}")
    views: list[View] = []
    filled = missed = 0
    while filled < tokens:
        view = encoder.view(draw(mixture, rng, held_out), mixture, rng)
        if len(view) <= mixture.row:
            views.append(view)
            filled += len(view)
        elif (missed := missed + 1) > 1000 and not views:
            raise ValueError(f"no document of {mixture.shares} fits a row of {mixture.row} tokens")
    return pack(views, max(1, tokens // mixture.row), mixture.row)[0]
