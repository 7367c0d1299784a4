"""What is trained on, what is validated on, what is tested on: one row a family, levels that never
overlap.

At the levels of its training a family is split once more, by content: a fixed tenth of all
problems is never trained on, and `catalogue.task` gives only those there. So no problem that is
evaluated, at whatever level, was ever seen in training.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from workbench.tasks import chains, hanoi, inprompt, nested, scopes, tables
from workbench.tasks.gold import Problem

Kind = Literal["tool chain", "non-local", "in-prompt"]
Make = Callable[[int, random.Random], Problem]


@dataclass(frozen=True, slots=True)
class Split:
    """Levels of one family: first and last of training and of validation, the first held out.

    `odd`: the family's problems have odd sizes only.
    """

    kind: Kind
    train: tuple[int, int]
    validation: tuple[int, int]
    held_out: int
    odd: bool = False

    def draw(self, span: tuple[int, int], rng: random.Random) -> int:
        level = rng.randint(*span)
        return level - 1 if self.odd and level % 2 == 0 else level


SPLITS: Mapping[str, Split] = {
    "chain": Split("tool chain", (2, 8), (9, 12), 13),
    "fetch": Split("tool chain", (2, 8), (9, 12), 13),
    "join": Split("tool chain", (2, 6), (7, 9), 10),
    "hops": Split("tool chain", (2, 6), (7, 9), 10),
    "expression": Split("non-local", (3, 15), (17, 19), 21, odd=True),
    "blocks": Split("non-local", (2, 15), (16, 19), 20),
    "loops": Split("non-local", (2, 15), (16, 19), 20),
    "maze": Split("non-local", (2, 18), (19, 22), 23),
    "calls": Split("non-local", (2, 15), (16, 19), 20),
    "limits": Split("non-local", (2, 15), (16, 19), 20),
    "hanoi": Split("non-local", (1, 4), (5, 5), 6),
    **{
        name: Split(
            "in-prompt",
            inprompt.TRAIN_LEVELS,
            inprompt.VALIDATION_LEVELS,
            inprompt.VALIDATION_LEVELS[1] + 1,
        )
        for name in inprompt.FAMILIES
    },
}

BY_LABEL: Mapping[str, Callable[..., Problem]] = {**chains.FAMILIES, **tables.FAMILIES}
GAPS = (1, 2, 4, 10, 30, 80, 300, 2000)
DIGITS = (2, 3, 3, 3, 3, 4, 4, 5, 5)  # of labels, in training
BY_POOL: Mapping[str, Callable[..., Problem]] = {**nested.FAMILIES, **scopes.FAMILIES}
POOLS = (0, 0, 0, 1000)  # labels to draw from: as many as are needed, or those of four digits
OTHERS: Mapping[str, Make] = hanoi.FAMILIES


def drawn(name: str, rng: random.Random, validation: bool = False) -> Problem:
    """A problem as training sees it: labels and lists of many widths, a level of its split."""
    split = SPLITS[name]
    level = split.draw(split.validation if validation else split.train, rng)
    while True:
        if name in BY_LABEL:
            problem = BY_LABEL[name](level, rng, GAPS, rng.choice(DIGITS))
        elif name in BY_POOL:
            problem = BY_POOL[name](level, rng, rng.choice(POOLS))
        elif name in OTHERS:
            problem = OTHERS[name](level, rng)
        elif validation:
            problem = inprompt.FAMILIES[name](level, rng)
        else:
            problem = inprompt.training(name, level, rng)
        if validation or not kept_back(problem):
            return problem


def fingerprint(problem: Problem) -> bytes:
    """Digest of all that a problem tells: its prompt and its tool's table."""
    told = [problem.prompt, sorted((k, sorted(v.items())) for k, v in problem.results.items())]
    return hashlib.sha256(json.dumps(told).encode()).digest()


def kept_back(problem: Problem) -> bool:
    """Whether a problem belongs to the tenth that is never trained on."""
    return fingerprint(problem)[0] < 26
