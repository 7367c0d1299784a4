"""Tasks: the same problem every time, solvable with its own table, checked fairly."""

import re

import pytest

from workbench.tasks import demo_chain, right, task
from workbench.tasks.catalogue import FAMILIES


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_seed_gives_one_problem(name: str) -> None:
    one, two, other = task(name, 9, 1), task(name, 9, 1), task(name, 9, 2)
    assert one == two and one != other
    assert right(one, f" {one.answer} ") and not right(one, one.answer + "7")


@pytest.mark.parametrize("level", [1, 8, 40])
def test_a_chain_is_followed_by_its_table(level: int) -> None:
    problem = task("chain", level, 3)
    found = re.fullmatch(
        r"Follow the links with the tool lookup, from (\d{3})\. Start: (\d{4})", problem.prompt
    )
    assert found
    label, key = found.groups()
    for _ in range(level):
        reply = problem.results[key]
        assert reply["mile"] == "end" or int(reply["mile"]) > int(label)
        label, key = reply["mile"], reply["next"]
    assert label == "end" and key == problem.answer


def test_chain_sums() -> None:
    problem = task("chain_sum", 6, 0)
    expression = problem.prompt.removeprefix("What is ").split("?")[0]
    total = 0
    for sign, number in re.findall(r"([+-]?) ?(\d+)", expression):
        total += -int(number) if sign == "-" else int(number)
    assert str(total) == problem.answer
    assert right(problem, f"The sum is {total}.") and not right(problem, f"{total} or {total + 1}")


def test_the_demo_has_several_branches() -> None:
    problem = demo_chain(20, 0)
    assert problem.steps == 20 and len(problem.reasoning) > 2


def test_unknown_tasks() -> None:
    with pytest.raises(ValueError, match="did you mean chain"):
        task("chian", 3, 0)
    with pytest.raises(ValueError, match="level of at least 1"):
        task("chain", 0, 0)
