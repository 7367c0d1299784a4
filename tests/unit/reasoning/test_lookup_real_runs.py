"""Drafts on the real model by the laptop engine: every fact is the same, logprobs to the bit."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.reasoning.pilot import of
from workbench.commands import Pause
from workbench.events import Event, StepEnded, TokenSampled, ToolCalled, ToolReturned
from workbench.model import load_model
from workbench.session import Run, Session
from workbench.session.session import load_shipped_adapters
from workbench.settings import Settings, resolve

pytestmark = pytest.mark.model

PROBLEM = of("chain", 8)[1]
LOOKUP = 7
Open = Callable[[int], Session]


@pytest.fixture(scope="module")
def opened() -> Open:
    """A fresh session over the one model."""
    model = load_model(backend="numba")
    load_shipped_adapters(model)
    return lambda lookup: Session(model, resolve(Settings(backend="numba", lookup=lookup)))


def start(session: Session, **params: Any) -> Run:
    tools = [PROBLEM.lookup]
    return session.run(PROBLEM.prompt, "tim", tools=tools, adapter="tim-pilot", seed=3, **params)


def facts(session: Session) -> list[Event]:
    """All that was told of branches, but for the steps and the clock."""
    found = []
    for event in session.trace.events():
        if not hasattr(event, "seq") or isinstance(event, ToolCalled | ToolReturned):
            continue
        known = {f.name for f in dataclasses.fields(event)}
        found.append(dataclasses.replace(event, **dict.fromkeys(known & {"step", "t"}, 0)))
    return found


@pytest.mark.parametrize(
    "params", [{}, {"mode": "rotate", "max_tokens": 250}, {"temperature": 0.7, "max_tokens": 250}]
)
def test_every_fact_is_the_same(opened: Open, params: dict[str, Any]) -> None:
    told, passes, kept = [], [], 0
    for lookup in (0, LOOKUP):
        with opened(lookup) as session:
            run = start(session, **params)
            tokens = run.wait(300).summary["tokens"]
            told.append(facts(session))
            passes.append(len(list(session.trace.events(StepEnded))))
            kept = tokens["kept"]
    assert passes[0] == passes[1] + kept and 2 * passes[1] < 1.2 * passes[0]
    assert told[0] == told[1]


def test_commands_in_the_middle(opened: Open) -> None:
    """A run that was stepped to a token, forked, and pruned there: both go on to their ends."""
    told = []
    for lookup in (0, LOOKUP):
        with opened(lookup) as session:
            session.submit(Pause()).result(30)
            run = start(session, threshold=None, max_tokens=280)
            run.step(221)
            deadline = time.monotonic() + 120
            while run.counts()["sampled"] < 221:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            branch = next(iter(run.contexts[0].branches.values()))
            length = len(branch.tokens)
            fork = run.fork(length - 20, rank=1)
            removed = run.prune("1")["removed"]
            run.resume()
            ends = fork.wait(300), run.wait(300).answer
            sampled = session.trace.events(TokenSampled)
            tokens = sorted((e.seq, e.index, e.token, e.logprob) for e in sampled)
            told.append((length, removed, ends, tokens))
    assert told[0] == told[1] and told[0][1] > 0
