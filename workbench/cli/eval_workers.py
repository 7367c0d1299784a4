"""Who carries out an evaluation: one process, or several that share its problems."""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench.cli.output import Failure, Progress, log, pairs
from workbench.cli.run import open_session
from workbench.cli.toolbox import tools_of

HANDED_ON = (
    "rows",
    "slots",
    "seconds",
    "tools",
    "budget",
    "model",
    "backend",
    "weights",
    "dtype",
    "window",
    "pages",
    "page_size",
    "lookup",
    "adapter",
    "peaks",
)  # options of a worker
SLOTS = {"cuda": 128, "torch-cuda": 64}  # runs at once by backend; 8 elsewhere


def worker(
    args: argparse.Namespace, plan: Sequence[Any], place: int, workers: int
) -> dict[str, Any]:
    """Carry out every n-th problem of each cell; all rows that are known then, by item."""
    from workbench.bench.eval_rows import counts, key_of, read_rows
    from workbench.bench.evaluate import Worker

    out = args.rows if workers == 1 else part(args.rows, place)
    rows = read_rows([args.rows, out]) if args.rows else {}
    known = dict(rows)
    mine = [item for item in in_order(plan) if share_of(item) % workers == place]
    if args.seconds == 0 or all(item.key in known for item in mine):
        return rows
    session = open_session(args, None, record=False, record_top=0, max_rows=slots(args))
    beside = None
    if args.peaks:
        parts = f"{args.peaks.stem}.*.jsonl"  # of the workers that write there now
        beside = lambda: read_rows([args.peaks, *args.peaks.parent.glob(parts)]).values()  # noqa: E731
    hand = Worker(
        session, slots(args), known, out, args.seconds,
        tools_of(args.tools), pairs(args.budget, "--budget"), args.curves, beside, log,
    )  # fmt: skip
    progress = Progress()
    try:
        for row in hand.carry_out(mine):
            if counts(row):
                rows[key_of(row)] = row
            progress.show(
                f"{len(rows) - len(known)} of {len(mine)} problems; {row['task']} {row['level']}"
                f" {row['arm']}: {row['answer']!r}, {row['wanted']!r} is right"
            )
    finally:
        session.close()
        progress.done()
    return rows


def slots(args: argparse.Namespace) -> int:
    if args.slots:
        return int(args.slots)
    from workbench.settings import Settings, resolve

    return SLOTS.get(resolve(Settings(backend=args.backend)).backend, 8)


def in_order(plan: Sequence[Any]) -> "Iterator[Any]":
    """A seed of every cell, then the next one: an evaluation that is cut short has whole tables of
    fewer problems. Items that two cells share come once."""
    seen: set[str] = set()
    for seed in sorted({seed for cell in plan for seed in cell.seeds}):
        for cell in plan:
            for item in cell.items(seed) if seed in cell.seeds else ():
                if item.key not in seen:
                    seen.add(item.key)
                    yield item


def share_of(item: Any) -> int:
    """Equal for all arms of one problem, so that one worker has them all."""
    return int(item.seed * 7 + item.place)


def part(rows: Path, place: int) -> Path:
    """Where a worker of several puts its rows."""
    return rows.with_name(f"{rows.stem}.{place}.jsonl")


def together(args: argparse.Namespace, plan: Sequence[Any]) -> dict[str, Any]:
    """Processes that share the problems; their rows end up in one file."""
    from workbench.bench.eval_rows import read_rows

    written = list(args.rows.parent.glob(f"{args.rows.stem}.*.jsonl"))
    gather(args.rows, written)
    wanted = args.rows.with_name(f"{args.rows.stem}.plan.json")
    wanted.write_text(json.dumps([cell.described() for cell in plan]))
    command = [sys.executable, "-m", "workbench.cli.main", "eval", f"--plan={wanted}"]
    for name in HANDED_ON:
        value = getattr(args, name)
        for one in value if isinstance(value, list) else [value]:
            if one not in (None, "", math.inf):
                command.append(f"--{name.replace('_', '-')}={one}")
    if args.curves:
        command.append("--curves")
    shares = range(args.jobs)
    processes = [
        subprocess.Popen([*command, f"--share={n}/{args.jobs}"], env=os.environ | device)
        for n, device in zip(shares, devices(args.devices, args.jobs), strict=True)
    ]
    ended = [process.wait() for process in processes]
    gather(args.rows, [part(args.rows, n) for n in shares])
    wanted.unlink()
    if any(ended):
        raise Failure(
            f"--jobs: {args.jobs} workers should have ended with 0, they ended with {ended}; what"
            f" they did is in {args.rows}"
        )
    return read_rows([args.rows])


def devices(wanted: str | None, jobs: int) -> list[dict[str, str]]:
    """What each worker's environment says of GPUs: they take turns at those that were named, or
    at all that this process sees."""
    from workbench.settings import this_machine

    seen = wanted or os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        seen = ",".join(map(str, range(this_machine().cuda_devices)))
    names = [name for name in seen.split(",") if name]
    if not names:
        return [{} for _ in range(jobs)]
    return [{"CUDA_VISIBLE_DEVICES": names[n % len(names)]} for n in range(jobs)]


def gather(rows: Path, parts: Sequence[Path]) -> None:
    """Put the parts' rows behind those in `rows`."""
    with rows.open("a") as file:
        for path in parts:
            if path.exists():
                file.write(path.read_text())
                path.unlink()
