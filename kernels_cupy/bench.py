"""`bench kernels`: each op against the floor of its bytes or FLOPs and against peers, in one run.

`python -m kernels_cupy.bench [--part decode,shared,…]` prints a JSON row a measurement: `value` and
`floor` in microseconds, `floor_ratio` = floor / value, `ratio` = the peer's time / ours.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kernels_cupy import bench_attention, bench_experts, bench_small, bridge
from kernels_cupy.bench_rows import Bench
from kernels_cupy.timing import measure_ceilings

SECTIONS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "decode": bench_attention.decode, "shared": bench_attention.shared,
    "prefill": bench_attention.prefill, "moe": bench_experts.moe, "compact": bench_small.compact,
    "sample": bench_small.sample, "small": bench_small.small,
}  # fmt: skip


def commit() -> str:
    """Of the checkout; WORKBENCH_COMMIT names it where git is not at hand."""
    if named := os.environ.get("WORKBENCH_COMMIT"):
        return named
    run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def facts(device: torch.device) -> dict[str, str]:
    """Where and when: the fields that every row bears."""
    return {
        "machine": os.uname().machine, "device": torch.cuda.get_device_name(device),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the sections in `args.part` (all without one), ceilings first."""
    sections = args.part.split(",") if args.part else list(SECTIONS)
    if unknown := [s for s in sections if s not in SECTIONS]:
        raise ValueError(f"bench kernels has the parts {', '.join(SECTIONS)}; got {unknown}")
    device = bridge.require()
    ceilings = measure_ceilings(device)
    where = facts(device)
    b = Bench(device, ceilings, where)
    for name, value, unit in (
        ("read", ceilings.read / 1e12, "TB/s"), ("copy", ceilings.copy / 1e12, "TB/s"),
        ("bf16 product", ceilings.matmul / 1e12, "TFLOP/s"), ("ramp", ceilings.ramp * 1e6, "us"),
    ):  # fmt: skip
        yield {
            "metric": "ceiling",
            "shape": name,
            "impl": "device",
            "value": round(value, 3),
            "unit": unit,
            **where,
        }
    for section in sections:
        yield from SECTIONS[section](b)
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default=None)
    for row in rows(parser.parse_args()):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
