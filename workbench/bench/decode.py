"""`workbench bench decode`: tokens a second of whole nets of a published shape, random weights.

The engine itself decodes: scheduling, the net, sampling and all bookkeeping are in the time, which
is a clock's on the wall over many steps. `floor` is what reading every weight and KV entry of a
step once would allow at the bandwidth measured in the same run. Peers run on the same shape, type
and card.
"""

import argparse
import gc
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch

from kernels_cupy.bench import facts
from kernels_cupy.timing import Ceilings, measure_ceilings
from workbench.bench.hf_decode import HfDecode
from workbench.bench.ours import Ours, replays
from workbench.bench.profile import profiled
from workbench.bench.random_net import random_model, two_byte_sizes
from workbench.engine.protocols import Until
from workbench.engine.sequence import Branch
from workbench.events import Event, StepEnded
from workbench.model.shape import ModelShape

SHAPES = ("qwen3-8b", "qwen3-30b-a3b")
BATCHES = (1, 8, 64)
CONTEXT, STEPS, WARM, REPEATS = 4096, 64, 12, 3
WAYS: Mapping[str, Callable[[HfDecode, int, int], tuple[str, float]]] = {
    "static": HfDecode.static_graph,
    "continuous": HfDecode.continuous,
    "compiled": HfDecode.compiled,
}
PEER_S = {"static": 30.0, "continuous": 25.0, "compiled": 150.0}
PARTS = (*WAYS, "ours", "profile")
PAGE = 16


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of `args.shape` (all without one). `args.part` names some of `PARTS`; all but
    "compiled", which takes a minute a batch, without it. Each peer has `PEER_S` seconds a batch."""
    from kernels_cupy import bridge

    parts = args.part.split(",") if args.part else [p for p in PARTS if p != "compiled"]
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"bench decode has the parts {', '.join(PARTS)}; got {unknown}")
    device = bridge.require()
    where = facts(device)
    batches = tuple(map(int, args.batches.split(","))) if args.batches else BATCHES
    ceilings = measure_ceilings(device)
    for name in [args.shape] if args.shape else SHAPES:
        fitting = [batch for batch in batches if _fits(name, batch)]
        if not fitting:
            sys.stderr.write(f"{name}: weights and KV do not fit on this card\n")
            continue
        best: dict[int, tuple[str, float]] = {}
        for row in peers(name, fitting, [way for way in WAYS if way in parts]):
            batch, value = int(row["batch"]), float(row["value"])
            best[batch] = max(best.get(batch, ("", 0.0)), (row["impl"], value), key=_second)
            yield {**row, **where}
        _empty()
        for row in ours(name, ceilings, parts, fitting):
            row["peer"], row["ratio"] = _against(row, best)
            yield {**row, **where}
        _empty()


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _against(
    row: dict[str, Any], best: dict[int, tuple[str, float]]
) -> tuple[str | None, float | None]:
    if row["unit"] != "tok/s" or row["batch"] not in best:
        return None, None
    name, value = best[row["batch"]]
    return name, round(row["value"] / value, 3)


class Decoding:
    """An engine with as many branches of 4k random tokens as the largest batch; nothing shared."""

    def __init__(self, name: str, batch: int, room: int = 512, chunk: int = 4096) -> None:
        self.model = random_model(name)
        self.shape: ModelShape = self.model.shape
        self.events: list[StepEnded] = []
        pages = batch * -(-(CONTEXT + room) // PAGE) + 8
        self.ours = Ours(
            self.model, pages, emit=self._emit, max_rows=batch, chunk=chunk, device_sample=True
        )
        request = self.ours.new_request()
        self.branches: list[Branch] = []
        draw = random.Random(0)
        before = CONTEXT - WARM - REPEATS * STEPS // 2  # so that the timed steps lie around 4k
        for _ in range(batch):
            ids = [draw.randrange(1, self.shape.vocabulary) for _ in range(before)]
            opened = self.ours.engine.open(ids, request=request, share=False)
            self.branches.append(self.ours.wait(opened))

    def _emit(self, event: Event) -> None:
        if isinstance(event, StepEnded):
            self.events.append(event)

    def steps(self, batch: int, n: int) -> float:
        """Seconds of `n` steps of the first `batch` branches."""
        torch.cuda.synchronize()
        begin = time.perf_counter()
        until = Until(max_tokens=n, eos=False)
        self.ours.wait(self.ours.engine.decode(self.branches[:batch], until=until))
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    def context(self, batch: int) -> float:
        """Mean entries of the first `batch` branches."""
        return sum(branch.length for branch in self.branches[:batch]) / batch

    def close(self) -> None:
        self.ours.close()


def ours(
    name: str, ceilings: Ceilings, parts: Sequence[str], batches: Sequence[int]
) -> Iterator[dict[str, Any]]:
    if "ours" not in parts and "profile" not in parts:
        return
    largest = max(batches)
    began = time.perf_counter()
    decoding = Decoding(name, largest)
    took = time.perf_counter() - began
    sys.stderr.write(f"{name}: loaded and {largest} x {CONTEXT} tokens read in {took:.1f} s\n")
    for batch in batches:
        decoding.steps(batch, WARM)
        if "ours" in parts:
            yield _timed(name, decoding, batch, ceilings)
        if "profile" in parts:
            yield profiled(partial(decoding.steps, batch, 8), 8) | _base(name, batch)
    decoding.close()


def _timed(name: str, decoding: Decoding, batch: int, ceilings: Ceilings) -> dict[str, Any]:
    seconds = []
    decoding.events.clear()
    before = replays(decoding.ours.engine)
    begin = decoding.context(batch)
    for _ in range(REPEATS):
        seconds.append(decoding.steps(batch, STEPS) / STEPS)
    steps = [e for e in decoding.events if e.decode == batch]
    each = median(seconds)
    context = round((begin + decoding.context(batch)) / 2)
    size = step_bytes(decoding.shape, batch, context)
    floor, value = batch * ceilings.read / size, batch / each
    parts = (
        {
            f"{key}_ms": round(1e3 * median(getattr(e, f"{key}_s") for e in steps), 3)
            for key in ("plan", "forward", "sample")
        }
        if steps
        else {}
    )
    return _base(name, batch) | {
        "metric": "decode", "impl": decoding.ours.name, "value": round(value, 1), "unit": "tok/s",
        "floor": round(floor, 1), "floor_ratio": round(value / floor, 3),
        "ms": round(1e3 * each, 3), "bytes": size, "context": context,
        "spread": [round(1e3 * s, 3) for s in sorted(seconds)], **parts,
        "graphs": _since(before, replays(decoding.ours.engine)),
    }  # fmt: skip


def _since(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Counts of the steps in between."""
    return {key: n - before.get(key, 0) for key, n in after.items() if isinstance(n, int)}


def _base(name: str, batch: int) -> dict[str, Any]:
    return {"shape": f"{name}, batch {batch}, {CONTEXT} context", "batch": batch,
            "peer": None, "ratio": None, "floor": None, "floor_ratio": None}  # fmt: skip


def step_bytes(shape: ModelShape, batch: int, context: int) -> int:
    """Bytes that a step reads at least: weights (of experts, those that the rows hit at most) and
    KV entries, in two-byte types; of the embedding only its rows."""
    s = shape
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    layer = s.width * (2 * q + 2 * kv)
    if s.moe is not None:
        hit = min(s.moe.count, batch * s.moe.k)
        layer += hit * 3 * s.width * s.moe.ffn + s.moe.count * s.width
    else:
        layer += 3 * s.width * s.ffn
    entries = batch * context * 2 * kv
    return 2 * (s.layers * (layer + entries) + s.vocabulary * s.width)


def _fits(name: str, batch: int) -> bool:
    """Whether weights and KV leave a tenth of the card free."""
    weights, token = two_byte_sizes(name)
    need = weights + batch * (CONTEXT + 512) * token
    return need < 0.9 * torch.cuda.get_device_properties(0).total_memory


def peers(name: str, batches: Sequence[int], ways: Sequence[str]) -> Iterator[dict[str, Any]]:
    """transformers on the same shape, in the ways of `WAYS` that are named."""
    if not ways:
        return
    hf = HfDecode(name)
    for batch in batches:
        for way in ways:
            if way != "static" and batch == 64:
                continue  # its prefill alone would take minutes
            began = time.perf_counter()
            try:
                with within(PEER_S[way]):
                    impl, each = WAYS[way](hf, batch, CONTEXT)
            except Exception as error:  # a peer's own failure is a fact of the run, not of ours
                sys.stderr.write(f"{name}, {way}, batch {batch}: {str(error)[:300]!r}\n")
                continue
            finally:
                took = time.perf_counter() - began
                sys.stderr.write(f"{name}, {way}, batch {batch}: {took:.1f} s\n")
                _empty()
            yield _base(name, batch) | {
                "metric": "decode", "impl": impl, "value": round(batch / each, 1),
                "unit": "tok/s", "ms": round(1e3 * each, 3),
            }  # fmt: skip


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the main thread's Python when the time is over."""

    def over(signum: int, frame: object) -> None:
        raise TimeoutError(f"{seconds:g} s were allowed")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _empty() -> None:
    gc.collect()
    torch.cuda.empty_cache()
