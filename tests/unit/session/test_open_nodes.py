"""Commands on what is still being written: a list's finished part leaves, a fork counts on."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.unit.session.fake_model import fake_session
from workbench.commands import StepNode
from workbench.engine.errors import Refused
from workbench.events import NodeOpened, RunPaused
from workbench.reasoning.tree import Node
from workbench.session import Run, Session
from workbench.words import Finish, NodeKind, Origin

PROMPT = "Plan a day."


@pytest.fixture
def session() -> Iterator[Session]:
    with fake_session() as opened:
        yield opened


def run_until(session: Session, found: Callable[[Run], Node | None]) -> tuple[Run, Node]:
    """Goes from node to node until `found` names one; trees of several seeds are tried."""
    for seed in range(40):
        run = session.run(PROMPT, "tim", temperature=1.0, seed=seed, threshold=None, max_text=12)
        while not run.done:
            paused = len(list(session.trace.events(RunPaused)))
            try:
                session.submit(StepNode()).result(5)
            except Refused:
                break
            deadline = time.monotonic() + 10
            while not run.done and len(list(session.trace.events(RunPaused))) == paused:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            node = found(run) if not run.done else None
            if node is not None:
                return run, node
    raise AssertionError("no tree of forty held such a node")


def growing(run: Run) -> Node | None:
    """An open node below the root whose newest subtask is open and stands behind a closed one."""
    return next(
        (
            n
            for n in run.nodes.values()
            if n.open and n.parent and len(n.children) > 1 and n.children[-1].open
        ),
        None,
    )


def test_the_finished_part_of_an_open_list_leaves(session: Session) -> None:
    run, node = run_until(session, growing)
    branch = next(iter(run.contexts[0].branches.values()))
    first, newest = node.children[0].first, node.children[-1].first
    before = list(branch.resident)
    outcome = run.prune(node.path)
    assert list(branch.resident) == [i for i in before if not first <= i < newest]
    assert outcome["removed"] == len(before) - len(branch.resident) > 0
    text = bytes(branch.tokens[i] for i in branch.resident)
    assert b'"subtasks":[{' in text, "the newest subtask stands in the place of the first"
    with pytest.raises(Refused, match="left memory already"):
        run.prune(node.path)
    session.engine.audit()
    run.resume()
    assert run.wait(60).finish is Finish.STOP
    start = next(i for i, o in branch.origins if o is not Origin.PROMPT)
    json.loads(bytes(t for t in branch.tokens[start:] if t < 256))


def test_an_open_node_with_nothing_finished_says_what_it_waits_for(session: Session) -> None:
    def only_child(run: Run) -> Node | None:
        return next(
            (n for n in run.nodes.values() if n.open and [c.open for c in n.children] == [True]),
            None,
        )

    run, node = run_until(session, only_child)
    with pytest.raises(Refused, match=r"only subtask.*still open"):
        run.prune(node.path)
    run.cancel()


def test_a_fork_counts_its_tasks_on_from_those_it_shares(session: Session) -> None:
    run, _ = run_until(session, growing)
    branch = next(iter(run.contexts[0].branches.values()))
    fork = run.fork(len(branch.tokens), seed=5)
    run.resume()
    run.wait(60)
    fork.wait(10)
    opened = [e for e in session.trace.events(NodeOpened) if e.seq == fork.seq]
    assert [e.kind for e in opened].count(NodeKind.BRANCH) == 1
    paths = [e.path for e in opened if e.kind is NodeKind.TASK]
    assert len(set(paths)) == len(paths)
    for path in paths:  # every ordinal follows one that there is
        *above, ordinal = path.split(".")
        if int(ordinal) > 1:
            before = ".".join([*above, str(int(ordinal) - 1)])
            assert any(n.path == before for n in run.nodes.values()), path
