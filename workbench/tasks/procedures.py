"""Procedures that stand in the prompt, line by line: one driver for many small tables of rules.

A prompt tells the rule, lists its lines under increasing three-digit labels, and gives the state
to begin with; the answer is the state behind the last line. States have a fixed size however many
lines there are, so that no conclusion grows. The tree is the trie of the labels (`trie`):

    137 swap a c 141: b a d c e   ->   141: b c d a e

A thought repeats its line, the label behind it and the state it starts from: reading the list on
is a copy, and nothing that will be pruned is needed again. `spare` lines before the first and
behind the word `end` make prompts as long as a test's for traces that are short.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workbench.tasks.gold import Problem
from workbench.tasks.trie import END, Link, labels, trie

State = tuple[str, ...]
Given = Mapping[str, str]
GAPS = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class Step:
    """A line as it stands in the prompt, the state behind it, and what is worked out between."""

    line: str
    after: State
    work: str = ""


@dataclass(frozen=True, slots=True)
class Procedure:
    """A rule in words, how a problem begins (what is given, the first state), and how a line is
    drawn that fits a state."""

    says: str
    begin: Callable[[random.Random], tuple[Given, State]]
    draw: Callable[[Given, State, random.Random], Step]


def nothing(state: State) -> tuple[Given, State]:
    """A beginning for which nothing is given beside the state."""
    return {}, state


def counted(count: str, by: int) -> str:
    """A count after `by` more, of which the last digit is kept."""
    return str((int(count) + by) % 10)


def follow(
    name: str,
    procedure: Procedure,
    level: int,
    rng: random.Random,
    gaps: Sequence[int] = GAPS,
    spare: int = 0,
    digits: int = 0,
) -> Problem:
    """A problem of `level` lines to follow, among `spare` lines that are not asked for, under
    labels of `digits` digits (0: three where they serve)."""
    given, state = procedure.begin(rng)
    start = " ".join(state)
    ahead = rng.randint(0, spare)
    places = labels(level + spare, rng, gaps, digits)
    asked = [*places[ahead : ahead + level], END]
    lines = _spare_lines(procedure, given, state, places[:ahead], rng)
    links: list[Link] = []
    for label, after in pairwise(asked):
        step = procedure.draw(given, state, rng)
        before, state = " ".join(state), step.after
        work = f"; {step.work}" if step.work else ""
        thought = f"{label} {step.line} {after}: {before}{work}"
        links.append(Link(label, before, f"{after}: {' '.join(state)}", None, thought))
        lines.append(f"{label} {step.line}")
    lines.append(END)
    lines += _spare_lines(procedure, given, state, places[ahead + level :], rng)
    told = "".join(f"\n{key}: {value}" for key, value in given.items())
    listed = "\n".join(lines)
    asks = f"Follow the lines from {asked[0]} to {END}. Start: {start}"
    prompt = f"{procedure.says}{told}\nLines:\n{listed}\n{asks}"
    return Problem(name, level, prompt, " ".join(state), "", "", {}, trie(links))


def _spare_lines(
    procedure: Procedure, given: Given, state: State, places: Sequence[str], rng: random.Random
) -> list[str]:
    lines: list[str] = []
    for place in places:
        step = procedure.draw(given, state, rng)
        state = step.after
        lines.append(f"{place} {step.line}")
    return lines
