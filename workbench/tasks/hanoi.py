"""The tower of Hanoi, each move weighed by a tool: where in the recursion one stands is known
only to the tasks above."""

import random
from collections.abc import Callable

from workbench.tasks.gold import Call, Problem, Work

PEGS = "ABC"


def hanoi(level: int, rng: random.Random, lowest: int | None = None) -> Problem:
    """Move `level` disks, 2^level - 1 moves, and add what each move weighs, modulo 10.

    The disks are numbered upward from `lowest`, so that the names of a tall tower's disks are seen
    in short ones too.
    """
    if lowest is None:
        lowest = rng.randint(1, max(1, 10 - level))
    top = lowest + level - 1
    source, target = rng.sample(PEGS, 2)
    results: dict[str, dict[str, str]] = {}
    for disk in range(lowest, top + 1):
        for a in PEGS:
            for b in PEGS.replace(a, ""):
                results[f"{disk} {a} {b}"] = {"weighs": str(rng.randrange(10))}

    def move(disk: int, a: str, b: str, total: int) -> tuple[int, Work]:
        name = f"{disk} {a} {b}"
        after = (total + int(results[name]["weighs"])) % 10
        return after, Work(
            f"{name}: {total}", str(after), Call("move", "disk", name, results[name])
        )

    def tower(disk: int, a: str, b: str, total: int) -> tuple[int, Work]:
        if disk == lowest:
            return move(disk, a, b, total)
        (spare,) = set(PEGS) - {a, b}
        first, over = tower(disk - 1, a, spare, total)
        second, under = move(disk, a, b, first)
        end, back = tower(disk - 1, spare, b, second)
        thought = f"{disk} to {lowest} {a} {b}: {total}"
        return end, Work(thought, str(end), None, (over, under, back), told=True)

    start = rng.randrange(10)
    end, work = tower(top, source, target, start)
    prompt = (
        f"Move the disks {top} to {lowest} from {source} to {target} with the tool move and add"
        f" what the moves weigh. Start: {start}"
    )
    return Problem("hanoi", level, prompt, str(end), "move", "disk", results, (work,))


FAMILIES: dict[str, Callable[[int, random.Random], Problem]] = {"hanoi": hanoi}
