"""Interpreters of their own for the tables and scopes: they know the tool's table and the prompt
only."""

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from workbench.tasks import task
from workbench.tasks.gold import Problem, Work, flat_pieces
from workbench.tasks.hanoi import hanoi
from workbench.tasks.splits import SPLITS


def digit(op: str, a: int, b: int) -> int:
    return {"add": (a + b) % 10, "sub": (a - b) % 10, "max": max(a, b), "min": min(a, b)}[op]


def begin(problem: Problem) -> tuple[str, str]:
    found = re.search(r"from (\d+)\..*Start: (\d+)$", problem.prompt)
    assert found
    return found[1], found[2]


def join(problem: Problem) -> str:
    label, start = begin(problem)
    total = int(start)
    while label != "end":
        order = problem.results[label]
        total += int(problem.results[order["buyer"]]["points"])
        label = order["next"]
    return str(total % 10)


def hops(problem: Problem) -> str:
    label, person = begin(problem)
    while label != "end":
        hop = problem.results[label]
        person, label = problem.results[person][hop["ask"]], hop["next"]
    return person


def calls(problem: Problem) -> str:
    label, start = begin(problem)

    def procedure(label: str, value: int) -> int:
        while (row := problem.results[label])["op"] != "ret":
            op, *rest = row["op"].split()
            if op == "call":
                value = digit(rest[0], value, procedure(row["at"], int(rest[1])))
            else:
                value = digit(op, value, int(rest[0]))
            label = row["next"]
        return value

    return str(procedure(label, int(start)))


def limits(problem: Problem) -> str:
    label, start = begin(problem)
    count, held = int(start), [int(problem.prompt.split("Limit: ")[1].split(".")[0])]
    while label != "end":
        row = problem.results[label]
        if "limit" in row:
            held.append(int(row["limit"]))
        elif "value" in row:
            count += int(row["value"]) > held[-1]
        else:
            held.pop()
        label = row["next"]
    return str(count % 10)


def towers(problem: Problem) -> str:
    """Moves by the iterative rule: the smallest disk every other turn, in one direction; the other
    move is the only legal one."""
    found = re.search(r"disks (\d+) to (\d+) from (\w) to (\w).*Start: (\d)", problem.prompt)
    assert found
    top, low, source, target = int(found[1]), int(found[2]), found[3], found[4]
    (spare,) = set("ABC") - {source, target}
    order = [source, target, spare] if (top - low) % 2 == 0 else [source, spare, target]
    pegs: dict[str, list[int]] = {source: list(range(top, low - 1, -1)), target: [], spare: []}
    total, turn, small = int(found[5]), 0, 0
    while len(pegs[target]) != top - low + 1:
        if turn % 2 == 0:
            a, b = order[small % 3], order[(small + 1) % 3]
            small += 1
        else:
            a, b = (p for p in order if p != order[small % 3])
            if not pegs[a] or (pegs[b] and pegs[b][-1] < pegs[a][-1]):
                a, b = b, a
        disk = pegs[a].pop()
        assert not pegs[b] or pegs[b][-1] > disk
        pegs[b].append(disk)
        total += int(problem.results[f"{disk} {a} {b}"]["weighs"])
        turn += 1
    assert turn == problem.steps
    return str(total % 10)


ORACLES: dict[str, Callable[[Problem], str]] = {
    "join": join,
    "hops": hops,
    "calls": calls,
    "limits": limits,
    "hanoi": towers,
}
LEVELS = {"hanoi": (1, 3, 6), "join": (1, 9, 1000), "hops": (1, 9, 1000)}


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_answers_follow_from_the_table_alone(name: str) -> None:
    for level in LEVELS.get(name, (1, 9, 120)):
        for seed in range(8):
            problem = task(name, level, seed)
            assert ORACLES[name](problem) == problem.answer, (level, seed)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_every_call_of_the_gold_trace_is_needed(name: str) -> None:
    """Without any one of its rows the answer cannot be told: so no call tells it alone."""
    problem = task(name, 3 if name == "hanoi" else 8, 0)
    calls_made = [w.call for top in problem.reasoning for w in top.walk() if w.call]
    asked = {call.argument for call in calls_made}
    assert len(asked) > 2
    for argument in asked:
        left = {key: row for key, row in problem.results.items() if key != argument}
        with pytest.raises(KeyError):
            ORACLES[name](replace(problem, results=left))


@pytest.mark.parametrize("name", [n for n, s in SPLITS.items() if s.kind != "in-prompt"])
def test_memory_stays_small_however_long_the_run(name: str) -> None:
    """Siblings of the open tasks are what is left after pruning: their number does not grow with
    the length, their conclusions have one size."""
    level = 8 if name == "hanoi" else 301

    def widest(works: tuple[Work, ...]) -> int:
        return max(len(works), *(widest(w.subtasks) for w in works)) if works else 0

    problem = task(name, level, 0)
    assert problem.steps >= (255 if name == "hanoi" else 80)
    assert widest(problem.reasoning) <= 10
    said = [len(w.conclusion) for top in problem.reasoning for w in top.walk()]
    assert max(said) <= 20


def test_a_tower_told_in_flat_lines_says_where_it_stands() -> None:
    problem = hanoi(3, random.Random(0), lowest=4)
    lines = "".join(piece.text for piece in flat_pieces(problem)).splitlines()
    assert sum(" to 4 " in line for line in lines) == 3
