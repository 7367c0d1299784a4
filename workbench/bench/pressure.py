"""`workbench bench pressure`: what pruning on the way buys a batch of long requests on a GPU.

30 requests of 16k tokens each, a net of Qwen3-8B's shape with random weights, the engine's own
`decode` and `prune`. After every 512 tokens that a request has written, a share of these 512
leaves memory. All survivors of the 512 lie behind the hole, so that re-encoding (mode reencode) or
moving (mode rotate) costs as much as it can, and all requests prune in the same step.

Not every one of 30 x 16k tokens is decoded: a step's time is measured at several contexts, the
cost of a prune at some of them, and both are added up along each request's way (linear between
the points, and beyond the last where the card's memory ends sooner: `measured_to`). Rows "check"
decode whole stretches, prunes included, and give what was added up over what was measured.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch

from kernels_cupy.bench import facts
from workbench.bench.ours import Ours
from workbench.bench.random_net import random_model, two_byte_sizes
from workbench.bench.rows import Row
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch
from workbench.events import Event, StepEnded
from workbench.words import PruneMode

BATCH, TOKENS, CYCLE, PROMPT = 30, 16384, 512, 256
SHARES = (0.0, 0.5, 0.75, 0.9)
POINTS = (512, 2048, 4096, 8192, 12288, 16384)
PRUNED_AT = (1024, 8192)
PAGE, WARM, STEPS = 16, 12, 24
MODES = (PruneMode.REENCODE, PruneMode.ROTATE)


@dataclass(slots=True)
class Curve:
    """Seconds at contexts, linear between them and beyond."""

    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, context: float, seconds: float) -> None:
        self.points.append((context, seconds))
        self.points.sort()

    def __call__(self, context: float) -> float:
        points = self.points
        if len(points) == 1:
            return points[0][1]
        pairs = list(pairwise(points))
        (a, ya), (b, yb) = next((p for p in pairs if context <= p[1][0]), pairs[-1])
        return max(0.0, ya + (yb - ya) * (context - a) / (b - a))


@dataclass(frozen=True, slots=True)
class Way:
    """What one share of pruning, in one mode, adds up to."""

    share: float
    mode: PruneMode | None
    decode_s: float
    prune_s: float
    peak: int  # resident tokens a request

    @property
    def throughput(self) -> float:
        return BATCH * TOKENS / (self.decode_s + self.prune_s)


class Batch:
    """The requests in an engine, driven in step."""

    def __init__(self, name: str, most: int) -> None:
        self.model = random_model(name)
        pages = BATCH * (-(-(most + 2 * CYCLE) // PAGE) + 2)
        self.prefills = 0
        self.ours = Ours(
            self.model, pages, emit=self._emit, max_rows=BATCH, chunk=8192, device_sample=True
        )
        self._draw = random.Random(0)
        self._vocabulary = self.model.shape.vocabulary
        request = self.ours.new_request()
        self.branches: list[Branch] = []
        for _ in range(BATCH):
            opened = self.ours.engine.open(self._ids(PROMPT), request=request, share=False)
            self.branches.append(self.ours.wait(opened))

    def _emit(self, event: Event) -> None:
        if isinstance(event, StepEnded) and event.decode < event.rows:
            self.prefills += 1

    def _ids(self, n: int) -> list[int]:
        return [self._draw.randrange(1, self._vocabulary) for _ in range(n)]

    @property
    def context(self) -> int:
        return self.branches[0].length

    def decode(self, n: int) -> float:
        """Seconds in which each request samples `n` tokens."""
        torch.cuda.synchronize()
        begin = time.perf_counter()
        until = Until(max_tokens=n, eos=False)
        self.ours.wait(self.ours.engine.decode(self.branches, until=until))
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    def read(self, n: int) -> None:
        """Each request is fed `n` tokens of anything."""

        async def all_of_them() -> None:
            engine, want = self.ours.engine, Want(top=1)
            await asyncio.gather(*(engine.feed(b, self._ids(n), want=want) for b in self.branches))

        self.ours.wait(all_of_them())

    def prune(self, share: float, mode: PruneMode) -> float:
        """Seconds: of the last 512 tokens of each request the first `share` leave, and the next
        token is sampled."""
        torch.cuda.synchronize()
        begin = time.perf_counter()
        self.leave(share, mode)
        self.decode(1)
        return time.perf_counter() - begin

    def leave(self, share: float, mode: PruneMode) -> None:
        gone = round(share * CYCLE)
        for branch in self.branches:
            start = len(branch.tokens) - CYCLE
            span = [(start, start + gone)]
            self.ours.wait(self.ours.engine.prune(branch, span, mode=mode, cause="bench"))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Cycles from `base` resident tokens on that were decoded in full."""

    base: int
    share: float
    mode: PruneMode | None
    cycles: int
    seconds: float


@dataclass(slots=True)
class Measured:
    step: Curve
    prune: dict[tuple[float, PruneMode], Curve]
    checks: list[Stretch]


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from kernels_cupy import bridge

    device = bridge.require()
    where = facts(device)
    name = args.shape or "qwen3-8b"
    most = 2048 if args.quick else _most(name)
    batch = Batch(name, most)
    try:
        found = measure(batch, most)
    finally:
        batch.ours.close()
    base = f"{name}, batch {BATCH}"
    for context, seconds in found.step.points:
        yield _row("decode step", f"{base}, {context:.0f} resident", 1e3 * seconds, "ms") | where
    for (share, mode), curve in found.prune.items():
        for context, seconds in curve.points:
            survivors = CYCLE - round(share * CYCLE)
            shape = f"{base}, {share:.0%} of {CYCLE} pruned at {context:.0f}, {survivors} stay"
            yield _row(f"prune, {mode}", shape, 1e3 * seconds, "ms") | where
    yield from (_checked(found, done) | where for done in found.checks)
    per_token = batch.model.layout(1, PAGE).bytes_per_token
    plain = way(found, 0.0, None)
    for share in SHARES:
        ways = [way(found, share, mode) for mode in MODES] if share else [plain]
        for one in ways:
            yield _told(base, one, plain, per_token, batch.ours.name, most) | where


def _told(base: str, one: Way, plain: Way, per_token: int, impl: str, most: int) -> dict[str, Any]:
    shape = f"{base}, {TOKENS} tokens a request, {one.share:.0%} pruned"
    row = _row("throughput under pruning", shape, one.throughput, "tok/s")
    total = one.decode_s + one.prune_s
    return row | {
        "impl": f"{impl}, {one.mode}" if one.mode else impl, "share": one.share,
        "mode": one.mode and str(one.mode), "peer": "nothing pruned",
        "ratio": round(one.throughput / plain.throughput, 3), "seconds": round(total, 2),
        "prune_s": round(one.prune_s, 2), "prune_share": round(one.prune_s / total, 4),
        "peak_kv_gb": round(BATCH * one.peak * per_token / 1e9, 2), "measured_to": most,
    }  # fmt: skip


def _row(metric: str, shape: str, value: float, unit: str) -> dict[str, Any]:
    return asdict(Row(metric, shape, "cuda", round(value, 3), unit))


def measure(batch: Batch, most: int) -> Measured:
    """Climb from the prompt to `most` resident tokens and measure on the way."""
    found = Measured(Curve(), {(s, m): Curve() for s in SHARES[1:] for m in MODES}, [])
    stops = sorted({p for p in POINTS if p <= most} | {p for p in PRUNED_AT if p <= most})
    batch.decode(WARM)
    for stop in stops:
        began = time.perf_counter()
        if stop > batch.context:
            batch.read(stop - batch.context)
        if stop in POINTS:
            batch.decode(WARM)
            context = batch.context
            found.step.add(context + STEPS / 2, batch.decode(STEPS) / STEPS)
        if stop in PRUNED_AT:
            _prunes(batch, found)
        if stop == 8192:
            found.checks.append(_check(batch, 0.0, None))
        took = time.perf_counter() - began
        sys.stderr.write(f"{stop} resident: {found.step.points[-1]} in {took:.1f} s\n")
        if stop == 4096:
            found.checks.extend(_check(batch, 0.9, mode) for mode in MODES)
    return found


def _prunes(batch: Batch, found: Measured) -> None:
    for (share, mode), curve in found.prune.items():
        again = 1 if curve.points else 2  # the first of a kind warms up
        for _ in range(again):
            batch.read(CYCLE)
            context = batch.context
            seconds = batch.prune(share, mode)
        curve.add(context, seconds)


def _net_of_step(found: Measured, share: float, mode: PruneMode, context: float) -> float:
    """What a prune costs beyond the step that it takes the place of; `context` is before it."""
    after = context - round(share * CYCLE)
    return max(0.0, found.prune[share, mode](context) - found.step(after))


def _stretch(found: Measured, base: float, share: float, mode: PruneMode | None) -> Way:
    """One cycle from `base` resident tokens on: 512 steps, then the prune."""
    decode = sum(found.step(base + n) for n in range(CYCLE))
    prune = 0.0 if mode is None else _net_of_step(found, share, mode, base + CYCLE)
    return Way(share, mode, decode, prune, round(base) + CYCLE)


def way(found: Measured, share: float, mode: PruneMode | None) -> Way:
    """All of a request's tokens: its cycles added up."""
    kept = CYCLE - round(share * CYCLE)
    cycles = [_stretch(found, PROMPT + kept * n, share, mode) for n in range(TOKENS // CYCLE)]
    return Way(
        share, mode, sum(c.decode_s for c in cycles), sum(c.prune_s for c in cycles),
        cycles[-1].peak,
    )  # fmt: skip


def _check(batch: Batch, share: float, mode: PruneMode | None) -> Stretch:
    """Whole cycles decoded, their prunes included."""
    base, cycles = batch.context, 1
    begin = time.perf_counter()
    for _ in range(cycles):
        batch.decode(CYCLE)
        if mode is not None:
            batch.leave(share, mode)
            batch.decode(1)
    return Stretch(base, share, mode, cycles, time.perf_counter() - begin)


def _checked(found: Measured, done: Stretch) -> dict[str, Any]:
    kept = CYCLE - round(done.share * CYCLE)
    parts = [
        _stretch(found, done.base + kept * n, done.share, done.mode) for n in range(done.cycles)
    ]
    told = sum(part.decode_s + part.prune_s for part in parts)
    shape = f"{done.cycles} x {CYCLE} tokens, {done.share:.0%} pruned, from {done.base} resident"
    row = _row("check: added up / measured", shape, told / done.seconds, "")
    return row | {"impl": str(done.mode or "no prune"), "measured_s": round(done.seconds, 3)}


def _most(name: str) -> int:
    """The longest of `POINTS` whose KV fits beside the weights."""
    weights, each = two_byte_sizes(name)
    free = 0.9 * torch.cuda.get_device_properties(0).total_memory - weights - 3e9
    fitting: Sequence[int] = [p for p in POINTS if BATCH * (p + 3 * CYCLE) * each < free]
    return fitting[-1]
