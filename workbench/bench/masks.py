"""`workbench bench masks`: what grammars cost a decode step, on a GPU.

30 branches of 4k tokens decode freely, inside Thread-2 trees, and inside JSON of a schema. `wait`
is the time between the end of a step's forward pass and the start of its draw, as the device's own
clock tells it: what the device stands idle for masks, besides all other work of the host.
"""

import argparse
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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)

    def __call__(self, batch: ForwardBatch, *rest: Any) -> ForwardOutput:
        output: ForwardOutput = self._forward(batch, *rest)
        self._end = _mark()
        return output

    def sample(self, *given: Any) -> Sampled:
        if self._end is not None:
            self.pairs.append((self._end, _mark()))
        return self._sample(*given)

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
    watched.pairs.clear()
    before = engine.ahead.hits
    run(STEPS)
    waits = sorted(watched.waits()[1:])  # the first step has nothing to be guessed from
    steps = [e for e in decoding.events if e.decode == len(branches)]
    seconds = sum(e.seconds for e in steps) / len(steps)
    wait = sum(waits) / len(waits)
    return {
        "value": round(1e3 * seconds, 3), "wait_ms": round(1e3 * wait, 4),
        "wait_share": round(wait / seconds, 4),
        "wait_p95_ms": round(1e3 * waits[int(0.95 * (len(waits) - 1))], 4),
        "fill_ms": round(1e3 * sum(e.grammar_s for e in steps) / len(steps), 3),
        "guessed": round((engine.ahead.hits - before) / len(steps), 3), "steps": len(steps),
    }  # fmt: skip
