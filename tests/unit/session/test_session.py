"""Sessions over a tiny net: runs, commands, forks, edits, budgets, faults, resumption."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.unit.session.fake_model import fake_session
from workbench.commands import AddNote, Cancel, ForkAt, Pause, PruneNode, Resume
from workbench.engine.errors import Refused
from workbench.events import (
    BranchOpened,
    NodeClosed,
    NodeOpened,
    Noted,
    Pruned,
    RequestEnded,
    RequestOpened,
    RunEnded,
    StepEnded,
    TokenSampled,
    TokensFed,
    ToolReturned,
)
from workbench.reasoning import Answer, Context, Strategy, Task, Tim, UnknownStrategy
from workbench.session import RunFailed, Session
from workbench.tools import Lookup, python_function
from workbench.trace import Trace, TraceError
from workbench.trace.replay import replay
from workbench.words import Finish, NodeId, Origin, RequestId, SeqId

SMALL = {"max_depth": 3, "max_text": 4, "max_tokens": 900}
PROMPT = "grow"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = fake_session(trace=tmp_path / "session.wbt")
    yield opened
    opened.close()
    opened.engine.audit()
    # the trace alone accounts for every page and every node
    assert replay(tmp_path / "session.wbt")["violations"] == []


def emitted(run: Any) -> bytes:
    """What the run's first branch wrote, tool results included."""
    branch = next(iter(run.contexts[0].branches.values()))
    start = next(i for i, o in branch.origins if o is not Origin.PROMPT)
    return bytes(t for t in branch.tokens[start:] if t < 256)


def test_a_tree_is_one_request(session: Session) -> None:
    run = session.run(PROMPT, "tim", temperature=1.0, seed=6, **SMALL)
    result = run.wait(60)
    assert result.finish is Finish.STOP
    text = json.loads(emitted(run))
    assert result.answer == text["answer"]
    trace = session.trace
    assert len(list(trace.events(RequestOpened))) == len(list(trace.events(BranchOpened))) == 1
    opened = {e.node: e for e in trace.events(NodeOpened)}
    closed = {e.node for e in trace.events(NodeClosed)}
    assert closed == set(opened) and len(opened) == result.summary["tree"]["nodes"]
    steps = list(trace.events(StepEnded))
    prompt = len(next(iter(trace.events(TokensFed))).tokens)
    assert sum(s.prefill for s in steps) == prompt
    assert sum(s.reencode for s in steps) == result.summary["kv"]["reencoded_tokens"]
    computed = sum(s.prefill + s.decode + s.extend + s.reencode for s in steps)
    assert computed == result.summary["tokens"]["computed"]
    assert result.summary["kv"]["peak_tokens"] == max(s.resident for s in steps)


def test_threshold_none_is_unpruned_and_thresholds_bound_the_queue(session: Session) -> None:
    texts, pruned = {}, {}
    for threshold in (None, 0, 1, 2):
        run = session.run(PROMPT, "tim", temperature=1.0, seed=6, threshold=threshold, **SMALL)
        run.wait(60)
        texts[threshold] = emitted(run)
        pruned[threshold] = run.counts()["pruned"]
    assert pruned[None] == 0 and pruned[0] > 0
    run = session.run(PROMPT, "tim", temperature=1.0, seed=6, threshold=99, **SMALL)
    run.wait(60)
    assert emitted(run) == texts[None] and run.counts()["pruned"] == 0


@pytest.mark.parametrize("trigger", ["owner_closed", "list_closed"])
@pytest.mark.parametrize("mode", ["reencode", "rotate"])
def test_modes_and_triggers(session: Session, trigger: str, mode: str) -> None:
    run = session.run(PROMPT, "tim", temperature=1.0, seed=6, trigger=trigger, mode=mode, **SMALL)
    assert run.wait(60).finish is Finish.STOP
    prunes = list(session.trace.events(Pruned))
    assert prunes and {p.mode for p in prunes} == {mode}
    closed = {e.node: e.index for e in session.trace.events(NodeClosed)}
    for prune in prunes:
        assert prune.node is not None
        # the owner's conclusion was written before its list left, or not, as the trigger says
        behind = closed[prune.node] > prune.stop + 1 if trigger == "owner_closed" else True
        assert behind


def boom(key: str) -> str:
    """Always fails."""
    raise RuntimeError("no luck with " + key)


def hang(key: str) -> str:
    """Never answers in time."""
    time.sleep(30)
    return key


@dataclass(frozen=True)
class Calls(Strategy):
    """One tool call through the context."""

    name: ClassVar[str] = "calls"

    async def run(self, ctx: Context, task: Task) -> Answer:
        from workbench.words import NodeKind

        branch = await ctx.open("x")
        root = ctx.tree.open(None, NodeKind.ROOT, branch.seq, 0)
        ctx._tool_timeout = 0.2  # type: ignore[attr-defined]
        outcome = await ctx.tool(root, branch, task.tools[0], task.tools[0].name, {"key": "k"})
        ctx.tree.close(root, 1)
        return Answer(outcome.text)


@pytest.mark.parametrize(
    ("function", "said"), [(boom, "no luck with k"), (hang, "no answer within")]
)
def test_a_failing_tool_is_an_error_result(session: Session, function: Any, said: str) -> None:
    result = session.run("x", Calls(), tools=[python_function(function)]).wait(20)
    assert said in json.loads(result.answer)["error"]
    returned = list(session.trace.events(ToolReturned))
    assert not returned[0].ok and returned[0].seconds < 5


def test_a_tree_calls_its_tools_and_survives_their_errors(session: Session) -> None:
    """Under the grammar a random walk calls a tool with keys that are not in the table."""
    table = Lookup({"a": {"next": "b"}})
    for seed in range(8):
        run = session.run(PROMPT, "tim", temperature=1.5, seed=seed, tools=[table], **SMALL)
        run.wait(60)
        if list(session.trace.events(ToolReturned)):
            break
    returned = list(session.trace.events(ToolReturned))
    assert returned
    assert all("error" in json.loads(e.result) for e in returned if not e.ok)
    fed = [e for e in session.trace.events(TokensFed) if e.origin == Origin.TOOL]
    assert bytes(fed[-1].tokens).decode() == returned[-1].result


def pause_at(session: Session, tokens: int, **more: Any) -> Any:
    session.submit(Pause()).result(5)
    run = session.run(PROMPT, "tim", temperature=1.0, seed=6, **{**SMALL, **more})
    run.step(tokens)
    deadline = time.monotonic() + 20
    while (
        session.engine.requests[run.contexts[0].request if run.contexts else RequestId(0)].sampled
        < tokens
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return run


def test_pause_step_and_fork_keep_both_branches(session: Session) -> None:
    run = pause_at(session, 60)
    sampled = run.counts()["sampled"]
    time.sleep(0.1)
    assert run.counts()["sampled"] == sampled == 60
    branch = next(iter(run.contexts[0].branches.values()))
    at = len(branch.tokens) - 20
    choices = [
        e for e in session.trace.events(TokenSampled) if e.index <= at and len(e.top_ids) > 1
        and e.top_logprobs[1] > -20
    ]  # fmt: skip
    event = choices[-1]
    rank = 1 if event.top_ids[0] == event.token else 0
    fork = run.fork(event.index, rank=rank)
    assert fork.token == event.top_ids[rank] != event.token
    before = list(branch.tokens)
    session.submit(Resume()).result(5)
    result = run.wait(60)
    assert result.finish is Finish.STOP
    assert branch.tokens[: len(before)] == before
    child = run.contexts[1].branches[fork.seq]
    assert child.tokens[: event.index] == before[: event.index]
    assert child.tokens[event.index] == fork.token
    start = next(i for i, o in branch.origins if o is not Origin.PROMPT)
    for tokens in (branch.tokens, child.tokens):
        json.loads(bytes(t for t in tokens[start:] if t < 256))
    assert fork.wait(5) == json.loads(bytes(t for t in child.tokens[start:] if t < 256))["answer"]
    own = [e for e in session.trace.events(NodeOpened) if e.seq == fork.seq]
    assert own and own[0].index <= event.index
    closed = {e.node for e in session.trace.events(NodeClosed)}
    assert {e.node for e in session.trace.events(NodeOpened)} == closed


def test_an_edit_takes_the_place_of_the_first_branch(session: Session) -> None:
    run = pause_at(session, 40)
    branch = next(iter(run.contexts[0].branches.values()))
    start = next(i for i, o in branch.origins if o is not Origin.PROMPT)
    head = '{"reasoning":[{"thought":"'
    outcome = run.edit(start + len(head), len(branch.tokens), 'hi","conclusion":"')
    session.submit(Resume()).result(5)
    result = run.wait(60)
    child = run.contexts[1].branches[SeqId(outcome["seq"])]
    text = json.loads(bytes(t for t in child.tokens[start:] if t < 256))
    assert text["reasoning"][0]["thought"] == "hi" and result.answer == text["answer"]
    with pytest.raises(Refused, match="is gone"):
        run.edit(start, start + 1, "x")


def test_refusals_say_why(session: Session) -> None:
    run = pause_at(session, 30)
    seq = run.main
    cases: list[tuple[Any, str]] = [
        (PruneNode(NodeId(999)), "no node"),
        (PruneNode(next(iter(run.nodes))), "still open"),
        (ForkAt(seq, 0, 65), "cannot be forked"),
        (ForkAt(seq, len(PROMPT) + 200, 65), "cannot be forked"),
        (ForkAt(SeqId(77), 5), "no branch"),
        (Cancel(RequestId(55)), "unknown"),
    ]
    for command, why in cases:
        with pytest.raises(Refused, match=why):
            session.submit(command).result(5)
    session.submit(AddNote("look", None, 3)).result(5)
    assert [e.text for e in session.trace.events(Noted)] == ["look"]
    session.submit(Resume()).result(5)
    run.wait(60)


def test_a_pinned_node_stays_and_a_command_prunes(session: Session) -> None:
    run, sampled = pause_at(session, 10, threshold=None), 10
    deadline = time.monotonic() + 30
    while not (ready := [n for n in run.nodes.values() if n.span is not None and not n.open]):
        run.step(1)
        sampled += 1
        while run.counts()["sampled"] < sampled:
            assert not run.done and time.monotonic() < deadline
            time.sleep(0.001)
    node = ready[0]
    run.pin(node.path)
    with pytest.raises(Refused, match="pinned"):
        run.prune(node.path)
    run.pin(node.path, False)
    assert run.prune(node.path)["removed"] > 0
    with pytest.raises(Refused, match="left memory already"):
        run.prune(node.path)
    session.submit(Resume()).result(5)
    assert run.wait(60).finish is Finish.STOP


@pytest.mark.parametrize(
    "limits", [{"sampled": 25}, {"computed": 40}, {"seconds": 0.05}, {"pages": 3}]
)
def test_budgets_are_never_silently_exceeded(session: Session, limits: dict[str, float]) -> None:
    run = session.run(PROMPT, "tim", temperature=1.0, seed=6, budget=limits, **SMALL)
    result = run.wait(60)
    assert result.finish is Finish.BUDGET and next(iter(limits)) in result.error
    if "sampled" in limits:
        assert result.summary["tokens"]["sampled"] == 25


def test_budgets_nest(session: Session) -> None:
    @dataclass(frozen=True)
    class Nested(Strategy):
        name: ClassVar[str] = "nested"

        async def run(self, ctx: Context, task: Task) -> Answer:
            from workbench.engine.protocols import Until
            from workbench.reasoning import BudgetSpent

            branch = await ctx.open("abc")
            said = []
            with ctx.budget(sampled=10):
                try:
                    with ctx.budget(sampled=4):
                        await ctx.decode(branch, until=Until(max_tokens=8, eos=False))
                except BudgetSpent:
                    said.append(len(branch.tokens))
                [d] = await ctx.decode(branch, until=Until(max_tokens=6, eos=False))
                said.append(len(d.tokens))
                await ctx.decode(branch, until=Until(max_tokens=6, eos=False))
            return Answer(str(said))

    result = session.run("x", Nested()).wait(20)
    assert result.finish is Finish.BUDGET and result.summary["tokens"]["sampled"] == 10


def test_cancel_and_close_leave_a_clean_end(tmp_path: Path) -> None:
    session = fake_session(trace=tmp_path / "t.wbt")
    run = session.run(PROMPT, "chain", max_tokens=3000)
    while not run.counts()["sampled"]:
        time.sleep(0.01)
    run.cancel()
    assert run.wait(20).finish is Finish.CANCELLED
    other = session.run(PROMPT, "chain", max_tokens=3000)
    session.close()
    assert other.wait(5).finish is Finish.CANCELLED
    trace = Trace.open(tmp_path / "t.wbt")
    assert [e.finish for e in trace.events(RequestEnded)] == ["cancelled", "cancelled"]
    assert len(list(trace.events(RunEnded))) == 1
    with pytest.raises(RunFailed, match="closed"):
        session.run(PROMPT, "chain")


def test_bad_wishes(session: Session) -> None:
    with pytest.raises(UnknownStrategy, match="did you mean tim"):
        session.run(PROMPT, "tmi")
    with pytest.raises(UnknownStrategy, match="did you mean threshold"):
        session.run(PROMPT, "tim", treshold=1)
    with pytest.raises(ValueError, match="prompt is empty"):
        session.run("  ")
    with pytest.raises(ValueError, match="budget 'tokens' is not known"):
        session.run(PROMPT, budget={"tokens": 3})
    with pytest.raises(RunFailed, match="the window 4096"):
        session.run("x" * 5000, "chain").wait(20)
    bad = python_function(boom)
    object.__setattr__(bad, "parameters", {"type": "objekt"})
    with pytest.raises(RunFailed, match="JSON schema at #"):
        session.run(PROMPT, "tim", tools=[bad]).wait(20)


def test_without_a_grammar_a_malformed_tree_is_an_error_with_its_place(session: Session) -> None:
    result = session.run(PROMPT, "tim", grammar=False, temperature=1.0, seed=6, **SMALL).wait(30)
    assert result.finish is Finish.ERROR and "is wanted" in result.error
    assert result.summary["tokens"]["sampled"] < 20


def test_the_front_door() -> None:
    import workbench

    assert workbench.open_workbench.__module__ == "workbench.session.session"
    assert "tim" in workbench.strategies()
    with pytest.raises(AttributeError, match="it has"):
        _ = workbench.nothing


def test_vote_and_chain(session: Session) -> None:
    result = session.run(PROMPT, "vote", n=5, max_tokens=20, seed=1).wait(30)
    notes = [e.text for e in session.trace.events(Noted)]
    assert len(notes) == 1 and f"of 5 for {result.answer!r}" in notes[0]
    branches = list(session.trace.events(BranchOpened))
    assert len(branches) == 6 and all(b.reused for b in branches[1:])
    again = session.run(PROMPT, "vote", n=5, max_tokens=20, seed=1).wait(30)
    assert again.answer == result.answer
    chain = session.run(PROMPT, "chain", max_tokens=30).wait(30)
    assert chain.summary["tokens"]["sampled"] == 30 and chain.finish is Finish.LENGTH


def test_a_killed_run_goes_on_and_samples_nothing_twice(tmp_path: Path) -> None:
    whole = fake_session(trace=tmp_path / "whole.wbt")
    run = whole.run(PROMPT, "tim", threshold=0, temperature=1.0, seed=6, **SMALL)
    wanted, text = run.wait(60), emitted(run)
    whole.close()
    killed = fake_session(trace=tmp_path / "killed.wbt")
    cut = wanted.summary["tokens"]["sampled"] // 2
    killed.run(
        PROMPT, "tim", threshold=0, temperature=1.0, seed=6, budget={"sampled": cut}, **SMALL
    ).wait(60)
    killed.close()
    events = [
        e for e in Trace.open(tmp_path / "killed.wbt").events() if not isinstance(e, RequestEnded)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trace, "events", lambda self, kind=object: (e for e in events if isinstance(e, kind))
        )
        resumed = fake_session()
        went_on = resumed.resume(tmp_path / "killed.wbt")
        result = went_on.wait(60)
    assert emitted(went_on) == text and result.answer == wanted.answer
    assert result.summary["tokens"]["sampled"] == wanted.summary["tokens"]["sampled"] - cut
    resumed.close()
    with pytest.raises(TraceError, match="all of its runs have ended"):
        fake_session().resume(tmp_path / "whole.wbt")


def test_asking_a_run(session: Session) -> None:
    run = session.run(PROMPT, "tim", temperature=1.0, seed=6, **SMALL)
    result = run.wait(60)
    stretch = run[10:40]
    assert stretch.sampled == 30 and stretch.last == 40
    assert run.find("conclusion")[0].step >= 0
    assert "stop" in repr(run) and len(repr(run).splitlines()) == 3
    assert run.node("1").path == "1"
    with pytest.raises(KeyError, match="no node"):
        run.node("9.9")
    assert result.summary["tok_s"] > 0


def test_a_scripted_tree_outruns_its_window_eightfold() -> None:
    """8 × 1,024 tokens of text in one request, with bounded pages."""
    session = fake_session(window=1024, pages=256)
    leaf = '{"thought":"' + "t" * 60 + '","conclusion":"' + "c" * 20 + '"}'
    block = '{"thought":"b","subtasks":[' + ",".join([leaf] * 4) + '],"conclusion":"d"}'
    group = '{"thought":"g","subtasks":[' + ",".join([block] * 5) + '],"conclusion":"e"}'
    text = '{"reasoning":[' + ",".join([group] * 4) + '],"answer":"42"}'

    class Script:
        """A matcher that allows one text."""

        def __init__(self, inner: Any, at: int = 0) -> None:
            self.inner, self.at, self.ids = inner, at, [*text.encode(), 256]

        def fill(self, row: Any) -> None:
            row[:] = 0
            token = self.ids[self.at]
            row[token // 32] = 1 << (token % 32) if token % 32 != 31 else -(1 << 31)

        def consume(self, token: int) -> None:
            self.inner.consume(token)  # the real grammar follows, and must agree
            self.at += 1

        @property
        def finished(self) -> bool:
            return self.at == len(self.ids)

    @dataclass(frozen=True)
    class Scripted(Tim):
        name: ClassVar[str] = "scripted"

        def matcher(self, ctx: Context, task: Task) -> Any:
            return Script(super().matcher(ctx, task))

    assert len(text) > 8 * 1024
    result = session.run(PROMPT, Scripted(max_depth=3), ids=[1, 2, 3]).wait(300)
    assert result.answer == "42" and result.finish is Finish.STOP
    assert result.summary["tokens"]["sampled"] == len(text) + 1
    assert result.summary["kv"]["peak_tokens"] < 1024
    assert result.summary["kv"]["peak_pages"] <= 256
    session.close()
    session.engine.audit()


def test_waiting_for_a_node() -> None:
    with fake_session() as session:
        run = session.run("x", max_tokens=400)
        assert run.wait_for("1").path == "1"
        run.wait(30)
        with pytest.raises(KeyError, match="no node"):
            run.wait_for("9.9")
        paused = session.run("x", max_tokens=400)
        paused.pause()
        with pytest.raises(TimeoutError, match="had not begun"):
            paused.wait_for("9.9", timeout=0.05)
        paused.resume()
