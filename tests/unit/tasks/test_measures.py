"""Steps followed, counted on texts made wrong at a known place."""

import pytest

from workbench.tasks import task
from workbench.tasks.gold import flat_pieces, tree_pieces
from workbench.tasks.measures import followed


def texts(name: str) -> list[str]:
    problem = task(name, 9, 1)
    return ["".join(p.text for p in made(problem)) for made in (tree_pieces, flat_pieces)]


@pytest.mark.parametrize("name", ["robot", "merge", "chain"])
def test_gold_is_followed_in_whole(name: str) -> None:
    for text in texts(name):
        found = followed(task(name, 9, 1), text)
        assert found.whole and found.final and found.prefix_accuracy == 1
        assert found.matched == 10  # nine steps and the answer


def test_a_wrong_step_ends_the_prefix() -> None:
    problem = task("robot", 9, 1)
    steps = [w for t in problem.reasoning for w in t.walk() if not w.subtasks]
    for text in texts("robot"):
        wrong = text.replace(f"{steps[4].conclusion}", f"{steps[4].conclusion}9", 1)
        found = followed(problem, wrong)
        assert (found.matched, found.said, found.final) == (4, 10, True)
        assert found.prefix_accuracy == 0.4 and not found.whole


def test_broken_and_overlong_output() -> None:
    problem = task("robot", 9, 1)
    tree, flat = texts("robot")
    half = followed(problem, tree[: len(tree) // 2])
    assert 0 < half.matched == half.said < 9 and not half.final
    assert half.prefix_accuracy == half.matched / 10
    lines = flat.split("\n")
    longer = "\n".join([*lines[:-1], "999 east 1: 0 0", "end: 1 0", lines[-1]])
    assert followed(problem, longer).prefix_accuracy == 9 / 11
    assert followed(problem, "").prefix_accuracy == 0
