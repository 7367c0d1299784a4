"""A packed view shows each sampled position exactly the surviving text, and nothing else."""

import json
import random

import numpy as np
import pytest

from workbench.tasks import hanoi, scopes, tables
from workbench.tasks.chains import FAMILIES as CHAINS
from workbench.tasks.gold import Problem, Work, flat_pieces, tree_pieces
from workbench.tasks.nested import FAMILIES as NESTED
from workbench.tasks.recovery import with_faults
from workbench.train.views import NO_TARGET, encode_gold, pruned_view

INTERPRETED = {**CHAINS, **NESTED}
FAMILIES = {**INTERPRETED, **tables.FAMILIES, **scopes.FAMILIES, **hanoi.FAMILIES}
PROMPT = [1000, 1001, 1002]
END = 999


def characters(text: str) -> list[int]:
    return [ord(c) for c in text]


def make(family: str, level: int, seed: int) -> Problem:
    return FAMILIES[family](min(level, 3) if family == "hanoi" else level, random.Random(seed))


def closed_lists(text: str) -> list[tuple[int, int, int]]:
    """Every subtask list's contents and its owner's closing brace, by walking the JSON text."""
    found, open_braces, owned = [], [], {}
    inside = False
    for i, c in enumerate(text):
        if c == '"':
            inside = not inside
        elif not inside and c == "[":
            open_braces.append(("[", i))
        elif not inside and c == "{":
            open_braces.append(("{", i))
        elif not inside and c == "]":
            _, start = open_braces.pop()
            if open_braces and len(open_braces) > 1:  # not the root's reasoning list
                owned[open_braces[-1][1]] = (start + 1, i)
        elif not inside and c == "}":
            _, start = open_braces.pop()
            if start in owned:
                found.append((*owned[start], i))
    return found


def surviving(text: str, upto: int, threshold: int) -> str:
    """The text that is left in memory once character `upto` has been written."""
    closed = [span for span in closed_lists(text) if span[2] <= upto]
    gone = closed[: max(0, len(closed) - threshold)]
    return "".join(
        c
        for i, c in enumerate(text[: upto + 1])
        if not any(start <= i < stop for start, stop, _ in gone)
    )


@pytest.mark.parametrize("threshold", [0, 1, 2])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_sampled_position_sees_the_surviving_text(family: str, threshold: int) -> None:
    problem = with_faults(make(family, 7, seed=3), random.Random(2), 0.2)
    text = "".join(piece.text for piece in tree_pieces(problem))
    gold = encode_gold(tree_pieces(problem), characters, END)
    view = pruned_view(PROMPT, gold, threshold)
    wanted = [i for i, fed in enumerate([*gold.fed[1:]]) if not fed]  # stream places with a target
    sampled = np.flatnonzero(view.targets != NO_TARGET)
    assert len(sampled) == len(wanted) + 1  # the last prompt token as well
    for query, at in zip(sampled[1:], wanted, strict=True):
        keys = [k for k in range(query + 1) if query < view.dead[k]]
        seen = "".join(chr(view.ids[k]) for k in keys[len(PROMPT) :])
        assert seen == surviving(text, at, threshold)
        assert list(view.positions[keys]) == list(range(len(keys)))
        assert view.targets[query] == gold.ids[at + 1]


def test_without_a_threshold_nothing_is_written_twice() -> None:
    gold = encode_gold(tree_pieces(make("blocks", 9, 1)), characters, END)
    assert list(pruned_view(PROMPT, gold, None).ids) == [*PROMPT, *gold.ids]


def test_a_gap_moves_everything_behind_the_prompt() -> None:
    gold = encode_gold(tree_pieces(make("maze", 9, 1)), characters, END)
    plain, moved = pruned_view(PROMPT, gold, 0), pruned_view(PROMPT, gold, 0, gap=50)
    behind = plain.positions >= len(PROMPT)
    assert list(moved.positions - plain.positions) == list(np.where(behind, 50, 0))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_tree_and_flat_text_hold_the_same_work(family: str) -> None:
    problem = make(family, 20, seed=5)
    tree = json.loads("".join(piece.text for piece in tree_pieces(problem)))
    assert tree["answer"] == problem.answer

    def back(node: dict) -> Work:
        use = node.get("tooluse")
        call = None
        if use:
            ((parameter, argument),) = use["parameters"].items()
            assert problem.results[argument] == use["tool_result"]
            call = (use["tool_name"], parameter, argument)
        assert call is None or call == (problem.tool, problem.parameter, call[2])
        return Work(
            node["thought"], node["conclusion"], None, tuple(map(back, node.get("subtasks", [])))
        )

    nodes = [back(task) for task in tree["reasoning"]]
    flat = "".join(piece.text for piece in flat_pieces(problem))
    for task in nodes:
        for work in task.walk():
            assert f"{work.conclusion}\n" in flat


@pytest.mark.parametrize("family", sorted(INTERPRETED))
def test_answers_follow_from_the_results_alone(family: str) -> None:
    """An interpreter of its own, that knows the tool's table and the prompt only."""
    for seed in range(20):
        problem = make(family, 25, seed)
        assert interpret(problem) == problem.answer


def interpret(problem: Problem) -> str:
    table, words = problem.results, problem.prompt.rstrip(".").split()
    if problem.family == "expression":
        return str(evaluate(table, words[-1]))
    if problem.family == "maze":
        return next(end for end in explore(table, words[-1]) if end != "dead")
    start, state = words[words.index("from") + 1].rstrip("."), problem.prompt.split("Start: ")[1]
    if problem.family == "chain":
        key = state
        while table[key]["mile"] != "end":
            key = table[key]["next"]
        return table[key]["next"]
    if problem.family == "fetch":
        return edit_all(table, start, state.split())
    return str(run(table, start, int(state)))


def digit(op: str, a: int, b: int) -> int:
    return {"add": (a + b) % 10, "sub": (a - b) % 10, "max": max(a, b), "min": min(a, b)}[op]


def evaluate(table: dict, label: str) -> int:
    entry = table[label]
    if "value" in entry:
        return int(entry["value"])
    return digit(entry["op"], evaluate(table, entry["left"]), evaluate(table, entry["right"]))


def explore(table: dict, label: str):
    if "end" in table[label]:
        yield table[label]["end"]
        return
    for door in table[label]["doors"].split():
        yield from explore(table, door)


def edit_all(table: dict, label: str, state: list[str]) -> str:
    while label != "end":
        op, *names = table[label]["op"].split()
        if op == "left":
            state = state[1:] + state[:1]
        elif op == "right":
            state = state[-1:] + state[:-1]
        elif op == "flip":
            state = state[::-1]
        elif op == "swap":
            i, j = state.index(names[0]), state.index(names[1])
            state[i], state[j] = state[j], state[i]
        else:
            state[state.index(names[0])] = names[1]
        label = table[label]["next"]
    return " ".join(state)


def run(table: dict, label: str, value: int) -> int:
    """A stack machine for blocks and loops."""
    stack: list = []
    while label != "end":
        op, *rest = table[label]["op"].split()
        after = table[label]["next"]
        if op == "open":
            stack.append((rest[0], value))
            value = int(rest[1])
        elif op == "close":
            outer_op, outer = stack.pop()
            value = digit(outer_op, outer, value)
        elif op == "loop":
            stack.append((after, int(rest[0]) - 1))
        elif op == "back":
            first, left = stack.pop()
            if left:
                stack.append((first, left - 1))
                after = first
        else:
            value = digit(op, value, int(rest[0]))
        label = after
    return value
