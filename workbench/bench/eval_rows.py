"""Rows of an evaluation: read again, counted, compared. One row a problem and arm."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from workbench.bench.arms import Cell

Row = dict[str, Any]
CUT = "cut"  # how a run ended that was given up when the time was over
FAILED = "failed"  # how one ended that the engine failed: nothing is known of its answer
Z95 = 1.959964


def read_rows(paths: Iterable[Path]) -> dict[str, Row]:
    """Rows of earlier runs by item; those without an answer are to be run again, and a line that
    a kill cut short is passed over."""
    rows: dict[str, Row] = {}
    for path in paths:
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if counts(row):
                rows[key_of(row)] = row
    return rows


def counts(row: Row) -> bool:
    """Whether a row is an answer, right or wrong."""
    return row["finish"] not in (CUT, FAILED)


def key_of(row: Row) -> str:
    """The key of the item that a row is of."""
    params = json.dumps(row["params"], sort_keys=True)
    cell = f"{row['task']} {row['level']} {row['arm']} {params}"
    return f"{cell} {row['seed']} {row['place']}"


def cell_row(cell: Cell, seed: int | None, rows: Sequence[Row], model: str, jobs: int) -> Row:
    """What `workbench eval --json` prints of a seed, or (None) of all of them."""
    n, good = len(rows), sum(row["right"] for row in rows)
    total = {key: sum(row[key] for row in rows) for key in ("sampled", "computed", "reused")}
    wall = sum(row["share_s"] for row in rows) / jobs
    prefixes = [row["prefix"] for row in rows if "prefix" in row]  # rows of older runs have none
    return {
        "task": cell.task,
        "level": cell.level,
        "arm": cell.arm.name,
        "strategy": cell.arm.strategy,
        "params": dict(cell.params),
        "model": model,
        "n": n,
        "seed": seed,
        "accuracy": good / n,
        "ci95": wilson(good, n),
        "prefix_accuracy": mean(prefixes) if prefixes else None,
        "tokens": {**total, "scorer": 0},
        "tok_s": total["sampled"] / wall,
        "peak_kv_tokens": max(row["peak"] for row in rows),
        "mean_peak_kv_tokens": mean(row["peak"] for row in rows),
        "reencoded_share": sum(row["reencoded"] for row in rows) / max(1, total["sampled"]),
        "calls": sum(row["calls"] for row in rows),
        "errors": dict(Counter(row["slip"] for row in rows if not row["right"])),
        "wall_s": wall,
        "backend": rows[-1]["backend"],
        "device": rows[-1]["device"],
    }


def wilson(good: int, n: int) -> list[float]:
    """Wilson's 95 % interval of a share: honest at 0 and at n of n too."""
    p, z2 = good / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def paired(ours: Mapping[str, Row], theirs: Mapping[str, Row]) -> Row:
    """Difference of two arms' accuracies on the same problems, with its 95 % interval (normal,
    from the discordant pairs)."""
    both = sorted(set(ours) & set(theirs))
    n = len(both)
    gained = sum(ours[key]["right"] and not theirs[key]["right"] for key in both)
    lost = sum(theirs[key]["right"] and not ours[key]["right"] for key in both)
    difference = (gained - lost) / n
    half = Z95 * math.sqrt(max(0.0, (gained + lost) / n - difference**2) / n)
    return {
        "n": n, "difference": difference, "ci95": [difference - half, difference + half],
        "gained": gained, "lost": lost,
        "peak_share": sum(ours[key]["peak"] for key in both) / sum(theirs[k]["peak"] for k in both),
    }  # fmt: skip
