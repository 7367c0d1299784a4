"""`workbench bench widgets`: how fast the views open and redraw, in the machine's own browser.

A made-up run of 100,000 tokens lies in a page on disk; every redraw is timed from the gesture to a
read-back of its pixels. `ratio` is 16 ms, a frame of the display, over what was measured.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from widgets.bench import measure, percentile
from widgets.page import render_page
from workbench.bench import live
from workbench.bench.rows import Row
from workbench.trace.columns import Tables
from workbench.trace.recorder import Recorder
from workbench.trace.trace import Trace

MADE_UP = Path(__file__).parents[2] / "tests/unit/trace/synthetic.py"  # not in the wheel
FRAME_MS = 16.0
OPEN_MS = 1000.0
TOKENS = 100_000
TRACE = Path("binder/traces/first_run.wbt")  # the demo's


def made_up(tokens: int) -> Tables:
    """Tables of a made-up tree with prunes, of the tests' simulator."""
    spec = importlib.util.spec_from_file_location("made_up", MADE_UP)
    if not MADE_UP.exists() or spec is None or spec.loader is None:
        raise FileNotFoundError(
            f"{MADE_UP} was wanted for a long run; run this bench in a checkout of the repository"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    recorder = Recorder(None, module.text_of)
    for event in module.tim_run(tokens, pages=2048):
        recorder.emit(event)
    recorder.close()
    return recorder.live.tables()


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Part "live": pauses of a running engine. Else, redraws of recorded runs."""
    if args.part == "live":
        yield from live.rows(args)
        return
    pages = {f"made-up, {TOKENS} tokens": made_up(TOKENS)}
    if TRACE.exists():
        pages["the demo's run"] = Trace.open(TRACE).tables()
    with tempfile.TemporaryDirectory() as folder:
        for shape, tables in pages.items():
            path = Path(folder, "page.html")
            path.write_text(render_page(tables))
            found: dict[str, list[float]] = {}
            for _ in range(max(1, args.rounds)):
                for name, values in measure(path).items():
                    found.setdefault(name, []).extend(values)
            for name, values in found.items():
                goal = OPEN_MS if name == "open" else FRAME_MS
                for share in (0.5, 0.95):
                    value = percentile(values, share)
                    metric = f"{name} p{round(100 * share)}"
                    yield Row(metric, shape, "widgets", value, "ms", "goal", goal / value).json()
