"""`workbench bench masks`: what grammars cost a decode step, on a GPU.

30 branches of 4k tokens decode freely, inside Thread-2 trees, and inside JSON of a schema. `wait`
is the time between the end of a step's forward pass and the start of its draw, as the device's own
clock tells it: what the device stands idle for masks, besides all other work of the host. `host_ms`
is what the host does between the tokens of one step and the draw of the next, of which `fill_ms`
fills masks and `collect_ms` is Python's garbage collector; `slack_ms` is what it then waits for the
device. `worst` names the parts of the steps with the longest waits.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from kernels_cupy.bench import facts
from workbench.bench.decode import CONTEXT, Decoding
from workbench.engine.grammar import Vocabulary, json_schema
from workbench.engine.protocols import Matcher, Sampler, Until
from workbench.engine.tree_grammar import ToolShape, TreeGrammar, TreeShape
from workbench.forward import ForwardBatch, ForwardOutput
from workbench.model.load import open_model
from workbench.ops.contract import Sampled

ROWS, STEPS, WARM = 30, 64, 8
GOAL = 0.05  # of an 8B step at batch 30
WORDS = {"type": "string", "minLength": 4000}
SCHEMA = {
    "type": "object",
    "properties": {
        "notes": {"type": "array", "items": {"type": "number"}, "minItems": 400},
        "text": WORDS,
    },
    "required": ["notes", "text"],
    "additionalProperties": False,
}
TOOL = ToolShape("lookup", {"type": "object", "properties": {"key": WORDS}, "required": ["key"]})


class Watched:
    """A forward whose passes end with an event, and a sampler whose draws begin with one."""

    def __init__(self, forward: Any, sample: Callable[..., Sampled]) -> None:
        self._forward, self._sample = forward, sample
        self._end: torch.cuda.Event | None = None
        self.pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.launched: list[float] = []  # each draw, by the host's clock
        self.landed: list[float] = []  # its tokens
        self.slack: list[float] = []  # seconds that the host waited for them

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)

    def __call__(self, batch: ForwardBatch, *rest: Any) -> ForwardOutput:
        output: ForwardOutput = self._forward(batch, *rest)
        self._end = _mark()
        return output

    def sample(self, *given: Any) -> Sampled:
        if self._end is not None:
            self.pairs.append((self._end, _mark()))
        self.launched.append(time.perf_counter())
        sampled = self._sample(*given)
        wait = sampled.wait

        def timed() -> None:
            began = time.perf_counter()
            wait()
            self.landed.append(time.perf_counter())
            self.slack.append(self.landed[-1] - began)

        sampled.wait = timed
        return sampled

    def clear(self) -> None:
        """Forget what was seen, but for the end of the last forward."""
        for seen in (self.pairs, self.launched, self.landed, self.slack):
            seen.clear()

    def waits(self) -> list[float]:
        """Seconds of each pair."""
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in self.pairs]


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def matchers(kind: str, vocabulary: int) -> Sequence[Matcher | None]:
    """A matcher a branch, each in the middle of a text that can go on. The net's weights are
    random, so the words are another model's, in a vocabulary of the net's size."""
    if kind == "free":
        return [None] * ROWS
    tokenizer = open_model().tokenizer
    words = Vocabulary(
        [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)], frozenset(tokenizer.eos),
        tokenizer.encode, frozenset(tokenizer.special), vocabulary,
    )  # fmt: skip
    if kind == "tree":
        whole: Matcher = TreeGrammar(words, TreeShape((TOOL,))).matcher()
        for piece in ('{"', "reasoning", '":', "[", '{"', "thought", '":"'):
            for token in tokenizer.encode(piece):
                whole.consume(token)
    else:
        whole = json_schema(words, SCHEMA)
        for token in tokenizer.encode('{"notes":[1'):
            whole.consume(token)
    return [whole.copy() for _ in range(ROWS)]


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for free text, trees and JSON, on `args.shape` (an 8B net without one)."""
    from kernels_cupy import bridge

    where = facts(bridge.require())
    name = args.shape or "qwen3-8b"
    decoding = Decoding(name, ROWS, room=1024)
    engine: Any = decoding.ours.engine
    watched = Watched(engine.forward, engine.sample)
    engine.forward, engine.sample = watched, watched.sample
    free = 0.0
    for kind in ("free", "tree", "json"):
        row = _timed(decoding, watched, matchers(kind, decoding.shape.vocabulary))
        free = free or row["value"]
        yield {
            "metric": "decode under a grammar", "impl": decoding.ours.name,
            "shape": f"{name}, batch {ROWS}, {CONTEXT} context, {kind}", "unit": "ms",
            "peer": "free text", "ratio": round(free / row["value"], 3), "floor": None,
            "floor_ratio": None, **row, "goal": GOAL, **where,
        }  # fmt: skip
    decoding.close()


class Collector:
    """Seconds that Python's garbage collector takes while entered."""

    def __enter__(self) -> "Collector":
        self.seconds = 0.0
        gc.callbacks.append(self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        gc.callbacks.remove(self._heard)

    def _heard(self, phase: str, facts: object) -> None:
        self.seconds += time.perf_counter() * (1 if phase == "stop" else -1)


def _timed(
    decoding: Decoding, watched: Watched, grammars: Sequence[Matcher | None]
) -> dict[str, Any]:
    engine, branches = decoding.ours.engine, decoding.branches
    sampler = Sampler(temperature=1.0, top_k=50)

    def run(steps: int) -> None:
        until = Until(max_tokens=steps, eos=False)
        decoding.ours.wait(
            engine.decode(branches, until=until, grammar=list(grammars), sampler=sampler)
        )

    run(WARM)
    decoding.events.clear()
    watched.clear()
    before = engine.ahead.hits
    with Collector() as collector:
        run(STEPS)
    waits = watched.waits()[1:]  # the first step has nothing to be guessed from
    hosts = [b - a for a, b in zip(watched.landed, watched.launched[1:], strict=False)]
    steps = [e for e in decoding.events if e.decode == len(branches)]
    fills = [e.grammar_s for e in steps][1:]
    seconds, count = sum(e.seconds for e in steps) / len(steps), len(steps)
    wait, order = sum(waits) / len(waits), sorted(waits)
    worst = sorted(zip(waits, hosts, fills, strict=False), reverse=True)[:3]
    return {
        "value": _ms(seconds), "wait_ms": _ms(wait), "wait_share": round(wait / seconds, 4),
        "wait_p50_ms": _ms(order[len(order) // 2]),
        "wait_p95_ms": _ms(order[int(0.95 * (len(order) - 1))]),
        "fill_ms": _ms(sum(fills) / len(fills)), "host_ms": _ms(sum(hosts) / len(hosts)),
        "slack_ms": _ms(sum(watched.slack) / len(watched.slack)),
        "collect_ms": _ms(collector.seconds / count),
        "worst": [
            {k: _ms(v) for k, v in zip(("wait_ms", "host_ms", "fill_ms"), one, strict=True)}
            for one in worst
        ],
        "guessed": round((engine.ahead.hits - before) / count, 3), "steps": count,
    }  # fmt: skip


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 4)
