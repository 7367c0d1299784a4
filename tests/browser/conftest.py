"""Pages of a made-up run in Chromium. Whatever leaves the machine, or fails, fails the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trace.synthetic import text_of, tim_run
from widgets.bench import browser, ready
from widgets.page import render_page
from workbench.trace.columns import Tables
from workbench.trace.recorder import Recorder


@pytest.fixture(scope="session")
def tables() -> Tables:
    recorder = Recorder(None, text_of)
    for event in tim_run(3000):
        recorder.emit(event)
    recorder.close()
    return recorder.live.tables()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="session")
def page_file(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "run.html"
    path.write_text(render_page(tables, "A made-up run"))
    return path


@pytest.fixture
def open_page(chromium: Any, page_file: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page at a width, in a colour scheme."""
    opened = []
    wrong: list[str] = []

    def go(
        width: int = 924, height: int = 700, scheme: str = "light", path: Path = page_file
    ) -> Any:
        page = chromium.new_page(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
        page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
        page.on(
            "request",
            lambda r: (
                r.url.startswith(("file:", "data:", "blob:")) or wrong.append(f"asked {r.url}")
            ),
        )
        opened.append(page)
        ready(page, path)
        page.wait_for_timeout(60)
        return page

    yield go
    for page in opened:
        page.close()
    assert wrong == []
