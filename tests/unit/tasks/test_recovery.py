"""Traces with failed calls: a slip is not learned, what follows is, and the work is the same."""

import asyncio
import json
import random

import pytest

from tests.fakes import ByteTokenizer
from workbench.engine.grammar import Vocabulary
from workbench.engine.tree_grammar import ToolShape, TreeGrammar, TreeShape
from workbench.tasks import task
from workbench.tasks.gold import Problem, Work, flat_pieces, tree_pieces
from workbench.tasks.recovery import AGAIN, TRANSIENT, with_faults
from workbench.tasks.splits import SPLITS
from workbench.tools import Lookup, invoke

NAMES = sorted(name for name, split in SPLITS.items() if split.kind != "in-prompt")


def faulty(name: str, share: float = 0.4) -> tuple[Problem, Problem]:
    plain = task(name, 3 if name == "hanoi" else 9, 1)
    return plain, with_faults(plain, random.Random(7), share)


def without_attempts(works: tuple[Work, ...]) -> tuple[Work, ...]:
    return tuple(
        Work(w.thought, w.conclusion, w.call, without_attempts(w.subtasks), w.told)
        for w in works
        if w.conclusion != AGAIN
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_work_is_the_same_without_the_failed_attempts(name: str) -> None:
    plain, broken = faulty(name)
    assert broken.steps > plain.steps
    assert without_attempts(broken.reasoning) == plain.reasoning


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_what_the_runtime_would_put_in(name: str) -> None:
    _, broken = faulty(name)
    tool = Lookup(broken.results, name=broken.tool, parameter=broken.parameter)
    failed = [w for top in broken.reasoning for w in top.walk() if w.conclusion == AGAIN]
    assert {w.call.slip for w in failed if w.call} == {True, False}
    for work in failed:
        call = work.call
        assert call
        if call.slip:
            outcome = asyncio.run(invoke(tool, {call.parameter: call.argument}))
            assert not outcome.ok and json.loads(outcome.text) == call.result
        else:
            assert call.result["error"].removeprefix(f"{call.tool}: ") in TRANSIENT


@pytest.mark.parametrize("name", NAMES)
def test_only_slips_and_results_are_masked(name: str) -> None:
    _, broken = faulty(name)
    slips = [
        w.call.argument for top in broken.reasoning for w in top.walk() if w.call and w.call.slip
    ]
    for pieces, closing in ((tree_pieces, '"}'), (flat_pieces, ")=>")):
        masked = [piece.text for piece in pieces(broken) if piece.fed]
        results = [text for text in masked if text.startswith("{")]
        assert len(results) == broken.steps
        assert [t for t in masked if not t.startswith("{") and t != closing] == slips
        assert masked.count(closing) == len(slips)


@pytest.mark.parametrize("name", NAMES)
def test_gold_with_failed_calls_is_a_tree_that_the_grammar_allows(name: str) -> None:
    _, broken = faulty(name, 0.2)
    shape = ToolShape(broken.tool, Lookup({}, parameter=broken.parameter).parameters)
    bytes_ = ByteTokenizer()
    v = Vocabulary([bytes_.bytes_of(i) for i in range(257)], frozenset({bytes_.end}), bytes_.encode)
    matcher = TreeGrammar(v, TreeShape((shape,), max_depth=24)).matcher()
    text = "".join(piece.text for piece in tree_pieces(broken))
    for token in v.encode(text + "<end>"):
        matcher.consume(token)
    assert matcher.finished and json.loads(text)["answer"] == broken.answer
