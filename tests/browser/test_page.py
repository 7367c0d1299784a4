"""The static page in a browser: opens from disk alone, and does what the table of gestures says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from widgets.page import render_page
from workbench.trace.columns import Tables

pytestmark = pytest.mark.browser
Open = Callable[..., Any]
VIEW = "globalThis.reasoningWorkbench.view"


def ask(page: Any, what: str) -> Any:
    return page.evaluate(f"() => {{ const view = {VIEW}; return {what}; }}")


def settle(page: Any) -> None:
    page.evaluate(
        "() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
    )


def place(page: Any, lane: str, x: float, y: float = 0.5) -> tuple[float, float]:
    """A point in a lane, by shares of its plot."""
    box = page.query_selector(f".wb-lane.{lane} .wb-plot").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def test_it_opens_from_disk_and_asks_for_nothing(open_page: Open) -> None:
    page = open_page()
    assert page.inner_text(".wb-title") == "A made-up run"
    assert ask(page, "view.lanes.map((l) => l.name)") == [
        "overview", "ruler", "tree", "memory", "pool", "tokens", "steps",
    ]  # fmt: skip
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


def test_every_lane_has_ink(open_page: Open) -> None:
    page = open_page()
    ink = page.evaluate(
        """() => [...document.querySelectorAll('.wb-plot canvas')].map((c) => {
          const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
          const seen = new Set();
          for (let i = 0; i < data.length; i += 4) {
            if (data[i + 3]) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
          }
          return seen.size;
        })"""
    )
    assert min(ink) > 3, ink


@pytest.mark.parametrize(
    ("width", "form", "gutter"),
    [(1464, "wide", True), (924, "three", True), (720, "two", True), (444, "narrow", False)],
)
def test_the_form_follows_its_own_width(
    open_page: Open, width: int, form: str, gutter: bool
) -> None:
    page = open_page(width)
    assert page.get_attribute(".wb-frame", "data-form") == form
    plot = page.query_selector(".wb-lane.memory .wb-plot").bounding_box()
    name = page.query_selector(".wb-lane.memory .wb-gut").bounding_box()
    assert (name["x"] + name["width"] <= plot["x"] + 1) == gutter
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    over = page.query_selector(".wb-over canvas").bounding_box()
    assert abs(over["width"] - plot["width"]) <= 1
    assert abs(over["x"] - plot["x"]) <= 1


def test_light_and_dark(open_page: Open, tables: Tables, tmp_path: Path) -> None:
    dark = "getComputedStyle(document.querySelector('.wb-frame')).backgroundColor"
    assert open_page(scheme="light").evaluate(dark) == "rgb(255, 255, 255)"
    page = open_page(scheme="dark")
    assert page.evaluate(dark) == "rgb(23, 26, 31)"
    assert ask(page, "view.theme.dark") is True
    page.emulate_media(color_scheme="light")
    settle(page)
    assert ask(page, "view.theme.dark") is False
    forced = tmp_path / "forced.html"
    forced.write_text(render_page(tables, theme="dark"))
    assert ask(open_page(scheme="light", path=forced), "view.theme.dark") is True


def test_dragging_the_ruler_moves_the_cursor(open_page: Open) -> None:
    page = open_page()
    page.mouse.move(*place(page, "ruler", 0.2))
    page.mouse.down()
    first = ask(page, "view.state.step")
    page.mouse.move(*place(page, "ruler", 0.6), steps=5)
    page.mouse.up()
    settle(page)
    last = ask(page, "view.state.step")
    assert 0 < first < last
    assert page.get_attribute(".wb-over", "aria-valuenow") == str(last)
    assert f"step {last} of" in page.get_attribute(".wb-over", "aria-valuetext")
    assert page.inner_text(".wb-py code") == f"run.seek({last})"


def test_hover_shows_and_click_keeps(open_page: Open) -> None:
    page = open_page()
    bar = ask(page, "(({x0, x1, y, node}) => ({x: (x0 + x1) / 2, y, node}))(view.lane('tree').lane.bars.find((b) => b.depth === 1 && b.many === 1))")  # fmt: skip # noqa: E501
    box = page.query_selector(".wb-lane.tree .wb-plot").bounding_box()
    at = box["x"] + bar["x"], box["y"] + bar["y"] + 12
    page.mouse.move(*at)
    settle(page)
    path = ask(page, f"view.run.tables.nodes.path.get({bar['node']})")
    assert f", {path} " in page.inner_text(".wb-hover")
    page.mouse.click(*at)
    settle(page)
    assert ask(page, "view.state.node") == bar["node"]
    assert page.inner_text(".wb-crumb b").startswith(path)
    page.keyboard.press("Escape")
    assert ask(page, "view.state.node") == -1


def test_memory_and_pool_answer_with_their_owner(open_page: Open) -> None:
    page = open_page()
    for lane in ("memory", "pool"):
        page.mouse.move(*place(page, lane, 0.5, 0.97 if lane == "memory" else 0.02))
        settle(page)
        words = page.inner_text(".wb-hover")
        assert "in memory" in words if lane == "memory" else "page 0" in words


def test_shift_drag_brushes_and_counts(open_page: Open) -> None:
    page = open_page()
    page.keyboard.down("Shift")
    page.mouse.move(*place(page, "memory", 0.3))
    page.mouse.down()
    page.mouse.move(*place(page, "memory", 0.5), steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    settle(page)
    a, b = ask(page, "view.state.span")
    assert 0 < a < b
    assert page.inner_text(".wb-py code") == f"run[{a}:{b + 1}]"
    page.keyboard.press("Escape")
    assert ask(page, "view.state.span") is None


def test_the_unit_changes_and_keeps_cursor_and_selection(open_page: Open) -> None:
    page = open_page()
    ask(page, "(view.seek(900), view.select(2))")
    for unit in ("steps", "wall", "tokens"):
        page.click(f"[data-unit={unit}]")
        settle(page)
        assert ask(page, "[view.axis.unit, view.state.step, view.state.node]") == [unit, 900, 2]
        assert page.get_attribute(f"[data-unit={unit}]", "aria-pressed") == "true"


def test_zoom_pan_and_all(open_page: Open) -> None:
    page = open_page()
    page.mouse.move(*place(page, "memory", 0.5))
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    settle(page)
    v0, v1 = ask(page, "[view.axis.v0, view.axis.v1]")
    assert 0 < v0 < v1 < ask(page, "view.axis.total")
    page.mouse.move(*place(page, "memory", 0.9, 0.3))
    page.mouse.down()
    page.mouse.move(*place(page, "memory", 0.7, 0.3), steps=4)
    page.mouse.up()
    settle(page)
    assert ask(page, "view.axis.v0") > v0
    page.keyboard.press("0")
    settle(page)
    assert ask(page, "view.axis.whole")


def test_the_keys_of_the_table(open_page: Open) -> None:
    page = open_page()
    page.focus(".wb-over")
    press = page.keyboard.press
    press("Home")
    for _ in range(3):
        press("ArrowRight")
    press("Shift+ArrowRight")
    assert ask(page, "view.state.step") == 35
    press("ArrowLeft")
    press("b")
    press("s")
    press("Shift+ArrowRight")
    press("e")
    assert ask(page, "view.state.span") == [34, 66]
    press("Escape")
    press("Alt+,")
    assert ask(page, "view.state.step") == 34
    press("End")
    assert ask(page, "view.step") == ask(page, "view.run.n - 1")
    ask(page, "view.select(view.run.children[0][1])")
    press("[")
    assert ask(page, "view.state.node") == ask(page, "view.run.children[0][0]")
    press("ArrowUp")
    assert ask(page, "view.state.node") == 0
    press("ArrowDown")
    press("z")
    settle(page)
    assert not ask(page, "view.axis.whole")
    press("0")
    press("u")
    settle(page)
    assert ask(page, "view.axis.unit") == "steps"
    press("?")
    assert page.is_visible(".wb-sheet")
    press("Escape")
    assert not page.is_visible(".wb-sheet")
    press("t")
    assert page.is_visible("[role=tree]")
    press("ArrowDown")
    assert page.get_attribute("[role=tree]", "aria-activedescendant")


def test_enter_folds_a_bar(open_page: Open) -> None:
    page = open_page()
    page.focus(".wb-over")
    count = "view.lane('tree').lane.bars.reduce((n, b) => n + b.many, 0)"
    ask(page, "view.select(view.run.children[0][0])")
    before = ask(page, count)
    page.keyboard.press("Enter")
    settle(page)
    assert ask(page, count) < before
    page.keyboard.press("Enter")
    settle(page)
    assert ask(page, count) == before


def test_an_act_without_an_engine_says_why(open_page: Open) -> None:
    page = open_page()
    assert page.is_disabled("[data-act=prune]")
    assert "no engine behind this page" in page.inner_text(".wb-reason")
    page.focus(".wb-over")
    page.keyboard.press("p")
    settle(page)
    assert "Prune needs an engine" in page.inner_text(".wb-banner")


def test_a_token_of_the_text_shows_its_alternatives(open_page: Open) -> None:
    page = open_page()
    page.wait_for_timeout(200)
    token = page.query_selector_all(".wb-toks .tk")[4]
    row = int(token.get_attribute("data-row"))
    token.click()
    settle(page)
    assert ask(page, "view.inspector.row") == row
    assert page.query_selector_all(".wb-alt.sampled")
    assert (
        page.inner_text("section[aria-label=Token] h4")
        .replace("\u2009", "")
        .startswith(f"Token {row}")
    )


def test_as_text_says_what_the_lanes_say(open_page: Open, tables: Tables) -> None:
    page = open_page()
    page.click(".wb-text summary")
    settle(page)
    words = page.inner_text(".wb-textwrap").replace("\u2009", "")
    assert f"Memory peaks at {max(tables['steps']['resident'])} tokens" in words
    assert len(page.query_selector_all(".wb-textwrap tbody tr")) == tables["nodes"].rows


def test_a_lane_that_fails_fails_alone(open_page: Open) -> None:
    page = open_page()
    ask(page, "((view.lane('pool').lane.draw = () => { throw new Error('column owner has 190 rows'); }), view.ask('data'))")  # fmt: skip # noqa: E501
    settle(page)
    assert "column owner has 190 rows" in page.inner_text(".wb-lane.pool [role=alert]")
    assert len(page.query_selector_all("[role=alert]")) == 1
    assert ask(page, "view.lane('memory').failed") is False


def test_without_scripts_a_table_is_left(chromium: Any, page_file: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert "forty-two" in page.inner_text("noscript")
    assert len(page.query_selector_all("noscript tbody tr")) > 10
    context.close()
