"""`workbench bench calls`: many tool calls inside one inference, and what else one could do.

Part `calls`: a chain of links thought as a tree, every link a call, in one inference; the same text
without calls (its results are sampled); and a client that sends the whole history again after each
call, with and without a prefix cache. Its history is the tree, which no client can prune, or flat
lines, the most economical form there is. Model time: seconds of the engine's steps, by `--clock`;
waiting for a tool is not in it.

Part `pruning`: problems thought as trees, greedily and without a grammar, their lists pruned by the
engine, by the engine not at all, and by transformers in a loop over its own cache (`naive`).
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from workbench.bench.naive import Naive, Told
from workbench.bench.ours import Ours
from workbench.bench.rows import CLOCKS, Row
from workbench.bench.script import (
    Act,
    Forced,
    Forget,
    Put,
    Say,
    rounds,
    sampled,
    script,
    turn,
    uncalled,
    unforgotten,
)
from workbench.engine.errors import EngineError
from workbench.engine.protocols import Until
from workbench.events import Event, StepEnded
from workbench.forward import PLAIN, Override
from workbench.tasks.catalogue import task
from workbench.tasks.gold import Piece, flat_pieces, tree_pieces
from workbench.words import Finish, Origin

LINKS = (30, 300)
SEED = 3
PRUNED, PRUNED_QUICK = (("chain", 20), ("expression", 31)), (("chain", 8),)
PRUNED_PROBLEMS = 2
SAMPLE = 8  # a client's every n-th request is carried out from 100 links on, and counts n times
PAGES = 2048


class Timed(Ours):
    """Our engine, following scripts; `model_s` is the time of its steps."""

    model_s = 0.0
    peak = 0

    def tally(self, event: Event) -> None:
        if type(event) is StepEnded:
            self.model_s += event.seconds
            self.peak = max(self.peak, event.resident)

    def follow(self, prompt: Sequence[int], acts: Sequence[Act], adapter: str | None) -> float:
        """Model seconds of one inference that says all of it."""
        return self._told(prompt, acts, adapter, forced=True).seconds

    def solve(self, prompt: Sequence[int], acts: Sequence[Act], adapter: str | None) -> Told:
        """The same, greedily and free, until a token is another than the right text's."""
        return self._told(prompt, acts, adapter, forced=False)

    def _told(
        self, prompt: Sequence[int], acts: Sequence[Act], adapter: str | None, *, forced: bool
    ) -> Told:
        self.model_s, self.peak = 0.0, 0
        told = self._tell(prompt, acts, self._override(adapter), share=False, forced=forced)
        said, right = self.wait(told)
        return Told(said, self.model_s, self.peak, right)

    async def _tell(
        self, prompt: Sequence[int], acts: Sequence[Act], override: Override, *, share: bool,
        forced: bool,
    ) -> tuple[int, bool]:  # fmt: skip
        """Tokens asked for, and whether they were the acts'."""
        engine, request = self.engine, self.new_request()
        branch = await engine.open(list(prompt), request=request, override=override, share=share)
        start, said, right = len(prompt), 0, True
        for act in acts:
            match act:
                case Say(ids):
                    until = Until(max_tokens=len(ids), eos=False)
                    grammar = Forced(ids) if forced else None
                    [decoded] = await engine.decode(branch, until=until, grammar=grammar)
                    said += len(ids)
                    right = tuple(decoded.tokens) == ids
                    if not (right or forced):
                        break
                case Put(ids):
                    await engine.feed(branch, ids, origin=Origin.TOOL)
                case Forget(a, b):
                    await engine.prune(branch, [(start + a, start + b)])
        engine.end_request(request, Finish.STOP)
        return said, right

    def client(
        self, prompt: Sequence[int], pieces: Iterable[Piece], adapter: str | None, *, cache: bool
    ) -> tuple[float, str]:
        """Model seconds of a loop that sends the history with every request; and why it ended
        early, if it did."""
        requests = list(rounds(pieces, self.model.tokenizer.encode))
        seconds, every = 0.0, 1 if cache or len(requests) < 100 else SAMPLE
        override = self._override(adapter)
        for number, (history, ids) in enumerate(requests):
            if number % every:
                continue
            self.model_s = 0.0
            text, said = [*prompt, *history], [Say(tuple(ids))]
            try:
                self.wait(self._tell(text, said, override, share=cache, forced=True))
            except EngineError as error:
                return seconds, f"request {number + 1} of {len(requests)}: {error}"
            seconds += self.model_s * every
        return seconds, ""

    def _override(self, adapter: str | None) -> Override:
        return PLAIN if adapter is None else Override(adapter=adapter)


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    engine = Timed.load(args.model, "auto", "auto", PAGES, backend=args.backend)
    engine.engine.tell = engine.tally
    engine.engine.clock = CLOCKS[args.clock]
    engine.engine.started = engine.engine.clock()
    for name in ("tim-smollm2", "cot-smollm2"):
        engine.model.load_adapter(name)
    try:
        if args.part in (None, "calls"):
            for links in LINKS[:1] if args.quick else LINKS:
                yield from calls(engine, links)
        if args.part in (None, "pruning"):
            yield from pruning(
                engine, *((PRUNED_QUICK, 1) if args.quick else (PRUNED, PRUNED_PROBLEMS))
            )
    finally:
        engine.close()


def calls(engine: Timed, links: int) -> Iterator[dict[str, Any]]:
    problem = task("chain", links, SEED)
    encode = engine.model.tokenizer.encode
    prompt, acts = encode(turn(problem.prompt)), script(tree_pieces(problem), encode)
    shape = f"{links} calls"
    engine.follow(prompt, acts[:12], "tim-smollm2")  # what is made on first use
    plain = engine.follow(prompt, uncalled(acts), "tim-smollm2") / sampled(uncalled(acts))
    inside = engine.follow(prompt, acts, "tim-smollm2")
    speed = sampled(acts) / inside

    def row(impl: str, value: float, unit: str, peer: str = "", ratio: float | None = None) -> Any:
        return Row("tool calls", shape, impl, value, unit, peer or None, ratio).json()

    yield row("no calls", 1 / plain, "sampled tok/s")
    yield row(
        f"one inference, peak {engine.peak}", speed, "sampled tok/s", "no calls", speed * plain
    )
    yield row("one inference", inside / links, "model s a call")
    for text, pieces, adapter in (
        ("the tree", tree_pieces, "tim-smollm2"), ("flat lines", flat_pieces, "cot-smollm2")
    ):  # fmt: skip
        for cache in (False, True):
            name = f"client sends {text} again" + (", prefix cache" if cache else "")
            seconds, why = engine.client(prompt, pieces(problem), adapter, cache=cache)
            if why:
                yield {**row(name, float("nan"), "model s a call"), "note": why}
            else:
                ratio = inside / seconds
                yield row(name, seconds / links, "model s a call", "one inference", ratio)


def pruning(engine: Timed, shapes: Iterable[tuple[str, int]], n: int) -> Iterator[dict[str, Any]]:
    """`n` problems a shape. `right`: those whose text was told word for word; speed and peak are
    over all."""
    device = "cuda" if "cuda" in engine.name else "cpu"
    naive = Naive(Path(engine.model.source.path), "tim-smollm2", device, engine.engine.clock)
    encode = engine.model.tokenizer.encode
    ours = partial(engine.solve, adapter="tim-smollm2")
    ways: Mapping[str, tuple[Callable[..., Told], Callable[..., Sequence[Act]]]] = {
        "engine, pruned": (ours, list),
        "engine, unpruned": (ours, unforgotten),
        f"{naive.name}, pruned": (naive.solve, list),
        f"{naive.name}, unpruned": (naive.solve, unforgotten),
    }
    for family, level in shapes:
        told: dict[str, list[Told]] = {name: [] for name in ways}
        for number in range(-1, n):  # the first is not counted: what is made on first use
            problem = task(family, level, max(number, 0))
            prompt, acts = encode(turn(problem.prompt)), script(tree_pieces(problem), encode)
            for name, (solve, way) in ways.items():
                one = solve(prompt, way(acts[:12] if number < 0 else acts))
                if number >= 0:
                    told[name].append(one)
        first = 0.0
        for name, found in told.items():
            speed = sum(one.sampled for one in found) / sum(one.seconds for one in found)
            first = first or speed
            peer = None if speed == first else "engine, pruned"
            row = Row(
                "pruning", f"{family} {level}", name, speed, "sampled tok/s", peer, speed / first
            )
            peak = sum(one.peak for one in found) / n
            right = sum(one.right for one in found)
            yield {**row.json(), "peak_kv_tokens": peak, "n": n, "right": right}
