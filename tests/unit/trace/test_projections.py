"""Projections are equalities: what the simulator kept is what they show."""

import numpy as np
import pytest

from tests.unit.trace.simulator import Simulator, text_of
from tests.unit.trace.synthetic import TimRun
from tests.unit.trace.test_tables import program
from workbench import events as ev
from workbench.trace import Recorder, Tables
from workbench.trace import projections as show
from workbench.trace.build import TableBuilder
from workbench.words import NodeId, NodeKind, RequestId, SeqId, Step


def tables_of(events: list[ev.Event]) -> Tables:
    recorder = Recorder(None, text_of)
    for event in events:
        recorder.emit(event)
    return recorder.live.tables()


@pytest.mark.parametrize("seed", range(8))
def test_page_map_at_every_step(seed: int) -> None:
    sim = program(seed)
    tables = TableBuilder().apply(sim.events)
    for step, held in enumerate(sim.held):
        found = show.page_map(tables, step)
        assert {page: at.refcount for page, at in found.taken.items()} == sim.counts[step]
        assert set(found.taken) == held and found.free == 400 - len(held)


def test_page_map_as_a_chain_and_as_text() -> None:
    sim = Simulator(pages=40, page_size=4)
    branch = sim.open(list(range(40, 50)))
    sim.fork(branch)
    sim.end_step(ev.Phase.WAIT, 0)
    tables = TableBuilder().apply(sim.events)
    found = show.page_map(tables)
    assert [(p.page, p.place, p.used, p.refcount) for p in found.chain(0)] == [
        (0, 0, 4, 2), (1, 1, 4, 2), (2, 2, 2, 2)
    ]  # fmt: skip
    assert found.held == 3 and found.chain(1) == ()
    assert str(found) == "222" + "." * 29 + "\n" + "." * 8
    assert str(show.page_map(tables, 0)).startswith("111.")


def test_scrubbing_is_calling_again() -> None:
    run = TimRun(600, seed=1)
    events = run.run()
    whole = TableBuilder().apply(events)
    for at in (0, 30, 200, 401):
        then = TableBuilder().apply(e for e in events if e.step <= at)
        assert show.page_map(whole, at).taken.keys() == show.page_map(then).taken.keys()
        assert show.resident_by_owner(whole, at) == show.resident_by_owner(then)
        now = [(n.path, n.open, n.pruned, n.resident) for n in show.tree_at(whole, at)]
        assert now == [(n.path, n.open, n.pruned, n.resident) for n in show.tree_at(then)]


def test_tree_outline_and_text() -> None:
    sim = Simulator()
    branch = sim.open([40, 41])
    first = len(branch.tokens)
    sim.emit(
        ev.NodeOpened(
            sim.step, NodeId(0), None, SeqId(0), RequestId(0), NodeKind.ROOT, "", first, 0, 0
        )
    )
    sim.emit(
        ev.NodeOpened(
            sim.step, NodeId(1), NodeId(0), SeqId(0), RequestId(0), NodeKind.TASK, "1", first, 1, 0
        )
    )
    sim.emit(ev.NodeTitled(sim.step, NodeId(1), "add"))
    sim.sample([branch], [50])
    sim.sample([branch], [51])
    sim.emit(ev.ListSpanned(sim.step, NodeId(1), SeqId(0), 2, 3))
    sim.emit(ev.NodeClosed(sim.step, NodeId(1), 4, "four"))
    sim.prune(branch, 2, 3, 1)
    tables = tables_of(sim.events)
    assert show.outline(tables).splitlines() == [
        "root  [1 of 2 tokens] open",
        "  1 add  [1 of 2 tokens, list pruned] = four",
    ]
    assert show.outline(tables, 1).splitlines()[1] == "  1 add  [1 of 1 tokens] open"
    words = [text_of(t).decode() for t in (40, 41, 50, 51)]
    assert show.text(tables, 0) == "".join(words)
    assert show.text(tables, 0, resident=True) == "".join(words[:2] + words[3:])
    assert show.text(tables, 0, at=1) == "".join(words[:3])
    assert show.resident_by_owner(tables) == {0: 2, 1: 1}


def test_an_edited_text_is_the_later_one() -> None:
    sim = Simulator()
    branch = sim.open([40, 41, 42])
    sim.edit(branch, 1, [60, 61])
    assert show.text(tables_of(sim.events), 0) == "".join(text_of(t).decode() for t in (40, 60, 61))


def test_summary_and_peak() -> None:
    run = TimRun(800, seed=4)
    events = run.run()
    tables = TableBuilder().apply(events)
    steps = [e for e in events if isinstance(e, ev.StepEnded)]
    prunes = [e for e in events if isinstance(e, ev.Pruned)]
    found = show.summary(tables)
    most = max(steps, key=lambda e: e.resident)
    assert show.peak(tables) == show.Peak(
        most.step, most.resident, max(e.pages_held for e in steps)
    )
    assert found["tokens"]["sampled"] == sum(e.sampled for e in steps)
    assert found["tokens"]["computed"] == sum(
        e.prefill + e.decode + e.extend + e.reencode for e in steps
    )
    assert found["kv"]["pruned_tokens"] == sum(e.removed for e in prunes)
    assert found["kv"]["reencoded_tokens"] == sum(e.reencoded for e in prunes)
    assert found["answer"] == "forty-two" and found["finish"] == "stop"
    assert found["tree"]["nodes"] == run.sim.next_node
    assert found["ttft_s"] == pytest.approx(steps[1].t + steps[1].seconds)


def test_nothing_recorded_yet() -> None:
    tables = TableBuilder().tables
    assert show.peak(tables) == show.Peak(0, 0, 0)
    assert show.page_map(tables).taken == {} and show.tree_at(tables) == ()
    assert show.summary(tables)["tokens"]["sampled"] == 0
    assert len(show.alive(tables)) == 0 and Step(0) == np.int64(0)
