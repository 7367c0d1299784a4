"""Which kernels a step runs, and whose they are: torch's profiler over a few steps."""

import re
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

CUBLAS = re.compile(r"gemm|gemv|nvjet|cutlass|cublas|splitKreduce", re.IGNORECASE)


def own_names() -> frozenset[str]:
    """Entries of our device sources."""
    from kernels_cupy.table import INSTANCES

    return frozenset(instance.entry for instance in INSTANCES)


def whose(kernel: str, own: frozenset[str]) -> str:
    if kernel.split("(")[0].split("<")[0].split()[-1] in own:
        return "ours"
    if CUBLAS.search(kernel):
        return "cuBLAS"
    if kernel.startswith(("Memcpy", "Memset")):
        return "copies"
    return "torch"


def profiled(work: Callable[[], object], steps: int) -> dict[str, Any]:
    """One row: `value` is the share, in percent, of a step's device time that is in our kernels and
    cuBLAS's; `kernels` lists microseconds and calls a step, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    own = own_names()
    spent: dict[str, float] = defaultdict(float)
    table = []
    for event in seen.key_averages():
        us = float(event.self_device_time_total) / steps
        if us <= 0:
            continue
        owner = whose(event.key, own)
        spent[owner] += us
        table.append(
            {
                "kernel": event.key[:96],
                "whose": owner,
                "us": round(us, 2),
                "calls": round(event.count / steps, 2),
            }
        )
    table.sort(key=lambda entry: -float(str(entry["us"])))
    total = sum(spent.values()) or 1.0
    share = 100 * (spent["ours"] + spent["cuBLAS"]) / total
    for entry in table[:14]:
        sys.stderr.write(
            f"{entry['us']:9} us {entry['calls']:6} x {entry['whose']:7}{entry['kernel']}\n"
        )
    return {
        "metric": "kernels of a decode step", "impl": "ours and cuBLAS", "value": round(share, 2),
        "unit": "%", "device_us": round(total, 1),
        "spent_us": {key: round(us, 1) for key, us in sorted(spent.items())},
        "kernels": table[:40],
    }  # fmt: skip
