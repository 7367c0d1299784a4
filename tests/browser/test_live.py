"""A run in JupyterLab: a cell opens it, real clicks drive it over a real comm."""

from collections.abc import Iterator
from typing import Any

import pytest

from workbench.bench.lab import notebook, open_and_run

pytestmark = pytest.mark.browser

OPEN = "from tests.browser.scripted import session, start\nwb = session()"
SHOW = "run = start(wb)\nrun.show()"
CANCEL = "run.cancel(); run.wait(20).finish"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("jupyterlab")
    with notebook(tmp_path_factory.mktemp("lab"), [OPEN, SHOW, CANCEL]) as found:
        yield found


@pytest.fixture
def live(chromium: Any, url: str) -> Iterator[Any]:
    page = chromium.new_page(viewport={"width": 1300, "height": 1100}, reduced_motion="reduce")
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    open_and_run(page, url, cells=2)
    yield page
    page.close()
    assert wrong == []


def says(page: Any, selector: str, words: str) -> None:
    """Waits for the words; fails with what stands there instead."""
    try:
        page.wait_for_function(
            "([s, w]) => document.querySelector(s)?.textContent.includes(w)",
            arg=[selector, words],
            timeout=10_000,
        )
    except Exception as late:
        raise AssertionError(
            f"{words!r} was wanted in {selector}: {page.text_content(selector)!r}"
        ) from late


def number(page: Any, selector: str) -> int:
    digits = "".join(c for c in page.text_content(selector).split("/")[0] if c.isdigit())
    return int(digits)


def newest(page: Any) -> int:
    return int(page.get_attribute(".wb-over", "aria-valuemax"))


def stepped(page: Any, stood: int) -> None:
    """Wait until a run that stood has gone on and stands again. Before its first step has been
    told, the picture still says "Paused" of the pause before."""
    page.wait_for_function(f"() => +document.querySelector('.wb-over').ariaValueMax > {stood}")
    settle(page)


def settle(page: Any) -> None:
    """Wait until a stepping run stands: the last of its news may come behind the pause."""
    says(page, ".wb-state", "Paused")
    before = -1
    while before != newest(page):
        before = newest(page)
        page.wait_for_timeout(300)


def ink(page: Any, lane: str) -> str:
    """The lane's pixels."""
    return page.evaluate(f"document.querySelector('.wb-lane.{lane} canvas').toDataURL()")


def test_pause_prune_fork_and_resume_by_clicks(live: Any) -> None:
    page = live
    page.wait_for_function(
        "() => +document.querySelector('.wb-over').getAttribute('aria-valuemax') > 245",
        timeout=30_000,
    )
    page.click("[data-act=play]")
    settle(page)
    stands = newest(page)
    page.wait_for_timeout(300)
    assert newest(page) == stands, "a paused run takes no step"

    page.focus(".wb-over")
    page.keyboard.press(".")
    stepped(page, stands)
    assert newest(page) == stands + 1
    page.keyboard.press("o")
    stepped(page, stands + 1)
    says(page, ".wb-crumb .wb-badge", "closed")

    # the list is still being written; its finished part can leave
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    says(page, ".wb-crumb .wb-badge", "open")
    page.hover("button[data-act=prune]")
    effect = page.text_content(".wb-say")
    assert "Prune would free" in effect
    promised = int("".join(c for c in effect.split("token")[0] if c.isdigit()))
    held, tree, memory = number(page, ".wb-lane.memory .v"), ink(page, "tree"), ink(page, "memory")
    page.click("button[data-act=prune]")
    says(page, ".wb-sr", "Prune: done")
    says(page, ".wb-say", "left memory already")
    for _ in range(50):  # the prune's own news may be drawn a frame after its answer
        if number(page, ".wb-lane.memory .v") == held - promised:
            break
        page.wait_for_timeout(100)
    assert number(page, ".wb-lane.memory .v") == held - promised
    assert ink(page, "tree") != tree and ink(page, "memory") != memory

    page.click("button[data-act=pin]")
    says(page, ".wb-crumb .wb-badge", "pinned")
    page.click("button[data-act=note]")
    page.keyboard.type("seen")
    page.keyboard.press("Enter")
    says(page, ".wb-sr", "Note: done")

    # another token than the sampled one, inside the newest title: both branches go on
    page.focus(".wb-over")
    page.keyboard.press("Escape")
    while "thought" not in page.text_content(".wb-lane.tree .u"):
        page.keyboard.press("ArrowLeft")
    before = page.locator(".wb-lane.tree").bounding_box()["height"]
    page.locator("button.wb-alt:enabled").first.click()
    says(page, ".wb-sr", "Fork: done")
    page.keyboard.press("End")
    page.click("[data-act=play]")
    says(page, ".wb-state", "Live")
    page.wait_for_function(
        f"() => +document.querySelector('.wb-over').ariaValueMax > {stands + 40}"
    )
    assert page.locator(".wb-lane.tree").bounding_box()["height"] > before, "a track for the fork"

    # scroll away, come back
    page.focus(".wb-over")
    page.keyboard.press("Shift+ArrowLeft")
    says(page, ".wb-state", "looking back")
    page.click(".wb-btn.follow")
    says(page, ".wb-state", "Live, step")

    # a refusal says why: this node is open, and nothing in it is finished
    page.click("[data-act=play]")
    says(page, ".wb-state", "Paused")
    page.click(".jp-CodeCell >> nth=2 >> .cm-content")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector("text=Finish.CANCELLED", timeout=20_000)
    says(page, ".wb-state", "Done")
