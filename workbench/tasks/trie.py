"""Steps under labels of three digits (or two, or four), grouped as the trie of the labels:
hundreds, tens, steps.

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
    inner: tuple[Work, ...] = ()  # subtasks of the step itself


def labels(count: int, rng: random.Random, gaps: Sequence[int], digits: int = 0) -> list[str]:
    """`count` increasing labels with gaps of one of the scales, of `digits` digits (0: three
    where they serve, else as many as do)."""
    digits = digits or max(3, len(str(count + 10)))
    first, room = 10 ** (digits - 1), 9 * 10 ** (digits - 1) - 10
    if count > room:
        raise ValueError(
            f"labels of {digits} digits serve {room} steps, {count} came; give more digits"
        )
    scale = rng.choice([g for g in gaps if g * count < room - 40] or [1])
    steps = [rng.randint(1, scale) for _ in range(count - 1)]
    while sum(steps) > room:
        steps = [max(1, step // 2) for step in steps]
    found = [rng.randint(first, 10 * first - 1 - sum(steps))]
    for step in steps:
        found.append(found[-1] + step)
    return [str(label) for label in found]


def trie(links: Sequence[Link]) -> tuple[Work, ...]:
    """The tree of the steps; an inner task begins at its first step's state and says what its
    last step says."""

    def grow(part: Sequence[Link], digits: int) -> tuple[Work, ...]:
        if digits == len(part[0].label):
            return tuple(
                Work(x.thought or f"{x.label}: {x.before}", x.said, x.call, x.inner) for x in part
            )
        works: list[Work] = []
        while part:
            prefix = part[0].label[:digits]
            size = sum(1 for link in part if link.label[:digits] == prefix)
            head, part = part[:size], part[size:]
            thought = f"{prefix}x from {head[0].label}: {head[0].before}"
            works.append(Work(thought, head[-1].said, None, grow(head, digits + 1)))
        return tuple(works)

    return grow(links, 1)
