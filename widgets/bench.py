"""Redraws measured in a real browser: opening a page, scrubbing, panning, selecting. Milliseconds.

A redraw is timed from the gesture to a read-back of one pixel of every canvas, so that the raster
is counted too. Frame intervals are what the reader sees while the cursor moves at display rate.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars")

MEASURE = """
async ([what, times]) => {
  const { view } = globalThis.reasoningWorkbench;
  const pixels = () => view.lanes.concat([{ canvas: view.el.over.firstChild }])
    .forEach((l) => l.canvas.getContext("2d").getImageData(0, 0, 1, 1));
  const n = view.run.n;
  const acts = {
    scrub: (i) => view.store.set({ step: Math.floor((n * i) / times) }),
    jump: (i) => view.store.set({ step: Math.floor((n * ((i * 37) % times)) / times) }),
    pan: (i) => {
      const from = view.axis.total * (0.2 + (0.4 * i) / times);
      view.showSpan(from, from + 0.1 * view.axis.total);
    },
    select: (i) => view.store.set({ node: (i * 7) % view.run.tables.nodes.n }),
  };
  const out = [];
  for (let i = 0; i < times; i++) {
    const start = performance.now();
    acts[what](i);
    cancelAnimationFrame(view.frame);
    view.frame = 0;
    view.redraw();
    pixels();
    out.push(performance.now() - start);
    if (i % 10 === 9) await new Promise((go) => setTimeout(go, 0));
  }
  view.store.set({ node: -1, view: null });
  return out;
}
"""

FRAMES = """
async (times) => {
  const { view } = globalThis.reasoningWorkbench;
  const out = [];
  let before = 0;
  for (let i = 0; i < times; i++) {
    view.seek(Math.floor((view.run.n * i) / times));
    const now = await new Promise(requestAnimationFrame);
    if (before) out.push(now - before);
    before = now;
  }
  return out;
}
"""


@contextmanager
def browser() -> Iterator[Any]:
    """The system's Chromium. RuntimeError says what is missing."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RuntimeError("chromium was wanted on the PATH, none is there; install it")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=list(ARGS))
        try:
            yield chromium
        finally:
            chromium.close()


def ready(page: Any, path: Path, timeout_s: float = 30) -> float:
    """Opens a rendered page from disk; milliseconds from navigation to the first picture."""
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("main[data-wb-ready]", timeout=1000 * timeout_s)
    return float(page.get_attribute("main", "data-wb-ready"))


def measure(
    path: Path, times: int = 200, width: int = 1440, height: int = 900
) -> dict[str, list[float]]:
    """Milliseconds by what was done, for a page that `render_page` made."""
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": height})
        found = {"open": [ready(page, path)]}
        for what in ("scrub", "jump", "pan", "select"):
            found[what] = page.evaluate(MEASURE, [what, times])
        found["frame while scrubbing"] = page.evaluate(FRAMES, times)
        return found


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
