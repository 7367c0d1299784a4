"""Widgets without a browser: what they send, what they take, what they refuse."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import pytest

import widgets
from tests.unit.trace.synthetic import text_of, tim_run
from widgets.formatters import card, summarise, text
from widgets.forms import form
from widgets.gestures import GESTURES, GestureError, command_of
from workbench import commands
from workbench.commands import ForkAt, Pause, PinNode, PruneNode, StepOut
from workbench.trace.recorder import Recorder
from workbench.trace.tables import NEVER
from workbench.trace.trace import LiveTrace, Trace


@pytest.fixture(scope="module")
def trace() -> LiveTrace:
    recorder = Recorder(None, text_of)
    for event in tim_run(900):
        recorder.emit(event)
    recorder.close()
    return recorder.live


class Wire:
    """Stands where the comm to a browser would be."""

    def __init__(self, widget: widgets.WorkbenchWidget) -> None:
        self.sent: list[tuple[dict[str, Any], list[Any]]] = []
        self.widget = widget
        widget.send = lambda content, buffers=None: self.sent.append((content, buffers or []))  # type: ignore[method-assign]

    def hear(self, **content: Any) -> None:
        self.widget._heard(self.widget, content, [])

    def wait(self, kind: str, timeout: float = 5.0) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for content, _ in list(self.sent):
                if content.get("kind") == kind:
                    return content
            time.sleep(0.01)
        raise AssertionError(f"no {kind} came; {[c.get('kind') for c, _ in self.sent]} did")


@pytest.fixture
def wire(trace: LiveTrace) -> Iterator[Wire]:
    view = widgets.Composite(trace)
    yield Wire(view)
    view.close()


def test_a_view_that_opens_gets_one_snapshot(wire: Wire) -> None:
    assert wire.sent == []
    wire.hear(kind="resync", why="a view opened")
    snapshot = wire.wait("snapshot")
    assert snapshot["tables"]["tokens"] >= 900
    wire.hear(kind="ack", seq=snapshot["seq"])
    time.sleep(0.15)
    assert [c["kind"] for c, _ in wire.sent] == ["snapshot"], "nothing new, nothing sent"
    wire.hear(kind="resync", why="reloaded")
    time.sleep(0.3)
    assert [c["kind"] for c, _ in wire.sent] == ["snapshot", "snapshot"]


def test_a_run_that_goes_on_sends_deltas() -> None:
    recorder = Recorder(None, text_of)
    events = tim_run(400)
    for event in events[:500]:
        recorder.emit(event)
    view = widgets.Composite(recorder.live)
    wire = Wire(view)
    wire.hear(kind="resync", why="a view opened")
    wire.hear(kind="ack", seq=wire.wait("snapshot")["seq"])
    for event in events[500:]:
        recorder.emit(event)
    recorder.close()
    wire.wait("delta")
    whole = {n: t.rows for n, t in recorder.live.tables().items()}
    end = time.monotonic() + 5
    while time.monotonic() < end and wire.sent[-1][0]["tables"] != whole:
        wire.hear(kind="ack", seq=wire.sent[-1][0]["seq"])
        time.sleep(0.05)
    assert wire.sent[-1][0]["tables"] == whole
    assert wire.sent[-1][0]["meta"]["live"] is False
    assert len(wire.sent) < 40, "joined, not one a fact"
    view.close()


def test_unknown_keywords_are_refused(trace: LiveTrace) -> None:
    with pytest.raises(TypeError, match="no option 'axes'; did you mean 'axis'"):
        widgets.Composite(trace, axes="wall")
    assert widgets.Composite(trace, axis="wall", at=7).at == 7


def test_traits_stay_small(trace: LiveTrace) -> None:
    view = widgets.ReasoningTree(trace)
    state = view.get_state()
    assert sum(len(str(v)) for k, v in state.items() if k not in ("_esm", "_css")) < 2000
    assert view.lanes == ["tree"]
    assert repr(view).startswith("ReasoningTree(LiveTrace")


def test_every_gesture_is_a_command(trace: LiveTrace) -> None:
    tables = trace.tables()
    row = next(i for i in range(900) if tables["tokens"].cell("origin", i) == 1)
    args: dict[str, Any] = {"node": 2, "n": 3, "text": "why?", "row": row, "rank": 1, "token": 7}
    made = {verb: command_of(verb, args, tables) for verb in GESTURES}
    assert made["prune"] == PruneNode(tables["nodes"].cell("id", 2))
    assert made["unpin"] == PinNode(tables["nodes"].cell("id", 2), pinned=False)
    assert made["step_out"] == StepOut(tables["nodes"].cell("id", 2))
    assert made["fork"] == ForkAt(0, tables["tokens"].cell("index", row), token=7, rank=1)
    assert all(type(c).__name__ in commands.COMMANDS for c in made.values())


@pytest.mark.parametrize(
    ("verb", "args"), [("fly", {}), ("prune", {}), ("prune", {"node": 9999}), ("fork", {"row": -1})]
)
def test_gestures_that_mean_nothing_are_refused(verb: str, args: Any, trace: LiveTrace) -> None:
    with pytest.raises(GestureError):
        command_of(verb, args, trace.tables())


def test_answers_and_refusals_come_back(trace: LiveTrace) -> None:
    asked: list[Any] = []

    def submit(command: Any) -> "Future[Any]":
        asked.append(command)
        future: Future[Any] = Future()
        if isinstance(command, Pause):
            future.set_result({})
        else:
            future.set_exception(RuntimeError("5.2 is still open"))
        return future

    view = widgets.Composite(trace, submit=submit)
    wire = Wire(view)
    wire.hear(kind="gesture", id=1, verb="pause", args={})
    wire.hear(kind="gesture", id=2, verb="prune", args={"node": 1})
    wire.hear(kind="gesture", id=3, verb="prune", args={"node": 10**6})
    answers = {c["id"]: c for c, _ in wire.sent}
    assert answers[1]["ok"] is True
    assert answers[2]["ok"] is False
    assert answers[2]["why"] == "5.2 is still open"
    assert "nodes" in answers[3]["why"]
    assert asked == [Pause(), PruneNode(view.tables()["nodes"].cell("id", 1))]


def test_without_an_engine_a_gesture_is_answered(wire: Wire) -> None:
    wire.hear(kind="gesture", id=4, verb="pause", args={})
    assert wire.sent == [
        ({"kind": "answer", "id": 4, "ok": False, "why": "no engine is behind this view"}, [])
    ]


def test_errors_of_a_view_are_kept_and_shown(wire: Wire) -> None:
    wire.hear(kind="error", text="memory: no such column")
    wire.hear(kind="nonsense")
    assert next(iter(wire.widget.errors)) == "memory: no such column"
    assert "nonsense" in wire.wait("error")["text"]


def test_linked_views_share_cursor_and_selection(trace: LiveTrace) -> None:
    tree, pages = widgets.ReasoningTree(trace), widgets.KVPages(trace)
    widgets.link(tree, pages)
    tree.at = 40
    pages.picks = {"node": 3, "span": None}
    assert pages.at == 40
    assert tree.picks["node"] == 3


def test_importing_the_widgets_gives_traces_a_view(trace: LiveTrace) -> None:
    assert Trace.viewer is widgets.Composite
    assert isinstance(trace.show(), widgets.Composite)


# ---- the card ----


def test_the_card_says_what_the_tables_say(trace: LiveTrace) -> None:
    tables = trace.tables()
    s = summarise(tables)
    assert s.peak == max(tables["steps"]["resident"])
    assert s.pruned == sum(tables["prunes"]["removed"])
    assert s.sampled == sum(1 for o in tables["tokens"]["origin"] if o == 1)
    assert s.tools == sum(1 for c in tables["nodes"]["called"] if c != NEVER)
    html = card(trace)
    assert html.startswith("<table")
    assert "forty-two" in html
    assert "http" not in html
    assert len(text(trace).splitlines()) == 3


def test_the_card_of_nothing() -> None:
    recorder = Recorder(None, text_of)
    assert "<table" in card(recorder.live)
    recorder.close()


def test_the_card_escapes_the_answer(trace: LiveTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    s = summarise(trace.tables())
    bad = type(s)(**{f: getattr(s, f) for f in s.__slots__} | {"answer": "<script>"})
    monkeypatch.setattr("widgets.formatters.summarise", lambda tables: bad)
    assert "<script>" not in card(trace)


# ---- forms ----


@dataclass(frozen=True)
class Settings:
    threshold: int | None = 0
    mode: Literal["reencode", "rotate"] = "reencode"
    grammar: bool = True
    scale: float = 1.0
    name: str = "x"
    hidden: tuple[int, ...] = ()


def test_a_form_makes_its_dataclass() -> None:
    made: list[Settings] = []
    view = form(Settings, submit=made.append)
    assert view.value == Settings()
    assert "hidden" not in view.controls
    box = view.controls["mode"].box
    box.value = "rotate"
    view.children[-2].click()
    assert made == [Settings(mode="rotate")]
    assert form(Settings, Settings(threshold=None)).value.threshold is None


def test_a_refused_form_says_why() -> None:
    def refuse(_: Settings) -> None:
        raise ValueError("threshold: 0 or more is wanted")

    view = form(Settings, submit=refuse)
    view.children[-2].click()
    assert "0 or more" in view.error.value


def test_a_page_holds_everything(trace: LiveTrace) -> None:
    page = widgets.render_page(trace.tables(), "A <run>", theme="dark")
    assert "A &lt;run&gt;" in page
    assert "<noscript>" in page
    assert "forty-two" in page
    for outside in ("http://", "https://", "src=", "@import"):
        assert outside not in page.replace("http://www.w3.org/2000/svg", ""), outside
    with pytest.raises(ValueError, match="theme"):
        widgets.render_page(trace.tables(), theme="blue")
