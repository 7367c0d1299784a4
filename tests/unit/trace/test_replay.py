"""Each contradiction that the audit knows is planted in a sound run, and told."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trace.simulator import Simulator, text_of
from tests.unit.trace.synthetic import tim_run
from tests.unit.trace.test_tables import program
from workbench import events as ev
from workbench.events import Event
from workbench.trace import Recorder, Trace
from workbench.trace.replay import audit, replay
from workbench.words import (
    Field,
    FreeReason,
    NodeId,
    NodeKind,
    Origin,
    PageId,
    Phase,
    RequestId,
    SeqId,
    Step,
)

RECORDINGS = Path(__file__).resolve().parents[3] / "binder" / "traces"


def with_texts(events: list[Event]) -> list[Event]:
    recorder = Recorder(None, text_of)
    for event in events:
        recorder.emit(event)
    return list(recorder.live.events())


@pytest.fixture(scope="module")
def sound() -> list[Event]:
    return [*with_texts(tim_run(400, forks=True, seed=2)), ev.RunEnded(Step(9999), 99.0, True)]


def first(
    events: list[Event], kind: type[Event], where: Callable[[Any], bool] = lambda e: True
) -> int:
    return next(i for i, e in enumerate(events) if type(e) is kind and where(e))


def change(kind: type[Event], where: Callable[[Any], bool] = lambda e: True, **fields: Any) -> Any:
    def plant(events: list[Event]) -> list[Event]:
        at = first(events, kind, where)
        values = {k: v(events[at]) if callable(v) else v for k, v in fields.items()}
        return [*events[:at], replace(events[at], **values), *events[at + 1 :]]

    return plant


def leave_out(kind: type[Event], where: Callable[[Any], bool] = lambda e: True) -> Any:
    def plant(events: list[Event]) -> list[Event]:
        at = first(events, kind, where)
        return events[:at] + events[at + 1 :]

    return plant


def twice(kind: type[Event], where: Callable[[Any], bool] = lambda e: True) -> Any:
    def plant(events: list[Event]) -> list[Event]:
        at = first(events, kind, where)
        return events[: at + 1] + events[at:]

    return plant


def put(event: Event, behind: type[Event]) -> Any:
    def plant(events: list[Event]) -> list[Event]:
        at = first(events, behind)
        return [*events[: at + 1], event, *events[at + 1 :]]

    return plant


STEP = Step(3)
PLANTED = {
    "allocated twice": (
        twice(ev.PageAllocated),
        "is allocated to branch 0 while branches .0. hold it",
    ),
    "no such page": (change(ev.PageAllocated, page=PageId(5000)), "allocated in a pool of 256"),
    "not allocated": (leave_out(ev.PageAllocated), "pages are told to be held"),
    "wrong refcount": (
        change(ev.PageShared, refcount=7),
        "is told to have 7 references, 2 branches",
    ),
    "released by a stranger": (
        change(ev.PageReleased, seq=SeqId(77)),
        "branch 77 gives page .* back",
    ),
    "released, never freed": (leave_out(ev.PageFreed), "neither held nor cached nor free"),
    "freed while held": (
        put(ev.PageFreed(STEP, PageId(0), FreeReason.PRUNED), ev.StepEnded),
        "page 0 is freed while branches",
    ),
    "freed twice": (twice(ev.PageFreed), "is freed while it is free"),
    "cached while held": (
        put(ev.PageCached(STEP, PageId(0)), ev.StepEnded),
        "told to be cached only",
    ),
    "shared while free": (
        change(ev.PageShared, page=PageId(200)),
        "shares page 200, which is free",
    ),
    "copied from a free page": (
        change(ev.PageCopied, source=PageId(201)),
        "page 201, which is free",
    ),
    "overfull": (change(ev.PageFilled, used=17), "page .* of 16 slots has 17 taken"),
    "filled by a stranger": (change(ev.PageFilled, seq=SeqId(77)), "branch 77 fills page"),
    "held count": (
        change(ev.StepEnded, pages_held=lambda e: e.pages_held + 1),
        "pages are told to be held",
    ),
    "resident count": (
        change(ev.StepEnded, resident=lambda e: e.resident + 40),
        "tokens are told to be in memory",
    ),
    "hole in a table": (
        change(ev.PageAllocated, lambda e: e.place == 2, place=9),
        "block table .* has a hole",
    ),
    "one place twice": (
        change(ev.PageAllocated, lambda e: e.place == 2, place=1),
        "two pages at place 1",
    ),
    "held at the end": (
        leave_out(ev.BranchDropped, lambda e: e.seq == 0),
        "branch 0 was never dropped",
    ),
    "dead branch holds": (
        put(ev.BranchDropped(STEP, SeqId(0), ""), ev.StepEnded),
        "though it does not live",
    ),
    "sampled count": (
        change(ev.StepEnded, lambda e: e.sampled, sampled=9),
        "tells of 9 sampled tokens, 1 came",
    ),
    "a token lost": (leave_out(ev.TokenSampled), "comes when it has"),
    "tokens of nobody": (change(ev.TokensFed, seq=SeqId(88)), "of branch 88, which nobody opened"),
    "opened twice": (twice(ev.BranchOpened), "branch 0 is opened twice"),
    "forked from nobody": (
        change(ev.BranchOpened, lambda e: e.parent == 0, parent=SeqId(66)),
        "forked from 66, which nobody opened",
    ),
    "forked too late": (
        change(ev.BranchOpened, lambda e: e.parent == 0, at=10**6),
        "is forked at 1000000",
    ),
    "text unknown": (leave_out(ev.TokenKnown), "has no text"),
    "text twice": (twice(ev.TokenKnown), "is told twice"),
    "removed": (change(ev.Pruned, removed=3), "tells of 3 removed tokens"),
    "lengths": (change(ev.Pruned, length_after=1), "and 1 after, the stream has"),
    "moves too many": (change(ev.Pruned, reencoded=5000), "moves 5000 survivors"),
    "steps go back": (
        change(ev.StepEnded, lambda e: e.step == 5, step=Step(2)),
        "step 2 ends after step 4",
    ),
    "time goes back": (
        change(ev.StepEnded, lambda e: e.step == 5, t=0.0),
        "before the end of the last",
    ),
    "alternatives": (change(ev.TokenSampled, top_logprobs=(-2.0, -1.0)), "are unsorted"),
    "node twice": (twice(ev.NodeOpened), "node 0 is opened twice"),
    "colour": (change(ev.NodeOpened, owner=13), "owner colour 13"),
    "node of nobody's branch": (change(ev.NodeOpened, seq=SeqId(55)), "lies on branch 55"),
    "two requests": (
        change(ev.NodeOpened, lambda e: e.parent == 0, request=RequestId(4)),
        "a tree belongs to one request",
    ),
    "orphan": (
        change(ev.NodeOpened, lambda e: e.parent == 0, parent=NodeId(999)),
        "has parent 999",
    ),
    "before its parent": (
        change(ev.NodeOpened, lambda e: e.parent == 0, index=0),
        "before its parent at",
    ),
    "never closed": (leave_out(ev.NodeClosed), "closes while node .* is open"),
    "closed twice": (twice(ev.NodeClosed), "is closed twice"),
    "open at the end": (leave_out(ev.NodeClosed, lambda e: e.node == 0), "ends well while node 0"),
    "field outside": (change(ev.FieldSpanned, stop=10**6), "the thought of node"),
    "field before": (change(ev.FieldSpanned, start=0), "begins at 0, before the node"),
    "list too short": (
        change(ev.ListSpanned, stop=lambda e: e.start + 1),
        "lies outside the subtask list",
    ),
    "two roots": (twice(ev.NodeOpened, lambda e: e.parent is None), "has 2 roots|opened twice"),
}


def test_sound_runs_have_no_violations(sound: list[Event]) -> None:
    assert audit(sound) == []
    for seed in range(20):
        assert audit(with_texts(program(seed).events)) == []


@pytest.mark.parametrize("name", PLANTED)
def test_planted(name: str, sound: list[Event]) -> None:
    plant, sentence = PLANTED[name]
    found = audit(plant(sound))
    assert found, "nothing was told"
    assert any(re.search(sentence, v) for v in found), found[:5]


TREE = {
    "thought": "a “sum”",
    "subtasks": [
        {"thought": "b", "conclusion": "2"},
        {"thought": "c", "conclusion": "3"},
    ],
    "conclusion": "5",
}


def json_run() -> list[Event]:
    """A task with two subtasks, a token a byte, spans as a tracker would tell them."""
    text = json.dumps(TREE, ensure_ascii=False, separators=(",", ":")).encode()
    sim = Simulator(pages=64)
    events = sim.events
    events += [ev.TokenKnown(Step(0), b, bytes((b,))) for b in sorted(set(text) | {0})]
    sim.open([0])
    base = 1
    sim.feed(sim.branches[0], list(text), Origin.FED, Phase.EXTEND)

    def span(of: str, begin: int = 0) -> tuple[int, int]:
        at = text.index(of.encode(), begin)
        return base + at, base + at + len(of.encode())

    def node(n: int, parent: int | None, start: int, path: str) -> Event:
        return ev.NodeOpened(
            sim.step,
            NodeId(n),
            None if parent is None else NodeId(parent),
            SeqId(0),
            RequestId(0),
            NodeKind.TASK,
            path,
            start,
            1,
            0,
        )

    def told(n: int, field: Field, bounds: tuple[int, int]) -> Event:
        return ev.FieldSpanned(sim.step, NodeId(n), SeqId(0), field, *bounds)

    events.append(node(0, None, base, "1"))
    events.append(told(0, Field.THOUGHT, span("a “sum”")))
    for n, (thought, conclusion) in enumerate((("b", "2"), ("c", "3")), 1):
        start, stop = span(f'{{"thought":"{thought}","conclusion":"{conclusion}"}}')
        events += [
            node(n, 0, start, f"1.{n}"),
            told(n, Field.THOUGHT, (start + 12, start + 13)),
            ev.NodeClosed(sim.step, NodeId(n), stop, conclusion),
        ]
    whole = span('{"thought":"b"')[0], span('"3"}')[1]
    events.append(ev.ListSpanned(sim.step, NodeId(0), SeqId(0), *whole))
    events.append(ev.NodeClosed(sim.step, NodeId(0), base + len(text), "5"))
    return events


def test_text_agrees_with_the_tree() -> None:
    assert audit(json_run()) == []


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (leave_out(ev.NodeOpened, lambda e: e.node == 2), "lists 2 subtasks, the tree has 1"),
        (
            change(ev.NodeClosed, lambda e: e.node == 1, conclusion="7"),
            "concludes '2', the tree '7'",
        ),
        (
            change(ev.FieldSpanned, lambda e: e.node == 1, stop=lambda e: e.start),
            "is 'b', its tokens say ''",
        ),
    ],
)
def test_text_against_the_tree(plant: Any, sentence: str) -> None:
    assert any(sentence in v for v in audit(plant(json_run())))


def test_replay_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wbt"
    recorder = Recorder(path, text_of, chunk_events=50, flush_s=1e9)
    for event in tim_run(150):
        recorder.emit(event)
    recorder.close()
    assert replay(path) == {"ok": True, "violations": []}
    path.write_bytes(path.read_bytes()[:-5])
    found = replay(path)
    assert not found["ok"] and "could not be read" in found["violations"][-1]


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.wbt")), ids=lambda path: path.stem)
def test_the_recordings_agree_with_themselves(path: Path) -> None:
    """Among them a tree that was forked inside its open lists."""
    assert audit(Trace.open(path).events()) == []
