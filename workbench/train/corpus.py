"""From families to batches: problems drawn, encoded, packed first-fit into rows.

Train, validation and test draw from disjoint streams of random numbers *and* disjoint levels: a
training problem is never longer than `Mixture.longest`, and `is_held_out` sends a fixed tenth of
the prompts to validation, whoever draws them.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.tasks import chains, nested
from workbench.tasks.gold import Problem, flat_pieces, tree_pieces
from workbench.train.views import NO_TARGET, Ints, View, encode_gold, pruned_view

FAMILIES: dict[str, Callable[[int, random.Random], Problem]] = {
    **chains.FAMILIES,
    **nested.FAMILIES,
}
CHAIN_GAPS = (1, 2, 4, 10, 30, 80)


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is trained on. A threshold of None is a run of which nothing is pruned."""

    style: Literal["tree", "flat"] = "tree"
    shares: tuple[tuple[str, float], ...] = tuple((name, 1.0) for name in FAMILIES)
    shortest: int = 2
    longest: int = 14
    thresholds: tuple[int | None, ...] = (0, 0, 1, 2, None)
    gap_share: float = 0.3  # of problems that get free positions after the prompt
    longest_gap: int = 1500
    row: int = 2048  # tokens a row; longer documents are left out


def is_held_out(problem: Problem) -> bool:
    """Whether a prompt belongs to validation; a fixed tenth of all prompts does."""
    return hashlib.sha256(problem.prompt.encode()).digest()[0] < 26


def draw(mixture: Mixture, rng: random.Random, held_out: bool = False) -> Problem:
    """A problem of the mixture, from the training or the validation prompts."""
    while True:
        [family] = rng.choices(*zip(*mixture.shares, strict=True))
        level = rng.randint(mixture.shortest, mixture.longest)
        if family == "expression":
            level |= 1
        elif family in chains.FAMILIES:
            level = min(level, 8)
        if family == "chain":
            problem = chains.chain(level, rng, CHAIN_GAPS)
        elif family == "fetch":
            problem = chains.fetch(level, rng, CHAIN_GAPS)
        else:
            problem = FAMILIES[family](level, rng)
        if is_held_out(problem) == held_out:
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


def pack(views: Sequence[View], rows: int, row: int) -> Batch:
    """First-fit, longest first, in `rows` rows of `row` tokens; views that find no room are left
    out. `dead` becomes an index into the row."""
    members: list[list[View]] = [[] for _ in range(rows)]
    free = [row] * rows
    for view in sorted(views, key=len, reverse=True):
        place = next((i for i, left in enumerate(free) if left >= len(view)), None)
        if place is not None:
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
    return batch


def batch_at(
    mixture: Mixture, encoder: Encoder, tokens: int, seed: int, step: int, held_out: bool = False
) -> Batch:
    """The batch of `tokens` tokens for a step: a pure function, so a run can be resumed. The shape
    is the same for every step."""
    rng = random.Random(f"{seed}/{step}/{held_out}")
    views: list[View] = []
    drawn = 0
    while drawn < tokens:
        view = encoder.view(draw(mixture, rng, held_out), mixture, rng)
        if len(view) <= mixture.row:
            views.append(view)
            drawn += len(view)
    return pack(views, max(1, tokens // mixture.row), mixture.row)
