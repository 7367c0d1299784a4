"""In-prompt families: everything that a problem needs stands in its prompt, and no tool is called.

`proc_*` are the 23 kinds of ProcBench, `long_*` arithmetic by place value, then small worlds and
work over long lists. Trained at levels 2..12, validated at 13..16, held out from 17 on (tables use
20, 40, 80).

`FAMILIES` are what is tested: a list of exactly `level` lines. `training` draws the same families
with lists as long as the tests' around traces that are short.
"""

import random
from collections.abc import Callable, Mapping
from functools import partial

from workbench.tasks import arithmetic, games, lists, procbench_counts, procbench_letters
from workbench.tasks.gold import Problem
from workbench.tasks.procedures import Procedure, follow

PROCEDURES: Mapping[str, Procedure] = {
    **procbench_letters.PROCEDURES,
    **procbench_counts.PROCEDURES,
    **arithmetic.PROCEDURES,
    **lists.PROCEDURES,
    **games.PROCEDURES,
}
FAMILIES: dict[str, Callable[[int, random.Random], Problem]] = {
    **{name: partial(follow, name, procedure) for name, procedure in PROCEDURES.items()},
    "merge": lists.merge,
}
TRAIN_LEVELS = (2, 12)
VALIDATION_LEVELS = (13, 16)
LONG_SHARE = 0.4  # of the training problems have a long list
LONG_LIST = 90  # lines of a training prompt at most, asked for or not
LONG_LIST_LEVEL = 7  # lines asked for at most where others surround them
TRAIN_GAPS = (1, 2, 3, 4, 8)


def training(name: str, level: int, rng: random.Random) -> Problem:
    """A training problem, or at a level of validation one like it: most lists are no longer than
    the trace, the others are any length up to the tests' around a short trace; labels have two,
    three or four digits."""
    spare = 0
    if rng.random() < LONG_SHARE:
        if level <= TRAIN_LEVELS[1]:
            level = min(level, LONG_LIST_LEVEL)
        spare = rng.randint(0, LONG_LIST - level)
    if name == "merge":
        return lists.merge(level, rng, spare=spare + 4)
    digits = rng.choice((2, 3, 3, 3, 3, 4)) if level + spare < 60 else 3
    gaps = (*TRAIN_GAPS, 40) if digits == 4 and level < 6 else TRAIN_GAPS
    return follow(name, PROCEDURES[name], level, rng, gaps, spare, digits)
