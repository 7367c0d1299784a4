"""Tool chains: each step needs the result of the one before, and the whole state fits in one line.

The tree is the trie of the steps' three-digit labels: tasks of hundreds, of tens, and of single
steps, so that fan-out is at most ten and every decision is a copy or a comparison. A sliding
window over flat text can serve these as well (`nested` has the families that it cannot).
"""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

from workbench.tasks.gold import Call, Problem
from workbench.tasks.trie import END, Link, labels, trie

LETTERS = "abcdefgh"


def chain(
    level: int, rng: random.Random, gaps: Sequence[int] = (1, 2, 3), digits: int = 0
) -> Problem:
    """Follow `level` links by tool: a key gives the next key and its label."""
    places = [*labels(level, rng, gaps, digits), END]
    keys = [str(key) for key in rng.sample(range(1000, 10_000), level + 1)]
    results = {
        key: {"next": after, "mile": label}
        for key, after, label in zip(keys, keys[1:], places[1:], strict=False)
    }
    links = [
        Link(places[i], keys[i], f"{places[i + 1]}: {keys[i + 1]}", _call(keys[i], results))
        for i in range(level)
    ]
    prompt = f"Follow the links with the tool lookup, from {places[0]}. Start: {keys[0]}"
    return Problem("chain", level, prompt, keys[-1], "lookup", "key", results, trie(links))


def _call(key: str, results: dict[str, dict[str, str]]) -> Call:
    return Call("lookup", "key", key, results[key])


def fetch(
    level: int, rng: random.Random, gaps: Sequence[int] = (1, 2, 3), digits: int = 0
) -> Problem:
    """Run a program of `level` lines over five letters, a line a call."""
    places = [*labels(level, rng, gaps, digits), END]
    state = rng.sample(LETTERS, 5)
    start = " ".join(state)
    results: dict[str, dict[str, str]] = {}
    links: list[Link] = []
    for label, after in pairwise(places):
        before = " ".join(state)
        op, state = _edit(state, rng)
        results[label] = {"op": op, "next": after}
        said = f"{after}: {' '.join(state)}"
        links.append(Link(label, before, said, Call("line", "n", label, results[label])))
    prompt = f"Run the program with the tool line, from {places[0]}. Start: {start}"
    return Problem("fetch", level, prompt, " ".join(state), "line", "n", results, trie(links))


def _edit(state: list[str], rng: random.Random) -> tuple[str, list[str]]:
    match rng.choice(("left", "right", "flip", "swap", "put")):
        case "left":
            return "left", [*state[1:], state[0]]
        case "right":
            return "right", [state[-1], *state[:-1]]
        case "flip":
            return "flip", state[::-1]
        case "swap":
            a, b = rng.sample(state, 2)
            turned = {a: b, b: a}
            return f"swap {a} {b}", [turned.get(x, x) for x in state]
        case _:
            a = rng.choice(state)
            b = rng.choice([x for x in LETTERS if x not in state])
            return f"put {a} {b}", [b if x == a else x for x in state]


FAMILIES: dict[str, Callable[[int, random.Random], Problem]] = {"chain": chain, "fetch": fetch}
