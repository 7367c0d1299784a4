"""A notebook in a JupyterLab of its own, driven by the machine's browser: for what only a person at
a page sees."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTS_S = 60.0
ENDS_S = 15.0
ROOT = Path(__file__).parents[2]  # kernels import what this process imports
PARTS = ("CONFIG", "RUNTIME", "DATA")  # Jupyter's folders: none of the person's own settings


@contextmanager
def notebook(folder: Path, cells: Sequence[str]) -> Iterator[str]:
    """A server on `folder` with a notebook of `cells`; gives the notebook's address. RuntimeError
    when the server does not come up."""
    (folder / "live.ipynb").write_text(json.dumps(_document(cells)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    words = [
        f"--port={port}", "--port-retries=0", "--no-browser", "--allow-root", "--log-level=ERROR",
        "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    own = {f"JUPYTER_{part}_DIR": str(folder / ".jupyter" / part.lower()) for part in PARTS}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log = folder / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *words],
            cwd=folder,
            env={**os.environ, **own, "IPYTHONDIR": str(folder / ".ipython")},
            stdout=out,
            stderr=out,
        )
        try:
            _await(server, url, log)
            yield f"{url}/lab/tree/live.ipynb?reset"
        finally:
            server.terminate()  # its kernels end with it
            try:
                server.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                server.kill()


def open_and_run(page: Any, url: str, cells: int, timeout_s: float = 120) -> None:
    """Open the notebook and run its first `cells` cells; returns once a view stands.
    RuntimeError with the cell's words when one fails."""
    page.goto(url)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=1000 * timeout_s)
    page.wait_for_selector("text=/Python 3.*\\| Idle/", timeout=1000 * timeout_s)
    page.click(".jp-Notebook .jp-CodeCell .cm-content >> nth=0")
    for _ in range(cells):
        page.keyboard.press("Shift+Enter")
    wrong = ".jp-OutputArea [data-mime-type='application/vnd.jupyter.error']"
    page.wait_for_selector(f".wb-transport:not([hidden]), {wrong}", timeout=1000 * timeout_s)
    if page.locator(wrong).count():
        raise RuntimeError(f"a view was wanted, a cell failed: {page.inner_text(wrong)[-500:]}")
    page.evaluate("document.querySelector('.wb').scrollIntoView()")


def _document(cells: Sequence[str]) -> dict[str, Any]:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [
            {
                "cell_type": "code", "execution_count": None, "id": f"cell-{i}", "metadata": {},
                "outputs": [], "source": text,
            }
            for i, text in enumerate(cells)
        ],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip


def _await(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/api", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(
        f"a JupyterLab was wanted at {url}, none answered within {STARTS_S:.0f} s;"
        f" it said: {log.read_text()[-500:] or 'nothing'} (the extra [lab] brings it)"
    )
