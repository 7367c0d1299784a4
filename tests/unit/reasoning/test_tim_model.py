"""TIM on the real model with its shipped adapter: free greedy runs give the gold text, token for
token."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.reasoning.pilot import Problem, of, peak
from workbench.events import BranchOpened, RequestOpened, StepEnded, TokensFed
from workbench.session import Run, Session, open_workbench
from workbench.words import Finish, Origin

pytestmark = pytest.mark.model

PAGE = 16


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_workbench(backend="cpu", page_size=PAGE) as opened:
        yield opened


def start(session: Session, problem: Problem, **params: Any) -> Run:
    return session.run(problem.prompt, "tim", tools=[problem.lookup], **params)


def written(run: Run, problem: Problem) -> list[int]:
    """The run's stream behind the prompt, which must be the one the adapter was trained on."""
    branch = next(iter(run.contexts[0].branches.values()))
    count = len(problem.prompt_ids)
    assert branch.tokens[:count] == problem.prompt_ids
    return list(branch.tokens[count:])


def reencoded(problem: Problem, run: Run) -> int:
    """By hand: behind each pruned list stand `]`, the key, the conclusion and `"}`, whose last has
    no K/V yet when the list leaves."""
    nodes = run.contexts[0].tree.nodes.values()
    return sum(node.last - node.span[1] - 1 for node in nodes if node.span and node.last)


def check(session: Session, problem: Problem, adapter: str = "tim-smollm2") -> None:
    before = {kind: len(list(session.trace.events(kind))) for kind in (RequestOpened, BranchOpened)}
    steps = len(list(session.trace.events(StepEnded)))
    run = start(session, problem, adapter=adapter)
    result = run.wait(3600)
    assert written(run, problem) == problem.gold_ids
    assert result.answer == problem.answer and result.finish is Finish.STOP
    assert result.summary["tokens"]["sampled"] == problem.sampled
    kv, prompt = result.summary["kv"], len(problem.prompt_ids)
    assert kv["reencoded_tokens"] == reencoded(problem, run)
    # the token that closes a list's owner has no K/V yet when the list leaves
    assert kv["peak_tokens"] == peak(problem, session.model.tokenizer) - 1
    assert kv["peak_pages"] <= -(-kv["peak_tokens"] // PAGE) + 1
    assert kv["pruned_tokens"] > 0
    assert result.summary["tree"]["nodes"] == problem.nodes + 1
    for kind, count in before.items():  # one request, one branch for the whole tree
        assert len(list(session.trace.events(kind))) == count + 1
    done = list(session.trace.events(StepEnded))[steps:]
    results = sum(b - a for a, b in problem.tool_result_spans)
    assert sum(s.prefill for s in done) <= prompt
    assert sum(s.extend for s in done) == results
    assert sum(s.reencode for s in done) == kv["reencoded_tokens"]
    assert sum(s.decode for s in done) == problem.sampled - 1  # the end token is never run


@pytest.mark.parametrize("adapter", ["tim-smollm2", "tim-pilot"])
def test_a_chain_of_eight(session: Session, adapter: str) -> None:
    check(session, of("chain", 8)[1], adapter)


def test_eight_steps_side_by_side(session: Session) -> None:
    """The other problems of eight steps in one batch: neighbours change nothing."""
    problems = [*of("chain", 8)[::2], *of("fetch", 8)]
    runs = [start(session, problem) for problem in problems]
    for run, problem in zip(runs, problems, strict=True):
        result = run.wait(3600)
        assert written(run, problem) == problem.gold_ids
        assert result.summary["tokens"]["sampled"] == problem.sampled
        assert result.summary["kv"]["reencoded_tokens"] == reencoded(problem, run)
    fed = [e for e in session.trace.events(TokensFed) if e.origin == Origin.TOOL]
    assert len(fed) >= 8 * len(problems)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "place"), [(f, i) for f in ("chain", "fetch") for i in (0, 1)])
def test_forty_steps(session: Session, family: str, place: int) -> None:
    check(session, of(family, 40)[place])


@pytest.mark.slow
def test_a_chain_of_160_outruns_the_models_window(session: Session) -> None:
    problem = of("chain", 160)[0]
    assert problem.sampled > 8192
    check(session, problem)
