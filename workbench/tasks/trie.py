"""Steps under three-digit labels, grouped as the trie of the labels: hundreds, tens, steps.

Fan-out is at most ten, and every decision (down, on, up) is a comparison of the next label with
the prefix at hand, never arithmetic on the number of steps.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.tasks.gold import Call, Work

END = "end"  # stands where a next label would


@dataclass(frozen=True, slots=True)
class Link:
    """One step: where it stands, the state it finds, and what it says at the end.

    `thought` is what the step thinks, "label: state" unless given.
    """

    label: str
    before: str
    said: str
    call: Call | None = None
    thought: str = ""


def labels(count: int, rng: random.Random, gaps: Sequence[int]) -> list[str]:
    """`count` increasing three-digit labels with gaps of one of the scales."""
    scale = rng.choice([g for g in gaps if g * count < 850] or [1])
    steps = [rng.randint(1, scale) for _ in range(count - 1)]
    while sum(steps) > 890:
        steps = [max(1, step // 2) for step in steps]
    first = rng.randint(100, 999 - sum(steps))
    found = [first]
    for step in steps:
        found.append(found[-1] + step)
    return [str(label) for label in found]


def trie(links: Sequence[Link]) -> tuple[Work, ...]:
    """The tree of the steps; an inner task begins at its first step's state and says what its
    last step says."""

    def grow(part: Sequence[Link], digits: int) -> tuple[Work, ...]:
        if digits == 3:
            return tuple(Work(x.thought or f"{x.label}: {x.before}", x.said, x.call) for x in part)
        works: list[Work] = []
        while part:
            prefix = part[0].label[:digits]
            size = sum(1 for link in part if link.label[:digits] == prefix)
            head, part = part[:size], part[size:]
            thought = f"{prefix}x from {head[0].label}: {head[0].before}"
            works.append(Work(thought, head[-1].said, None, grow(head, digits + 1)))
        return tuple(works)

    return grow(links, 1)
