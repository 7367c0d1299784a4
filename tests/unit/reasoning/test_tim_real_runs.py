"""TIM on the real model by the engine that this machine gives it: every threshold writes the gold
text, a claimed peak is one, and a person's commands do what they say."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.model.nets import Paged
from tests.unit.reasoning.pilot import of
from workbench.commands import Pause
from workbench.engine.sequence import Branch
from workbench.events import BranchPreempted, PageAllocated, Pruned, RequestOpened
from workbench.forward import Override
from workbench.session import Run, RunFailed, Session, open_workbench
from workbench.words import Finish, PruneMode

pytestmark = pytest.mark.model

PAGE = 16
PILOT = "tim-pilot"  # the adapter that the problems of this file were made for
PROBLEM = of("chain", 8)[1]
PROMPT = len(PROBLEM.prompt_ids)
THRESHOLDS = (None, 0, 1, 2)
OTHERS: tuple[dict[str, Any], ...] = (
    {"mode": "rotate"},
    {"trigger": "list_closed", "max_tokens": 1500},
    {"grammar": False, "threshold": None},
)


def start(session: Session, **params: Any) -> Run:
    params = {"adapter": PILOT, **params}
    return session.run(PROBLEM.prompt, "tim", tools=[PROBLEM.lookup], **params)


def head(run: Run) -> Branch:
    """Its first branch."""
    return next(iter(run.contexts[0].branches.values()))


def written(branch: Branch) -> list[int]:
    return list(branch.tokens[PROMPT:])


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_workbench(page_size=PAGE) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(session: Session) -> list[Run]:
    """One after another, for a run's peak is its pool's; the last two side by side."""
    asked = [*({"threshold": threshold} for threshold in THRESHOLDS), *OTHERS]
    begun = []
    for params in asked[:-2]:
        begun.append(start(session, **params))
        begun[-1].wait(300)
    begun += [start(session, **params) for params in asked[-2:]]
    for run in begun:
        run.wait(300)
    return begun


def test_every_threshold_writes_the_gold_text(runs: list[Run]) -> None:
    sampled, peaks = set(), []
    for run in runs[: len(THRESHOLDS)]:
        result = run.wait()
        assert (result.finish, result.answer) == (Finish.STOP, PROBLEM.answer)
        assert written(head(run)) == PROBLEM.gold_ids
        sampled.add(result.summary["tokens"]["sampled"])
        peaks.append(result.summary["kv"]["peak_tokens"])
    assert sampled == {PROBLEM.sampled}
    whole, *pruned = peaks
    assert whole == PROMPT + len(PROBLEM.gold_ids) - 1  # the end token is never run
    assert pruned == sorted(pruned) and pruned[-1] < whole  # what is kept longer costs more


def test_unpruned_is_what_one_prefill_of_the_text_says(session: Session, runs: list[Run]) -> None:
    """Every token that the model wrote is the likeliest after all before it, in one causal pass
    without engine, grammar or tree."""
    assert written(head(runs[-1])) == PROBLEM.gold_ids, "without its grammar"
    ids = [*PROBLEM.prompt_ids, *PROBLEM.gold_ids]
    paged = Paged(session.model, PAGE, pages=-(-len(ids) // PAGE))
    row = paged.row(ids, Override(adapter=PILOT))
    said = paged.step([(row, len(ids))]).logits.argmax(-1).tolist()
    fed = {i for a, b in PROBLEM.tool_result_spans for i in range(PROMPT + a, PROMPT + b)}
    own = [i for i in range(PROMPT, len(ids)) if i not in fed]
    assert [said[i - 1] for i in own] == [ids[i] for i in own]


def test_rotate_and_list_closed_end_and_are_labelled(session: Session, runs: list[Run]) -> None:
    told = {e.request: json.loads(e.params) for e in session.trace.events(RequestOpened)}
    prunes = list(session.trace.events(Pruned))
    rotate, listed, _ = runs[len(THRESHOLDS) :]
    for run in (rotate, listed):
        assert run.wait().finish in (Finish.STOP, Finish.LENGTH)
        assert run.wait().summary["kv"]["pruned_tokens"] > 0
    mine = [e for e in prunes if e.seq == head(rotate).seq]
    assert {e.mode for e in mine} == {PruneMode.ROTATE}
    assert sum(e.rotated for e in mine) > 0 and not any(e.reencoded for e in mine)
    assert rotate.wait().summary["kv"]["reencoded_tokens"] == 0
    assert told[rotate.contexts[0].request]["mode"] == "rotate"
    assert told[listed.contexts[0].request]["trigger"] == "list_closed"
    modes = {e.mode for e in prunes if e.seq != head(rotate).seq}
    assert modes == {PruneMode.REENCODE}


@pytest.mark.parametrize("place", [1, 4], ids=["reencode", "rotate"])
def test_a_claimed_peak_is_enough_and_no_page_less(runs: list[Run], place: int) -> None:
    run = runs[place]
    peak = run.wait().summary["kv"]["peak_pages"]
    params = {"mode": run.strategy.mode}  # type: ignore[attr-defined]
    with open_workbench(page_size=PAGE, pages=peak) as exact:
        again = start(exact, **params)
        result = again.wait(300)
        assert written(head(again)) == written(head(run))
        assert result.answer == run.wait().answer
        assert result.summary["kv"] == run.wait().summary["kv"]
        assert len({e.page for e in exact.trace.events(PageAllocated)}) == peak
    with open_workbench(page_size=PAGE, pages=peak - 1) as short:
        with pytest.raises(RunFailed, match=f"needs {peak} pages .* the pool has {peak - 1}"):
            start(short, **params).wait(300)
        small = short.run("Say hello.", "chain", max_tokens=4)  # the session goes on
        assert small.wait(60).finish in (Finish.STOP, Finish.LENGTH)


def test_two_in_a_pool_for_one_take_turns(runs: list[Run]) -> None:
    peak = runs[1].wait().summary["kv"]["peak_pages"]
    with open_workbench(page_size=PAGE, pages=peak) as short:
        pair = [start(short), start(short)]
        for run in pair:
            assert run.wait(600).answer == PROBLEM.answer
            assert written(head(run)) == PROBLEM.gold_ids
        assert list(short.trace.events(BranchPreempted))


# ---- a person's commands ----


def held(session: Session, tokens: int, **params: Any) -> Run:
    """A run that stands still after so many sampled tokens."""
    session.submit(Pause()).result(30)
    run = start(session, **params)
    run.step(tokens)
    deadline = time.monotonic() + 120
    while run.counts()["sampled"] < tokens:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return run


def after(session: Session, branch: Branch, text: str) -> int:
    """Stream index of the first token behind `text`."""
    said = b""
    for index in range(PROMPT, len(branch.tokens)):
        said += session.model.tokenizer.token_bytes(branch.tokens[index])
        if text.encode() in said:
            return index + 1
    raise AssertionError(f"{text!r} was not said")


def text_of(session: Session, branch: Branch) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(session.model.tokenizer.decode(written(branch)[:-1]))
    return found


def test_fork_at_an_alternative_token_and_a_pinned_node(session: Session) -> None:
    """After the first step the other way is to close the list; both trees end in the answer. The
    pinned list stays in memory, every other leaves."""
    run = held(session, 140)
    branch = head(run)
    at = after(session, branch, '"conclusion":"') + 10  # behind `599: 1133` and `"}`
    assert session.model.tokenizer.decode([branch.tokens[at]]) == ","
    fork = run.fork(at, rank=1)
    run.pin("1")
    run.resume()
    assert run.wait(300).answer == PROBLEM.answer
    assert written(branch) == PROBLEM.gold_ids
    child = run.contexts[1].branches[fork.seq]
    assert session.model.tokenizer.decode([child.tokens[at]]) == "]"
    assert child.tokens[:at] == branch.tokens[:at]
    steps = text_of(session, child)["reasoning"]
    assert len(steps[0]["subtasks"][0]["subtasks"]) == 1
    assert fork.wait(0) == text_of(session, child)["answer"] == PROBLEM.answer
    spans = {n.path: n.span for n in run.nodes.values() if n.seq == branch.seq and n.span}
    inside = {p: sum(a <= i < b for i in branch.resident) for p, (a, b) in spans.items()}
    assert inside == {
        path: b - a if path == "1" or path.startswith("1.") else 0 for path, (a, b) in spans.items()
    }


def test_an_edited_conclusion_is_taken_up(session: Session) -> None:
    """The edited tree goes on from the key that a person wrote and skips a link of the chain."""
    run = held(session, 105)
    branch = head(run)
    table = {row["mile"]: row["next"] for row in map(json.loads, PROBLEM.tool["results"].values())}
    at = after(session, branch, '"conclusion":"')
    outcome = run.edit(at, len(branch.tokens), f'599: {table["600"]}"}}')
    run.resume()
    result = run.wait(300)
    child = run.contexts[1].branches[outcome["seq"]]
    assert branch.gone == "its text was edited"
    steps = text_of(session, child)["reasoning"][0]["subtasks"][0]["subtasks"]
    assert steps[0]["conclusion"] == f"599: {table['600']}"
    assert steps[1]["tooluse"]["parameters"]["key"] == table["600"]
    assert (result.finish, result.answer) == (Finish.STOP, PROBLEM.answer)
