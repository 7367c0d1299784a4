"""Small worlds that lines of the prompt change: walks, switches, brackets, dates, accounts.

In the manner of procedural reasoning benchmarks (2505.24760), with states of a fixed size.
"""

import random
from collections.abc import Mapping

from workbench.tasks.procedures import Given, Procedure, State, Step, nothing

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TURNS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
PAIRS = {"(": ")", "[": "]", "<": ">"}
EMPTY = ("none",)


def _digits(rng: random.Random, count: int) -> tuple[Given, State]:
    return nothing(tuple(str(rng.randrange(10)) for _ in range(count)))


def _walk(given: Given, state: State, rng: random.Random) -> Step:
    turn, far = rng.choice(list(TURNS)), rng.randint(1, 5)
    x, y = (str((int(a) + far * d) % 10) for a, d in zip(state, TURNS[turn], strict=True))
    return Step(f"{turn} {far}", (x, y))


def _switch(given: Given, state: State, rng: random.Random) -> Step:
    turned = sorted(rng.sample(range(1, 6), 2))
    lights = [
        ("on" if light == "off" else "off") if place in turned else light
        for place, light in enumerate(state, 1)
    ]
    return Step(" ".join(map(str, turned)), tuple(lights))


def _bracket(given: Given, state: State, rng: random.Random) -> Step:
    stack = () if state == EMPTY else state
    if not stack or (len(stack) < 6 and rng.random() < 0.5):
        new = rng.choice(list(PAIRS))
        return Step(new, (*stack, new))
    return Step(PAIRS[stack[-1]], stack[:-1] or EMPTY)


def _day(given: Given, state: State, rng: random.Random) -> Step:
    far, side = rng.randint(1, 6), rng.choice(("later", "earlier"))
    at = DAYS.index(state[0])
    passed = [DAYS[(at + (i if side == "later" else -i)) % 7] for i in range(1, far + 1)]
    return Step(f"{far} {side}", (passed[-1],), " ".join(passed))


def _pay(given: Given, state: State, rng: random.Random) -> Step:
    giver, taker = rng.sample(range(3), 2)
    money = [int(x) for x in state]
    sum_ = rng.randint(0, min(money[giver], 9 - money[taker]))
    money[giver] -= sum_
    money[taker] += sum_
    return Step(f"{'PQR'[giver]} {'PQR'[taker]} {sum_}", tuple(map(str, money)))


PROCEDURES: Mapping[str, Procedure] = {
    "robot": Procedure(
        "A robot walks on a field of ten by ten, x and y from 0 to 9; north adds to y, east adds"
        " to x. Past 9 comes 0, and before 0 comes 9.",
        lambda rng: _digits(rng, 2),
        _walk,
    ),
    "switches": Procedure(
        "Five lights are on or off. A line gives the two that are switched; the first is 1.",
        lambda rng: nothing(tuple(rng.choice(("on", "off")) for _ in range(5))),
        _switch,
    ),
    "brackets": Procedure(
        "Lines give brackets. The state has those that are open, the latest at the end, or none.",
        lambda rng: nothing(tuple(rng.choices(list(PAIRS), k=2))),
        _bracket,
    ),
    "calendar": Procedure(
        "A day of the week stands. A line says how many days later or earlier to go.",
        lambda rng: nothing((rng.choice(DAYS),)),
        _day,
    ),
    "ledger": Procedure(
        "Three accounts P, Q, R. A line says who pays, who is paid, and how much.",
        lambda rng: nothing(tuple(str(rng.randint(2, 7)) for _ in range(3))),
        _pay,
    ),
}
