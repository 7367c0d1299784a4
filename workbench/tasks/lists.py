"""Counting, sorting and merging over long lists in the prompt."""

import random
from collections.abc import Mapping, Sequence

from workbench.tasks.gold import Problem
from workbench.tasks.procedures import Given, Procedure, State, Step, counted, nothing
from workbench.tasks.trie import END, Link, trie

COLOURS = ("red", "blue", "green", "gold", "pink")


def _begin_tally(rng: random.Random) -> tuple[Given, State]:
    return {"count": rng.choice(COLOURS)}, (str(rng.randint(100, 600)),)


def _tally(given: Given, state: State, rng: random.Random) -> Step:
    colour = given["count"] if rng.random() < 0.5 else rng.choice(COLOURS)
    return Step(colour, (str(int(state[0]) + (colour == given["count"])),))


def _begin_numbers(rng: random.Random) -> tuple[Given, State]:
    numbers = map(str, sorted(rng.sample(range(100, 1000), 2)))
    return nothing((*numbers, str(rng.randrange(10))))


def _sort_numbers(given: Given, state: State, rng: random.Random) -> Step:
    number, side = str(rng.randint(100, 999)), rng.choice(("first", "last"))
    whole = sorted((*state[:-1], number))  # all of three digits
    work = " ".join(whole)
    gone = whole.pop(0 if side == "first" else -1)
    return Step(f"{number} {side}", (*whole, counted(state[-1], gone == number)), work)


MOST = 890  # numbers of three digits that a list may have

PROCEDURES: Mapping[str, Procedure] = {
    "tally": Procedure(
        "A line has a colour. The state is the number to begin with and one for each line of the"
        " colour that is counted.",
        _begin_tally,
        _tally,
    ),
    "sort_numbers": Procedure(
        "Two numbers stay in order, the smaller first. A line gives a number to put in its place,"
        " and whether the first or the last of the three is then dropped. Count, by its last digit,"
        " how often a number equal to the line's is dropped.",
        _begin_numbers,
        _sort_numbers,
    ),
}


def merge(level: int, rng: random.Random, gaps: Sequence[int] = (), spare: int = 4) -> Problem:
    """Merge two sorted lists until a given place of the merged list; the answer is the number
    that comes there. The labels are the places, `level` of them; `gaps` mean nothing here."""
    if level + spare > MOST:
        raise ValueError(
            f"merge: at most {MOST} numbers of three digits serve, {level + spare} came"
        )
    ahead = rng.randint(0, spare)
    numbers = [str(n) for n in sorted(rng.sample(range(100, 1000), level + spare + 2))]
    lists: tuple[list[str], list[str]] = ([], [])
    for number in numbers[:-2]:
        rng.choice(lists).append(number)
    for row, number in zip(lists, rng.sample(numbers[-2:], 2), strict=True):
        row.append(number)  # so that neither list ends before the asked place
    merged = numbers[ahead:]
    p, q = (next(n for n in row if n >= merged[0]) for row in lists)
    first = rng.randint(100, 999 - level)
    start, links = f"{p} {q}", []
    for place, number in enumerate(merged[:level], first):
        row = lists[0] if number == p else lists[1]
        following = row[row.index(number) + 1] if number not in numbers[-2:] else END
        before = f"{p} {q}"
        p, q = (following, q) if number == p else (p, following)
        last = place == first + level - 1
        said = f"{END}: {number}" if last else f"{place + 1}: {p} {q}"
        links.append(
            Link(str(place), before, said, None, f"{place}: {before}; {number} {following}")
        )
    prompt = (
        "Merge two sorted lists, the smaller of the two numbers that stand first. The state is the"
        f" place and the next number of each list.\nP: {' '.join(lists[0])}\n"
        f"Q: {' '.join(lists[1])}\nWhich number comes at place {first + level - 1}?"
        f" Start: {first}: {start}"
    )
    return Problem("merge", level, prompt, merged[level - 1], "", "", {}, trie(links))
