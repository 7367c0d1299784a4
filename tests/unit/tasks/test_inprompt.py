"""In-prompt families: answers follow from the prompt alone, every step of the gold trace is right,
and no conclusion grows."""

import json
import random
import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import ByteTokenizer
from tests.unit.tasks.followed import RULES, answer
from workbench.engine.grammar import Vocabulary, allowed
from workbench.engine.tree_grammar import TreeGrammar
from workbench.tasks.gold import Problem, Work, flat_pieces, tree_pieces
from workbench.tasks.inprompt import FAMILIES, LONG_LIST, PROCEDURES, training
from workbench.tasks.procedures import follow
from workbench.train.views import encode_gold, pruned_view

NAMES = sorted(FAMILIES)


def leaves(problem: Problem) -> list[Work]:
    return [w for task in problem.reasoning for w in task.walk() if not w.subtasks]


def test_every_kind_has_a_rule_of_its_own() -> None:
    assert set(NAMES) == {*RULES, "merge"}
    assert sum(name.startswith("proc_") for name in NAMES) == 23


@pytest.mark.parametrize("name", NAMES)
def test_answers_follow_from_the_prompt_alone(name: str) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        for problem in (FAMILIES[name](30, rng), training(name, rng.randint(2, 12), rng)):
            assert answer(name, problem.prompt) == problem.answer


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(PROCEDURES)),
    level=st.integers(1, 60),
    spare=st.integers(0, 60),
    digits=st.sampled_from([0, 3, 4]),
    seed=st.integers(0, 10**6),
)
def test_spare_lines_change_nothing(
    name: str, level: int, spare: int, digits: int, seed: int
) -> None:
    rng = random.Random(seed)
    problem = follow(name, PROCEDURES[name], level, rng, spare=spare, digits=digits)
    assert answer(name, problem.prompt) == problem.answer
    listed = re.findall(r"^(\d+) ", problem.prompt.partition("Lines:\n")[2], re.MULTILINE)
    assert len(listed) == level + spare and listed == sorted(set(listed))
    said = [step.conclusion.partition(":")[0] for step in leaves(problem)]
    at = listed.index(leaves(problem)[0].thought.split()[0])
    assert said == [*listed[at + 1 : at + level], "end"]


@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_says_what_its_line_does(name: str) -> None:
    """A prompt cut behind a leaf's line has that leaf's state for an answer."""
    problem = training(name, 9, random.Random(7))
    steps = leaves(problem)
    assert len(steps) == problem.level or len(steps) == 7  # a short trace in a long list
    for step in steps[:-1]:
        label, _, state = step.conclusion.partition(": ")
        if name == "merge":
            rest = problem.prompt.partition(" Start: ")[0]
            head = min(map(int, state.split()))
            cut = re.sub(r"at place \d+", f"at place {label}", rest)
            first = re.search(r"Start: (\d+: \d+ \d+)$", problem.prompt)
            assert first and answer(name, f"{cut} Start: {first[1]}") == str(head)
            continue
        cut = problem.prompt.replace(f"\n{label} ", f"\nend\n{label} ", 1)
        assert answer(name, cut) == state
    assert steps[-1].conclusion == f"end: {problem.answer}"


@pytest.mark.parametrize("name", NAMES)
def test_a_thought_repeats_all_that_it_needs(name: str) -> None:
    """Each leaf begins where the one before ended; inner tasks begin and end as their leaves."""
    problem = FAMILIES[name](25, random.Random(3))
    steps = leaves(problem)
    for before, step in pairwise(steps):
        label, _, state = before.conclusion.partition(": ")
        assert re.match(rf"{label}( .*)?: {re.escape(state)}(;|$)", step.thought), step
    for task in problem.reasoning:
        for work in task.walk():
            assert not work.subtasks or work.conclusion == work.subtasks[-1].conclusion
            assert len(work.subtasks) <= 10
            if work.subtasks:
                assert work.thought.split(": ")[-1] in work.subtasks[0].thought


@pytest.mark.parametrize("name", NAMES)
def test_conclusions_and_memory_stay_small(name: str) -> None:
    """Sixteen times the lines, the same conclusions; behind the prompt, memory hardly grows."""
    peaks = {}
    for level in (20, 320):
        problem = FAMILIES[name](level, random.Random(1))
        longest = max(len(w.conclusion.split()) for t in problem.reasoning for w in t.walk())
        assert longest <= 1 + 8
        gold = encode_gold(tree_pieces(problem), _words, 0)
        peaks[level] = int(pruned_view([0], gold, 0).positions.max())
    assert peaks[320] < 4 * peaks[20]


def _words(text: str) -> list[int]:
    return [len(word) for word in re.findall(r"\w+|[^\w\s]", text)] or [0]


@cache
def _grammar() -> tuple[TreeGrammar, Vocabulary]:
    t = ByteTokenizer()
    v = Vocabulary([t.bytes_of(i) for i in range(257)], frozenset({t.end}), t.encode)
    return TreeGrammar(v), v


@pytest.mark.parametrize("name", NAMES)
def test_gold_is_a_tree_that_the_grammar_allows(name: str) -> None:
    grammar, v = _grammar()
    problem = training(name, 4, random.Random(5))
    text = "".join(piece.text for piece in tree_pieces(problem))
    assert json.loads(text)["answer"] == problem.answer
    matcher = grammar.matcher()
    row = np.zeros(v.words, dtype=np.int32)
    for token in v.encode(text + "<end>"):
        matcher.fill(row)
        assert allowed(row, token)
        matcher.consume(token)
    assert matcher.finished


@pytest.mark.parametrize("name", NAMES)
def test_flat_text_has_each_step_once(name: str) -> None:
    problem = FAMILIES[name](25, random.Random(2))
    text = "".join(piece.text for piece in flat_pieces(problem))
    lines = text.split("\n")
    assert lines[-1] == f"answer: {problem.answer}"
    wanted = [line for step in leaves(problem) for line in (step.thought, step.conclusion)]
    assert lines[:-1] == wanted


@pytest.mark.parametrize("name", sorted(RULES))
def test_an_early_line_is_not_forgotten(name: str) -> None:
    """Without its first line, a list of 40 has another answer."""
    changed = 0
    for seed in range(40):
        problem = FAMILIES[name](40, random.Random(seed))
        told, first, second, rest = re.fullmatch(  # type: ignore[union-attr]
            r"(.*Lines:\n)(\d+)[^\n]*\n(\d+)(.*)", problem.prompt, re.DOTALL
        ).groups()
        rest = rest.replace(f"from {first} to", f"from {second} to")
        try:
            changed += answer(name, f"{told}{second}{rest}") != problem.answer
        except (ValueError, IndexError):  # the lines no longer fit the state
            changed += 1
    assert changed >= 4


def test_what_labels_cannot_serve_is_refused() -> None:
    assert FAMILIES["robot"](1000, random.Random(0)).depth == 4
    with pytest.raises(ValueError, match="at most 890"):
        FAMILIES["merge"](1000, random.Random(0))


def test_training_lists_are_short_and_long() -> None:
    sizes = [training("tally", 12, random.Random(i)).prompt.count("\n") - 4 for i in range(200)]
    assert sizes.count(12) > 90 and max(sizes) > 70 and max(sizes) <= LONG_LIST
    prompts = [training("tally", 5, random.Random(i)).prompt for i in range(60)]
    assert {len(re.findall(r"\d+", prompt)[0]) for prompt in prompts} == {2, 3, 4}


@pytest.mark.parametrize("name", ["long_addition", "long_multiplication", "long_product"])
def test_the_digits_in_the_thoughts_are_the_whole_result(name: str) -> None:
    problem = FAMILIES[name](40, random.Random(4))
    steps = [re.match(r"\d+ ([\d ]+) \w+: (.*)$", w.thought) for w in leaves(problem)]
    columns = [step[1].split() for step in steps if step]
    rows = [int("".join(row)[::-1]) for row in zip(*columns, strict=True)]  # units come first
    given = dict(re.findall(r"^(by|tens|units): (\d)$", problem.prompt, re.M))
    by = int(given.get("by") or given.get("tens", "") + given.get("units", "") or 1)
    digits = [step[2].split()[-1] for step in steps if step]
    carry = problem.answer.split()[0]
    if name == "long_product":  # the last digit times the tens is still to come
        carry = str(int(carry) + rows[0] // 10**39 * int(given["tens"]))
    assert int(carry) * 10**40 + int("".join(digits)[::-1]) == sum(rows) * by


def test_the_digits_in_the_thoughts_are_the_whole_quotient() -> None:
    problem = FAMILIES["long_division"](40, random.Random(4))
    number = int("".join(re.findall(r"^\d+ (\d)$", problem.prompt, re.M)))
    digits = [w.thought.split(" digit ")[1].split()[0] for w in leaves(problem)]
    by = int(re.findall(r"^by: (\d)$", problem.prompt, re.M)[0])
    assert divmod(number, by) == (int("".join(digits)), int(problem.answer.split()[0]))
