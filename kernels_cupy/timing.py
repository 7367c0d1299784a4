"""Times on a GPU: medians over CUDA-graph replays, buffers rotated so that nothing is read from
cache.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels_cupy.launch import Instance, LaunchPlan, i64, kernel, multiprocessors

Call = Callable[[], object]
L2_TIMES = 3  # rotated buffers hold at least so many times the L2
INSTANCES = (Instance("ceilings", "read_all"), Instance("ceilings", "copy_all"))


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of this card, measured in this run. A plain kernel that reads b bytes takes `floor(b)` at
    least.
    """

    read: float  # bytes a second, 4 GiB
    copy: float  # bytes read plus written a second
    matmul: float  # bf16 FLOP a second, 8192 cubed
    ramp: float  # seconds of a plain kernel beyond its bytes

    def floor(self, size: float) -> float:
        """Microseconds."""
        return 1e6 * (self.ramp + size / self.read)

    def arithmetic(self, flops: float) -> float:
        """Microseconds."""
        return 1e6 * flops / self.matmul


def copies(size: int, device: torch.device) -> int:
    """How many buffers of `size` bytes to rotate over."""
    l2 = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, min(64, math.ceil(L2_TIMES * l2 / max(size, 1))))


def graph_time(calls: Sequence[Call], target_ms: float = 4.0, repeats: int = 11) -> float:
    """Median microseconds of one call, many calls a replay in turn."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            for call in calls:
                call()
    torch.cuda.synchronize()
    each = max(_span(lambda: [call() for call in calls]) / len(calls), 2e-3)
    rounds = max(1, min(math.ceil(target_ms / each / len(calls)), 400 // len(calls) or 1))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    graph.replay()
    torch.cuda.synchronize()
    n = rounds * len(calls)
    return 1e3 * statistics.median(_span(graph.replay) / n for _ in range(repeats))


def eager_time(calls: Sequence[Call], repeats: int = 9) -> float:
    """Median microseconds of one call launched from Python: for what no graph can hold."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    spans = (_span(lambda: [call() for call in calls]) for _ in range(repeats))
    return 1e3 * statistics.median(s / len(calls) for s in spans)


def _span(work: Call) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop))


def measure_ceilings(device: torch.device) -> Ceilings:
    bandwidths = _bandwidths(device)  # its 4 GiB are free again before the products
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device=device) for _ in range(2))
    product = 2 * 8192**3 / eager_time([partial(torch.matmul, a, b)] * 8) * 1e6
    read, copy, small = bandwidths
    return Ceilings(read, copy, product, max(0.0, small * 1e-6 - (64 << 20) / read))


def _bandwidths(device: torch.device) -> tuple[float, float, float]:
    """Bytes a second of a read and of a copy of 4 GiB; microseconds of a read of 64 MiB."""
    big = torch.empty(4 << 30, dtype=torch.uint8, device=device).random_()
    sink = torch.zeros(1 << 16, dtype=torch.int32, device=device)
    half = big.view(2, -1)
    read = (4 << 30) / graph_time([partial(read_all, big, sink)], repeats=5) * 1e6
    copy = (4 << 30) / graph_time([partial(copy_all, half[0], half[1])], repeats=5) * 1e6
    return read, copy, graph_time([partial(read_all, p, sink) for p in big[: 1 << 30].view(16, -1)])


def read_all(x: Tensor, sink: Tensor) -> None:
    blocks = multiprocessors(x.device) * 4
    kernel("ceilings", "read_all", x.device)(
        LaunchPlan((blocks, 1, 1), 512), x, sink, i64(x.numel() // 16)
    )


def copy_all(x: Tensor, y: Tensor) -> None:
    blocks = multiprocessors(x.device) * 4
    kernel("ceilings", "copy_all", x.device)(
        LaunchPlan((blocks, 1, 1), 512), x, y, i64(x.numel() // 16)
    )
