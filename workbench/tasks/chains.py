"""Tool chains: each step needs the result of the one before, and the whole state fits in one line.

The tree is the trie of the steps' three-digit labels: tasks of hundreds, of tens, and of single
steps, so that fan-out is at most ten and every decision is a copy or a comparison. A sliding
window over flat text can serve these as well (`nested` has the families that it cannot).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workbench.tasks.gold import Call, Problem, Work

LETTERS = "abcdefgh"


@dataclass(frozen=True, slots=True)
class _Link:
    """One step: where it stands, the state it finds, its call, and what it says at the end."""

    label: str
    before: str
    said: str
    call: Call


def _labels(count: int, rng: random.Random, gaps: Sequence[int]) -> list[str]:
    """`count` increasing three-digit labels with gaps of one of the scales."""
    scale = rng.choice([g for g in gaps if g * count < 850] or [1])
    steps = [rng.randint(1, scale) for _ in range(count - 1)]
    while sum(steps) > 890:
        steps = [max(1, step // 2) for step in steps]
    first = rng.randint(100, 999 - sum(steps))
    labels = [first]
    for step in steps:
        labels.append(labels[-1] + step)
    return [str(label) for label in labels]


def _trie(links: Sequence[_Link]) -> tuple[Work, ...]:
    """Hundreds, tens, steps."""

    def grow(part: Sequence[_Link], digits: int) -> tuple[Work, ...]:
        if digits == 3:
            return tuple(Work(f"{x.label}: {x.before}", x.said, x.call) for x in part)
        works: list[Work] = []
        while part:
            prefix = part[0].label[:digits]
            size = sum(1 for link in part if link.label[:digits] == prefix)
            head, part = part[:size], part[size:]
            thought = f"{prefix}x from {head[0].label}: {head[0].before}"
            works.append(Work(thought, head[-1].said, None, grow(head, digits + 1)))
        return tuple(works)

    return grow(links, 1)


def chain(level: int, rng: random.Random, gaps: Sequence[int] = (1, 2, 3)) -> Problem:
    """Follow `level` links by tool: a key gives the next key and its label."""
    labels = [*_labels(level, rng, gaps), "end"]
    keys = [str(key) for key in rng.sample(range(1000, 10_000), level + 1)]
    results = {
        key: {"next": after, "mile": label}
        for key, after, label in zip(keys, keys[1:], labels[1:], strict=False)
    }
    links = [
        _Link(labels[i], keys[i], f"{labels[i + 1]}: {keys[i + 1]}", _call(keys[i], results))
        for i in range(level)
    ]
    prompt = f"Follow the links with the tool lookup, from {labels[0]}. Start: {keys[0]}"
    return Problem("chain", level, prompt, keys[-1], "lookup", "key", results, _trie(links))


def _call(key: str, results: dict[str, dict[str, str]]) -> Call:
    return Call("lookup", "key", key, results[key])


def fetch(level: int, rng: random.Random, gaps: Sequence[int] = (1, 2, 3)) -> Problem:
    """Run a program of `level` lines over five letters, a line a call."""
    labels = [*_labels(level, rng, gaps), "end"]
    state = rng.sample(LETTERS, 5)
    start = " ".join(state)
    results: dict[str, dict[str, str]] = {}
    links: list[_Link] = []
    for label, after in pairwise(labels):
        before = " ".join(state)
        op, state = _edit(state, rng)
        results[label] = {"op": op, "next": after}
        said = f"{after}: {' '.join(state)}"
        links.append(_Link(label, before, said, Call("line", "n", label, results[label])))
    prompt = f"Run the program with the tool line, from {labels[0]}. Start: {start}"
    return Problem("fetch", level, prompt, " ".join(state), "line", "n", results, _trie(links))


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
