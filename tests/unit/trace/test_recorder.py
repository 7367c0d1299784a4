"""The recorder: order, token texts, bounded memory, readers on other threads."""

import threading
from pathlib import Path

import pytest

from tests.unit.trace.simulator import Simulator, text_of
from tests.unit.trace.synthetic import tim_run
from workbench import events as ev
from workbench.events import DetailDropped, Event, RunEnded, TokenKnown, TokenSampled
from workbench.trace import Recorder, Trace
from workbench.trace.build import TableBuilder
from workbench.words import Origin, SeqId, Step


def fed(*tokens: int) -> ev.TokensFed:
    return ev.TokensFed(Step(0), SeqId(0), 0, Origin.PROMPT, tokens)


def test_a_token_is_known_before_it_is_first_mentioned() -> None:
    recorder = Recorder(None, text_of)
    recorder.emit(fed(50, 51, 50))
    recorder.emit(TokenKnown(Step(0), 51, b"told twice"))
    recorder.emit(TokenKnown(Step(0), 77, b"told by the engine"))
    recorder.emit(TokenSampled(Step(1), SeqId(0), 3, 77, -1.0, 1.0, (77, 60), (-1.0, -2.0)))
    told: set[int] = set()
    for event in recorder.live.events():
        if isinstance(event, TokenKnown):
            assert event.token not in told
            told.add(event.token)
        elif isinstance(event, TokenSampled):
            assert {event.token, *event.top_ids} <= told
        elif isinstance(event, ev.TokensFed):
            assert set(event.tokens) <= told
    assert told == {50, 51, 60, 77}


def test_chunks_do_not_change_what_is_read(tmp_path: Path) -> None:
    events = tim_run(200)
    seen: list[list[Event]] = []
    for path, chunk_events in ((None, 1), (None, 37), (tmp_path / "a.wbt", 500), (None, 10**9)):
        recorder = Recorder(path, text_of, chunk_events=chunk_events, flush_s=1e9)
        for event in events:
            recorder.emit(event)
        recorder.close()
        recorder.emit(events[0])  # after the end nothing is kept
        seen.append([e for e in recorder.live.events() if not isinstance(e, RunEnded)])
    assert all(one == seen[0] for one in seen)
    assert [e for e in seen[0] if not isinstance(e, TokenKnown)] == events


def test_time_seals_a_chunk() -> None:
    now = 0.0
    recorder = Recorder(None, text_of, flush_s=0.5, clock=lambda: now)
    sim = Simulator()
    sim.open([50])
    for event in sim.events:
        recorder.emit(event)
    assert recorder._store.pending
    now = 1.0
    sim.end_step(ev.Phase.DECODE, 1)
    recorder.emit(sim.events[-1])
    assert not recorder._store.pending


def test_bounded_memory_drops_alternatives_first_then_routes_then_all() -> None:
    limit = 40_000
    recorder = Recorder(None, text_of, chunk_events=200, flush_s=1e9, limit_bytes=limit)
    events = tim_run(6000, experts=16)
    for event in events:
        recorder.emit(event)
    recorder.close()
    assert recorder._store.memory_bytes < limit * 1.3
    kept = list(recorder.live.events())
    dropped: dict[str, int] = {}
    for event in kept:
        if isinstance(event, DetailDropped):
            dropped[event.kind] = dropped.get(event.kind, 0) + event.count
    kinds = list(dropped)
    assert kinds.index("TokenSampled.top") < kinds.index("Routed") < kinds.index("TokenSampled")
    for name in ("Routed", "TokenSampled", "StepEnded"):
        asked = sum(type(e).__name__ == name for e in events)
        assert sum(type(e).__name__ == name for e in kept) + dropped[name] == asked
    alternatives = sum(len(e.top_ids) for e in events if isinstance(e, TokenSampled))
    left = sum(len(e.top_ids) for e in kept if isinstance(e, TokenSampled))
    assert left < alternatives
    assert isinstance(kept[-1], DetailDropped | RunEnded)
    marks = TableBuilder().apply(kept)["marks"]
    assert "loss" in marks.texts("kind")


def test_an_event_of_wrong_type_never_fails_the_step(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(None, text_of, chunk_events=4)
    recorder.emit(fed(50))
    recorder.emit(ev.RunResumed(Step(0), "soon"))  # type: ignore[arg-type]
    recorder.emit(fed(50))
    recorder.close()
    assert [e for e in recorder.live.events() if isinstance(e, DetailDropped)] == [
        DetailDropped(Step(0), "RunResumed", 1)
    ]
    assert len(list(recorder.live.events(ev.TokensFed))) == 2
    assert "were not recorded" in caplog.text


def test_a_detokenizer_that_raises_never_fails_the_step() -> None:
    def broken(token: int) -> bytes:
        raise KeyError(token)

    recorder = Recorder(None, broken)
    recorder.emit(fed(50))
    assert next(recorder.live.events()) == TokenKnown(Step(0), 50, b"")


def test_long_facts_seal_chunks_early() -> None:
    recorder = Recorder(None, text_of, chunk_events=1000, flush_s=1e9)
    for layer in range(8):
        recorder.emit(ev.Routed(Step(0), layer, 8, (1,) * 4096, (0.125,) * 4096))
    assert len(recorder._store.pending) < 8


@pytest.mark.parametrize("where", ["memory", "file"])
def test_readers_on_other_threads_see_a_consistent_run(where: str, tmp_path: Path) -> None:
    path = tmp_path / "live.wbt" if where == "file" else None
    events = tim_run(3000, forks=True, pages=600)
    recorder = Recorder(path, text_of, chunk_events=64, flush_s=1e9)
    done = threading.Event()
    failures: list[BaseException] = []
    lengths: list[int] = []

    def read() -> None:
        try:
            seen = 0
            revision: int | None = None
            while not done.is_set():
                news = recorder.live.since(seen)
                seen += len(news)
                delta = recorder.live.delta(revision)
                assert delta.since in (None, revision)
                revision = delta.revision
                lengths.append(seen)
        except BaseException as failure:
            failures.append(failure)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for event in events:
        recorder.emit(event)
    recorder.close()
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert len(lengths) > 2
    tables = recorder.live.tables()
    assert not tables.meta["live"] and tables.meta["complete"]
    again = TableBuilder().apply(recorder.live.events())
    for name, table in tables.items():
        for column in table:
            assert repr(table[column]) == repr(again[name][column])
    if path:
        assert list(Trace.open(path).events()) == list(recorder.live.events())


def test_info_of_a_recorded_run(tmp_path: Path) -> None:
    events = tim_run(200)
    recorder = Recorder(tmp_path / "a.wbt", text_of)
    for event in events:
        recorder.emit(event)
    recorder.close()
    info = Trace.open(tmp_path / "a.wbt").info()
    tokens = sum(len(e.tokens) for e in events if isinstance(e, ev.TokensFed))
    tokens += sum(isinstance(e, TokenSampled) for e in events)
    assert info["tokens"] == tokens == TableBuilder().apply(events)["tokens"].rows
    assert info["steps"] == sum(isinstance(e, ev.StepEnded) for e in events)
    assert info["requests"] == 1 and info["complete"] is True
    assert (
        info["lost_bytes"] == 0 and info["recovered_bytes"] == (tmp_path / "a.wbt").stat().st_size
    )
    assert recorder.live.info() == info


def test_interrupted_is_not_complete(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.wbt", text_of)
    recorder.emit(fed(50))
    recorder.close(complete=False)
    assert not Trace.open(tmp_path / "a.wbt").complete
