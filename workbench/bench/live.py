"""`workbench bench widgets --part live`: how soon a pause holds, and how soon a person sees it.

Handler to Paused is from the hand-in of the command to the engine's `RunPaused`, on one clock,
while decoding and while a long prompt is prefilled. Click to handler is from the browser's own
stamp of a mouse click on Pause, in a notebook in JupyterLab, to the command's arrival in the
kernel, by the machine's clock; click to picture to the first frame whose view says so. All on the
real model; `ratio` is the goal of 100 ms over what was measured.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from widgets.bench import browser, percentile
from workbench.bench.lab import notebook, open_and_run
from workbench.bench.rows import Row
from workbench.commands import Pause, Resume
from workbench.events import Event, RunPaused, StepEnded
from workbench.session import Session, open_workbench
from workbench.tasks.catalogue import task
from workbench.tools import Lookup

GOAL_MS = 100.0
SAMPLES = 40
PROMPT_TOKENS = 6000
LINKS, SEED = 80, 22  # a tree that goes on longer than the measurement

CELLS = (
    "import workbench\n"
    "from workbench.tasks.catalogue import task\n"
    "from workbench.tools import Lookup\n"
    "p = task('chain', {links}, {seed})\n"
    "tools = [Lookup(p.results, name=p.tool, parameter=p.parameter)]\n"
    "wb = workbench.open_workbench(model={model!r}, backend={backend!r}, threads={threads})",
    "import time\n"
    "obey = wb.submit\n"
    "def stamped(command):\n"
    "    with open({stamps!r}, 'a') as file:\n"
    "        print(type(command).__name__, time.time(), file=file)\n"
    "    return obey(command)\n"
    "wb.submit = stamped",
    "run = wb.run(p.prompt, strategy='tim', tools=tools)\nrun.show()",
)
STAMPS = "stamps.txt"

CLICKED = """
() => {
  const button = document.querySelector("[data-act=play]");
  const state = document.querySelector(".wb-state");
  globalThis.clicked = new Promise((done) => {
    button.addEventListener("click", (e) => {
      const seen = new MutationObserver(() => {
        if (!state.textContent.startsWith("Paused")) return;
        seen.disconnect();
        // the frame that holds the change is on the screen when the next one begins
        requestAnimationFrame(() => done({
          clicked: performance.timeOrigin + e.timeStamp, picture: performance.now() - e.timeStamp,
        }));
      });
      seen.observe(state, { childList: true, characterData: true, subtree: true });
    }, { once: true, capture: true });
  });
}
"""


class _Watch:
    """Sees the engine's facts on their way to the recorder."""

    def __init__(self, session: Session) -> None:
        self.paused: list[float] = []
        self.steps = 0
        self._tell = session.engine.tell
        session.engine.tell = self

    def __call__(self, event: Event) -> None:
        self._tell(event)
        if isinstance(event, RunPaused):
            self.paused.append(time.perf_counter())
        elif isinstance(event, StepEnded):
            self.steps += 1


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with open_workbench(model=args.model, backend=args.backend, threads=args.threads) as session:
        impl = f"{session.model.name}, {args.threads} thread{'s' * (args.threads > 1)}"
        watch = _Watch(session)
        found = {
            f"decode, chain of {LINKS} links": _decoding(session, watch),
            f"prefill of {PROMPT_TOKENS} tokens": _prefilling(session, watch),
        }
    for shape, values in found.items():
        yield from _told("pause, handler to Paused", shape, impl, values, GOAL_MS)
    handled, pictures = _clicks(args)
    where = "decode, JupyterLab"
    yield from _told("pause, click to handler", where, impl, handled, GOAL_MS)
    yield from _told("pause, click to picture", where, impl, pictures)


def _told(
    metric: str, shape: str, impl: str, values: list[float], goal: float | None = None
) -> Iterator[dict[str, Any]]:
    load = os.getloadavg()[0]
    shape = f"{shape}, {len(values)} samples, load {load:.1f}"
    for share in (0.5, 0.95):
        value = percentile(values, share)
        name = f"{metric} p{round(100 * share)}"
        beside = ("goal", goal / value) if goal else (None, None)
        yield Row(name, shape, impl, value, "ms", *beside).json()


def _pause(session: Session, watch: _Watch) -> float:
    """Milliseconds until the run holds."""
    before = len(watch.paused)
    start = time.perf_counter()
    session.submit(Pause()).result(60)
    while len(watch.paused) == before:
        time.sleep(0.0005)
    session.submit(Resume()).result(60)
    return 1000 * (watch.paused[-1] - start)


def _decoding(session: Session, watch: _Watch) -> list[float]:
    problem = task("chain", LINKS, SEED)
    tools = [Lookup(problem.results, name=problem.tool, parameter=problem.parameter)]
    run = session.run(problem.prompt, "tim", tools=tools)
    _until(lambda: watch.steps > 20)
    out: list[float] = []
    draw = random.Random(0)
    while len(out) < SAMPLES and not run.done:
        time.sleep(draw.uniform(0.02, 0.15))
        out.append(_pause(session, watch))
    run.cancel()
    _until(lambda: run.done)
    return out


def _prefilling(session: Session, watch: _Watch) -> list[float]:
    """A pass that is given up is done again, so that one long prompt serves many pauses."""
    draw = random.Random(1)
    vocabulary = session.model.tokenizer.vocab_size
    out: list[float] = []
    while len(out) < SAMPLES:
        ids = [draw.randrange(1000, vocabulary - 1000) for _ in range(PROMPT_TOKENS)]
        run = session.run("", "chain", ids=ids)
        before = session.counts(run)["sampled"]
        time.sleep(0.2)
        while len(out) < SAMPLES and not session.counts(run)["sampled"] > before:
            time.sleep(draw.uniform(0.02, 0.3))
            value = _pause(session, watch)
            if not session.counts(run)["sampled"]:
                out.append(value)
        run.cancel()
        _until(lambda run=run: run.done)
    return out


def _clicks(args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Milliseconds from clicks to their handler, and to their picture."""
    cells = [
        cell.format(
            links=LINKS,
            seed=SEED,
            model=args.model,
            backend=args.backend,
            threads=args.threads,
            stamps=STAMPS,
        )
        for cell in CELLS
    ]
    clicks = []
    with (
        tempfile.TemporaryDirectory() as folder,
        notebook(Path(folder), cells) as url,
        browser() as chromium,
    ):
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        open_and_run(page, url, len(cells))
        for _ in range(SAMPLES):
            _says(page, "Live")
            page.wait_for_timeout(120)
            page.evaluate(CLICKED)
            page.click("[data-act=play]")
            clicks.append(page.evaluate("() => globalThis.clicked"))
            page.click("[data-act=play]")
        lines = Path(folder, STAMPS).read_text().splitlines()
    stamps = [float(at) for kind, at in map(str.split, lines) if kind == Pause.__name__]
    handled = [1000 * at - click["clicked"] for at, click in zip(stamps, clicks, strict=True)]
    return handled, [click["picture"] for click in clicks]


def _says(page: Any, word: str) -> None:
    page.wait_for_function(
        "(word) => document.querySelector('.wb-state').textContent.startsWith(word)", arg=word
    )


def _until(reached: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"a run was wanted to go on within {seconds:.0f} s; it did not")
        time.sleep(0.005)
