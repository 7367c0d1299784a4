"""Traces in which a call goes wrong and is made again.

A failed attempt is a task of its own before the one that succeeds: the same thought, the error
that the runtime puts in, and the conclusion `again`. Two kinds: the tool fails though the call was
right, or the argument is malformed. A malformed argument is never learned (`Call.slip`); what
follows it is.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from workbench.tasks.gold import Call, Problem, Work

AGAIN = "again"
TRANSIENT = (
    "busy, try again",
    "no answer within 10 s",
    "the connection was lost",
    "there was an error inside",
)


def with_faults(problem: Problem, rng: random.Random, share: float) -> Problem:
    """The same problem, each call preceded by a failed one with probability `share`."""

    def mend(works: tuple[Work, ...]) -> Iterator[Work]:
        for work in works:
            while work.call and rng.random() < share:
                yield Work(work.thought, AGAIN, _failed(work.call, problem, rng))
            yield replace(work, subtasks=tuple(mend(work.subtasks)))

    return replace(problem, reasoning=tuple(mend(problem.reasoning)))


def _failed(call: Call, problem: Problem, rng: random.Random) -> Call:
    argument = call.argument if rng.random() < 0.5 else _malformed(call.argument, rng)
    if argument in problem.results:
        why = rng.choice(TRANSIENT)
        return replace(call, result={"error": f"{call.tool}: {why}"})
    why = f"there is nothing under {argument!r}"
    return Call(call.tool, call.parameter, argument, {"error": f"{call.tool}: {why}"}, slip=True)


def _malformed(argument: str, rng: random.Random) -> str:
    at = rng.randrange(len(argument))
    match rng.choice(("lost", "doubled", "another")):
        case "lost":
            return argument[:at] + argument[at + 1 :]
        case "doubled":
            return argument[:at] + argument[at] + argument[at:]
        case _:
            return argument[:at] + rng.choice("0123456789") + argument[at + 1 :]
