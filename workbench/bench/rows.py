"""A measurement as a row, with where and when it was taken; and the pairing of turns."""

import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """`ratio` > 1: we are better than `peer`. `floor` is what the machine's memory would allow."""

    metric: str
    shape: str
    impl: str
    value: float
    unit: str
    peer: str | None = None
    ratio: float | None = None
    floor: float | None = None
    floor_ratio: float | None = None

    def json(self) -> dict[str, Any]:
        return {**asdict(self), **place()}


@cache
def place() -> Mapping[str, str | None]:
    return {
        "machine": f"{processor()}, {cores()} cores, {memory_gib()} GiB",
        "device": "cpu",
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            return round(int(line.split()[1]) / 2**20)
    return 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def commit() -> str | None:
    """Of the checkout that this file lies in; None for an installed wheel."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or None


@dataclass(frozen=True, slots=True)
class Turns:
    """Seconds a turn, by implementation; turn i of all was taken side by side."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, impl: str) -> float:
        return median(self.seconds[impl])

    def ratio(self, impl: str, peer: str) -> float:
        """How many times faster `impl` is: the median of the paired ratios."""
        pairs = zip(self.seconds[impl], self.seconds[peer], strict=True)
        return median(theirs / ours for ours, theirs in pairs)


CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def take_turns(
    impls: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1, clock: str = "wall",
    rest: float = 0.0,
) -> Turns:  # fmt: skip
    """Run each once a round, in an order that is turned by one each round. Clock "cpu" counts CPU
    seconds of this thread alone: for a machine that others use too, and for one thread only.
    `rest`: seconds before each turn, in which threads of the one before stop to wait for work."""
    now = CLOCKS[clock]
    names = list(impls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(rest)
            start = now()
            impls[name]()
            if turn >= 0:
                seconds[name].append(now() - start)
    return Turns(seconds)


def read_bandwidth(nbytes: int, rounds: int = 8, clock: str = "wall") -> float:
    """Bytes a second that one core reads from an array of `nbytes`: the best of several sums."""
    now = CLOCKS[clock]
    import torch

    data = torch.ones(max(nbytes // 8, 1), dtype=torch.int64)
    best = float("inf")
    for _ in range(rounds):
        start = now()
        data.sum()
        best = min(best, now() - start)
    return data.numel() * 8 / best
