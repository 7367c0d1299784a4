"""Every task by name: a level and a seed give one checkable problem, the same one every time."""

import difflib
import random
import re
from collections.abc import Callable

from workbench.tasks import chains, hanoi, inprompt, nested, scopes, tables
from workbench.tasks.gold import Problem
from workbench.tasks.splits import SPLITS, kept_back


def chain_sum(level: int, rng: random.Random) -> Problem:
    """Add `level` small numbers in a row; no tool."""
    numbers = [rng.randint(1, 9) for _ in range(max(2, level))]
    text = str(numbers[0])
    total = numbers[0]
    for number in numbers[1:]:
        sign = rng.choice("+-") if total > number else "+"
        total += number if sign == "+" else -number
        text += f" {sign} {number}"
    prompt = f"What is {text}? Work step by step, then write the result after 'Answer:'."
    return Problem("chain_sum", level, prompt, str(total), "", "", {}, ())


FAMILIES: dict[str, Callable[[int, random.Random], Problem]] = {
    **chains.FAMILIES,
    **tables.FAMILIES,
    **nested.FAMILIES,
    **scopes.FAMILIES,
    **hanoi.FAMILIES,
    **inprompt.FAMILIES,
    "chain_sum": chain_sum,
}


def task(name: str, level: int, seed: int) -> Problem:
    """Problem number `seed` of a family; where training has been at its level, one that is kept
    back from training. Raises ValueError with near names for an unknown one."""
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, 3) or sorted(FAMILIES)
        raise ValueError(f"task {name!r} is not known; did you mean {', '.join(near)}?")
    if level < 1:
        raise ValueError(f"task {name}: a level of at least 1 is wanted, {level} came")
    rng = random.Random(f"{name} {level} {seed}")
    problem = FAMILIES[name](level, rng)
    if name in SPLITS and level <= SPLITS[name].train[1]:
        while not kept_back(problem):
            problem = FAMILIES[name](level, rng)
    return problem


def demo_chain(links: int, seed: int) -> Problem:
    """The pointer chain of the demo: labels with wide gaps, so that its tree has many branches."""
    rng = random.Random(f"demo {links} {seed}")
    return chains.chain(links, rng, gaps=DEMO_GAPS)


DEMO_GAPS = (30,)


def right(problem: Problem, answer: str) -> bool:
    """Whether `answer` is the problem's, spaces and case aside; a number may stand in a
    sentence."""
    said, wanted = _plain(answer), _plain(problem.answer)
    if said == wanted:
        return True
    numbers = re.findall(r"-?\d+(?:\.\d+)?", said)
    return problem.tool == "" and bool(numbers) and numbers[-1] == wanted


def _plain(text: str) -> str:
    return " ".join(text.strip().strip(".").lower().split())
