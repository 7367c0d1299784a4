"""Every notebook is a page: executed, its facts compared, and held to the manners of a page."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))
DOORS = {"workbench", "widgets", "kernels_cupy"}

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def cells(page: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(page.read_text())["cells"]
    return found


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code(page: Path) -> list[str]:
    return [source(cell) for cell in cells(page) if cell["cell_type"] == "code"]


def test_there_is_a_first_run() -> None:
    assert [page.name for page in PAGES][:1] == ["01_first_run.ipynb"]


@pytest.mark.notebooks
@by_page
def test_it_runs_and_its_facts_hold(page: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", str(page), "-q"]
    command += ["--nbval-cell-timeout=120", "-p", "no:cacheprovider", "-p", "no:xdist"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [*command, "-o", "addopts=", "-o", "filterwarnings="],
        cwd=page.parent,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-2000:]


@by_page
def test_text_and_page_are_one(page: Path) -> None:
    text = jupytext.read(page.with_suffix(".py"))
    assert [(c.cell_type, c.source) for c in text.cells] == [
        (c["cell_type"], source(c)) for c in cells(page)
    ]


@by_page
def test_no_widget_state_is_stored(page: Path) -> None:
    raw = page.read_text()
    assert "widgets" not in json.loads(raw)["metadata"]
    assert "vnd.jupyter.widget" not in raw
    assert len(raw) < 200_000


@by_page
def test_it_reads_like_a_page(page: Path) -> None:
    """Setup in two lines, a picture by the third code cell, short cells, each after its question."""
    blocks = code(page)
    assert len(blocks[0].splitlines()) <= 2
    assert any(".show()" in block or "widgets." in block for block in blocks[1:3])
    for block in blocks:
        assert len(block.splitlines()) <= 8, block
        assert "def " not in block
    before = None
    for cell in cells(page):
        if cell["cell_type"] == "code":
            assert before is not None
            assert "?" in before
        before = source(cell) if cell["cell_type"] == "markdown" else None


@by_page
def test_it_uses_the_front_doors_alone(page: Path) -> None:
    for block in code(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= DOORS
            assert not isinstance(node, ast.ImportFrom)


@by_page
def test_it_opens_on_a_recording(page: Path) -> None:
    whole = "\n".join(code(page))
    assert "live = False" in whole
    assert "binder/traces/" in whole
