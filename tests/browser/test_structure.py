"""The structure editor in Chromium: keys, pointer and fields change the declaration, both ways."""

from collections.abc import Iterator
from typing import Any

import pytest

from widgets.gallery import SAMPLE, TOOLS, mount
from workbench.reasoning.structures import Structure
from workbench.session.editing import judge

pytestmark = pytest.mark.browser

SMALL = {
    "types": [
        {"name": "plan", "about": "", "tools": [], "must_call": False, "subtasks": "step"},
        {"name": "step", "about": "", "tools": [], "must_call": False, "subtasks": None},
    ],
    "reasoning": {"list": "plan", "least": 1, "most": None},
    "answer": None,
}


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    wrong: list[str] = []
    page = chromium.new_page(viewport={"width": 1000, "height": 900})
    page.on("pageerror", lambda e: wrong.append(str(e)))
    mount(page, {"value": SMALL, "report": judge(SMALL)})
    yield page
    page.close()
    assert wrong == []


def value(page: Any) -> dict[str, Any]:
    """What the widget saved last; it is judged as the kernel would."""
    found: dict[str, Any] = page.evaluate("model.get('value')")
    page.evaluate("(r) => model.set('report', r)", judge(found))
    assert page.evaluate("model.saved.at(-1)") == found
    return found


def row(list_: str, path: str) -> str:
    return f'[data-list="{list_}"] [data-path="{path}"]'


def test_keys_build_a_list(page: Any) -> None:
    page.focus(row("plan", ""))
    page.keyboard.press("l")
    assert value(page)["types"][0]["subtasks"] == {"list": "step", "least": 1, "most": None}
    page.keyboard.press("Enter")  # behind it: both in a row
    found = value(page)["types"][0]["subtasks"]
    assert [type(part) for part in found["sequence"]] == [dict, str]
    assert page.evaluate("document.activeElement.dataset.path") == "1"
    page.keyboard.press("c")
    page.keyboard.press("Alt+ArrowUp")
    found = value(page)["types"][0]["subtasks"]["sequence"]
    assert found[0] == {"choice": ["plan"]} and found[1]["list"] == "step"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.path") == "0.0"
    page.keyboard.press("Delete")  # the choice held nothing else: it goes too
    assert len(value(page)["types"][0]["subtasks"]["sequence"]) == 1
    for _ in range(5):
        page.keyboard.press("Control+z")
    assert value(page) == SMALL
    page.keyboard.press("Control+Shift+z")
    assert value(page)["types"][0]["subtasks"]["list"] == "step"


def test_pointer_and_fields(page: Any) -> None:
    page.click("text=Add a task type")
    page.keyboard.type("check")
    page.keyboard.press("Enter")
    assert value(page)["types"][2]["name"] == "check"
    page.fill('[data-list="check"] .about', "Is it right?")
    page.keyboard.press("Tab")
    page.click('[data-list="check"] .chip:text("lookup")')
    page.check('[data-list="check"] input[type=checkbox]')
    page.select_option(f"{row('reasoning', '0')} select", "choice")
    page.click(f"{row('reasoning', '0')} [aria-label='add one inside']")
    page.select_option(f"{row('reasoning', '0.1')} select", "task:check")
    page.fill(f"{row('reasoning', '')} [aria-label='at most']", "4")
    page.keyboard.press("Tab")
    found = Structure.read(value(page))
    check = found.types[2]
    assert (check.about, check.tools, check.must_call) == ("Is it right?", ("lookup",), True)
    assert found.json["reasoning"] == {"list": {"choice": ["plan", "check"]}, "least": 1, "most": 4}
    assert "class Check(TaskClass):" in page.inner_text(".wb-ssource")
    assert "Ready" in page.inner_text(".wb-state")


def test_a_type_keeps_its_uses_when_renamed_and_cannot_go_while_used(page: Any) -> None:
    page.fill('[data-list="step"] .name', "act")
    page.keyboard.press("Tab")
    found = value(page)
    assert found["types"][0]["subtasks"] == "act" and not judge(found)["why"]
    assert page.is_disabled("[aria-label='remove act']")
    page.click(f"{row('plan', '')} [aria-label='remove']")
    assert value(page)["types"][0]["subtasks"] is None
    page.click("[aria-label='remove act']")
    assert [t["name"] for t in value(page)["types"]] == ["plan"]


def test_what_is_wrong_is_said(page: Any) -> None:
    page.select_option(f"{row('plan', '')} select", "task:plan")
    value(page)
    assert "plan always hold another of themselves" in page.inner_text(".wb-swhy")
    assert "Not a structure yet" in page.inner_text(".wb-state")
    assert page.inner_text("[role=status].wb-sr").startswith("plan")
    page.click("text=Undo")
    value(page)
    assert not page.is_visible(".wb-swhy")


def test_python_sets_it_and_the_theme(page: Any) -> None:
    page.evaluate("(v) => model.set('value', v)", SAMPLE)
    assert page.locator(".wb-stype").count() == 1 + len(SAMPLE["types"])
    assert page.evaluate("model.saved.length") == 0, "what came from Python is not sent back"
    assert page.locator('[data-list="read"] .chip').all_inner_texts() == list(TOOLS)
    page.evaluate("model.set('theme', 'dark')")
    assert page.evaluate("getComputedStyle(document.querySelector('.wb')).colorScheme") == "dark"


def test_rows_are_a_tree_with_one_stop(page: Any) -> None:
    page.evaluate("(v) => model.set('value', v)", SAMPLE)
    tree = page.locator('[data-list="research"] [role=tree]')
    assert "1 to 3 search, then" in tree.get_attribute("aria-label")
    levels = [r.get_attribute("aria-level") for r in tree.locator("[role=treeitem]").all()]
    assert levels == ["1", "2", "3", "2", "3", "4", "4", "2", "3"]
    page.focus(row("research", "1.0"))
    stops = tree.locator("[role=treeitem][tabindex='0']")
    assert stops.count() == 1 and stops.get_attribute("data-path") == "1.0"
    low = "(all) => all.filter((e) => e.getBoundingClientRect().height < 24).length"
    small = page.eval_on_selector_all(".wb button, .wb select, .wb input:not([type=checkbox])", low)
    assert small == 0, "targets are large enough"


def test_two_views_open_and_close_and_leave_nothing(page: Any) -> None:
    page.evaluate("() => { globalThis.second = open(); }")
    assert page.evaluate("document.querySelectorAll('.wb').length") == 2
    page.focus(row("plan", ""))
    page.keyboard.press("l")
    assert page.locator(row("plan", "0")).count() == 2, "both views follow"
    page.evaluate("() => { close(); second(); }")
    assert page.evaluate("model.listening") == 0
    assert page.evaluate("document.body.children.length") == 0
