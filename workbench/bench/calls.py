"""`workbench bench calls`: many tool calls inside one inference, and what else one could do.

Part `calls`: a chain of links thought as a tree, every link a call, in one inference; the same text
without calls (its results are sampled); and a client that sends the whole history again after each
call, with and without a prefix cache. Its history is the tree, which no client can prune, or flat
lines, the most economical form there is. Model time: seconds of the engine's steps, by `--clock`;
waiting for a tool is not in it.

Part `pruning`: the same tree with its lists pruned by the engine, by the engine not at all, and by
transformers in a loop over its own cache: crop at the hole, run the survivors again.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.bench.ours import Ours
from workbench.bench.peers import Transformers
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
PRUNED_LINKS = 20
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
        self.model_s, self.peak = 0.0, 0
        self.wait(self._follow(prompt, acts, self._override(adapter), share=False))
        return self.model_s

    async def _follow(
        self, prompt: Sequence[int], acts: Sequence[Act], override: Override, share: bool
    ) -> None:
        engine, request = self.engine, self.new_request()
        branch = await engine.open(list(prompt), request=request, override=override, share=share)
        start = len(prompt)
        for act in acts:
            match act:
                case Say(ids):
                    until = Until(max_tokens=len(ids), eos=False)
                    await engine.decode(branch, until=until, grammar=Forced(ids))
                case Put(ids):
                    await engine.feed(branch, ids, origin=Origin.TOOL)
                case Forget(a, b):
                    await engine.prune(branch, [(start + a, start + b)])
        engine.end_request(request, Finish.STOP)

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
                self.wait(self._follow(text, said, override, share=cache))
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
            yield from pruning(engine, 4 if args.quick else PRUNED_LINKS)
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


def pruning(engine: Timed, links: int) -> Iterator[dict[str, Any]]:
    problem = task("chain", links, SEED)
    encode = engine.model.tokenizer.encode
    prompt, acts = encode(turn(problem.prompt)), script(tree_pieces(problem), encode)
    n = sampled(acts)
    engine.follow(prompt, acts[:12], "tim-smollm2")
    ours = n / engine.follow(prompt, acts, "tim-smollm2")

    def row(impl: str, speed: float, peak: int) -> dict[str, Any]:
        peer = None if speed is ours else "engine, pruned"
        made = Row("pruning", f"chain {links}", impl, speed, "sampled tok/s", peer, speed / ours)
        return {**made.json(), "peak_kv_tokens": peak}

    yield row("engine, pruned", ours, engine.peak)
    kept = n / engine.follow(prompt, unforgotten(acts), "tim-smollm2")
    yield row("engine, unpruned", kept, engine.peak)
    device = "cuda" if "cuda" in engine.name else "cpu"
    peer = Cropping(engine.model.source.path, device)
    for name, its in (("pruned", acts), ("unpruned", unforgotten(acts))):
        seconds, peak = peer.follow(prompt, its)
        yield row(f"{peer.name}, {name}", n / seconds, peak)


class Cropping(Transformers):
    """The naive way: transformers' own cache, cropped at each hole, survivors run again."""

    def __init__(self, source: str, device: str) -> None:
        super().__init__(Path(source), torch.bfloat16)
        self.model.to(device)
        self.device = device

    @torch.inference_mode()
    def follow(self, prompt: Sequence[int], acts: Sequence[Act]) -> tuple[float, int]:
        """Seconds after the prompt, and the most tokens held."""
        from transformers import DynamicCache

        self.cache = DynamicCache()
        self._run(list(prompt))
        base, peak, text = len(prompt), 0, 0
        resident: list[tuple[int, int]] = []  # (place in the text, token)
        began = time.perf_counter()
        for act in acts:
            match act:
                case Say(ids):
                    for token in ids:
                        self._run([token])
                case Put(ids):
                    self._run(list(ids))
                case Forget(a, b):
                    hole = next(n for n, (at, _) in enumerate(resident) if at >= a)
                    behind = [one for one in resident[hole:] if one[0] >= b]
                    del resident[hole:]
                    self.cache.crop(base + hole - self.cache.get_seq_length())
                    self._run([token for _, token in behind])
                    resident += behind
                    continue
            resident += enumerate(act.ids, text)
            text += len(act.ids)
            peak = max(peak, base + len(resident))
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began, peak

    def _run(self, ids: list[int]) -> None:
        start = self.cache.get_seq_length()
        places = torch.arange(start, start + len(ids), device=self.device)[None]
        out = self.model(
            torch.tensor([ids], device=self.device), past_key_values=self.cache, use_cache=True,
            position_ids=places, logits_to_keep=1,
        )  # fmt: skip
        out.logits[0, -1].argmax().item()  # a loop that decodes has to read its token
