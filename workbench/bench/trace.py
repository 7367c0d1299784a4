"""`workbench bench trace`: what recording everything costs, and how fast a trace reads back.

The recorder's share is thread CPU time spent in `emit` (encoding and writing chunks included) over
that of all else in the same turn. Turns with and without a recorder alternate; the value is
the upper end of the mean share's 95 % interval, and two clock calls an event count against us.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from workbench.bench.ours import Ours
from workbench.bench.rows import Row
from workbench.events import Event
from workbench.trace.recorder import Recorder
from workbench.trace.trace import Trace

PAIRS = 20
FORMS = (("as loaded", "fp32", "cpu"), ("int4", "bf16", "cpu"), ("auto", "auto", "numba"))
TURN = 16


class Meter:
    """An `emit` that hands facts to a recorder, when it is on, and adds up the CPU time of that."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self.on = False
        self.seconds = 0.0

    def __call__(self, event: Event) -> None:
        if not self.on or self.recorder is None:
            return
        start = time.thread_time()
        self.recorder.emit(event)
        self.seconds += time.thread_time() - start


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bench.wbt")
        yield from (row.json() for row in recording(args, path))
        yield from (row.json() for row in reading(path))


def recording(args: argparse.Namespace, path: Path) -> Iterator[Row]:
    for weights, dtype, backend in FORMS:
        meter = Meter()
        ours = Ours.load(
            args.model, weights, dtype, pages=60, backend=backend, emit=meter, record_top=5
        )
        path.unlink(missing_ok=True)
        meter.recorder = Recorder(path, ours.model.tokenizer.token_bytes)
        meter.on = True
        ours.open(list(range(100, 228)))
        shares = []
        for _ in range(PAIRS):
            for on in (True, False):
                meter.on, meter.seconds = on, 0.0
                start = time.thread_time()
                ours.decode(TURN)
                total = time.thread_time() - start
                if on:
                    shares.append(meter.seconds / (total - meter.seconds))
        meter.on = True
        ours.close()
        meter.recorder.close()
        upper = mean(shares) + 1.96 * stdev(shares) / math.sqrt(len(shares))
        shape = f"decode, batch 1, top 5, {PAIRS} pairs"
        yield Row(
            "recording share", shape, ours.name, 100 * upper, "%", "not recording", 1 / (1 + upper),
        )  # fmt: skip


def reading(path: Path) -> Iterator[Row]:
    start = time.perf_counter()
    trace = Trace.open(path)
    count = sum(1 for _ in trace.events())
    seconds = time.perf_counter() - start
    yield Row("trace read", f"{count:,} events", "workbench", count / seconds, "events/s")
    start = time.perf_counter()
    trace.tables()
    seconds = time.perf_counter() - start
    yield Row("trace projected", f"{count:,} events", "workbench", count / seconds, "events/s")
