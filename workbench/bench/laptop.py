"""`workbench bench laptop`: the step itself against its peers, without an engine around either
side; and a whole run of the engine (part "tim").

One call of each implementation is a turn: the same single step, over and over at one context
length, or one prompt. llama.cpp (where llama-cpp-python is) runs the very GGUF file, and the same
requantised to Q4_0, its best case; transformers runs bf16. Every set of instructions that the CPU
offers takes its turns in the same run; AVX2 is what a plain laptop has. Turns of two threads are
timed by the wall clock, whatever `--clock` says: where other work runs, give all of them the cores
first (Linux: `chrt -r 10 workbench bench laptop ...`).
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from workbench.bench import laptop_accuracy, laptop_costs, laptop_run
from workbench.bench.laptop_costs import floor, reader, repeated
from workbench.bench.laptop_steps import Step, TransformersStep, Turn, llama_steps, our_steps
from workbench.bench.rows import Row, take_turns
from workbench.model.load import Opened, open_model

STEPS = 4  # steps a turn
REST = 0.05  # seconds: llama.cpp's threads keep their cores for 0.01 s behind their last step


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    field_ = Field(open_model(args.model), args.threads, args.clock, args.rounds, args.quick)
    parts = [args.part] if args.part else list(PARTS)
    for name in parts:
        if name not in PARTS:
            raise ValueError(f"bench laptop has no part {name!r}; there are {', '.join(PARTS)}")
        for row in PARTS[name](field_):
            yield row.json()


@dataclass
class Field:
    """Who takes turns, made when first asked for; and how often."""

    opened: Opened
    threads: int
    clock: str
    rounds: int
    quick: bool
    _made: dict[int, tuple[list[Step], list[Any]]] = field(default_factory=dict)
    _transformers: TransformersStep | None = None

    @property
    def turns(self) -> int:
        return 2 if self.quick else self.rounds

    @property
    def file(self) -> Path:
        return Path(self.opened.source.path)

    def ours(self, threads: int | None = None) -> list[Step]:
        return self._of(threads or self.threads)[0]

    def llama(self, threads: int | None = None) -> list[Any]:
        return self._of(threads or self.threads)[1]

    def peers(self, threads: int | None = None) -> list[Any]:
        """transformers, whose threads are torch's, and llama.cpp."""
        torch.set_num_threads(threads or self.threads)
        if self._transformers is None:
            self._transformers = TransformersStep(self.file)
        return [self._transformers, *self.llama(threads)]

    def _of(self, threads: int) -> tuple[list[Step], list[Any]]:
        torch.set_num_threads(threads)
        if threads not in self._made:
            fastest = our_steps(self.opened, threads, ["avx2"]) if self.quick else None
            ours = fastest or our_steps(self.opened, threads)
            self._made[threads] = ours, llama_steps(self.file, threads)
        return self._made[threads]


def decode(at: Field, context: int, threads: int | None = None) -> Iterator[Row]:
    count = threads or at.threads
    yield from compared(
        at, f"decode at {context}", f"1 row, {context} entries, {count} threads", 1,
        lambda impl: impl.at([5], context, 1), threads, reads=at.ours(threads)[0].reads(context),
    )  # fmt: skip


def batch(at: Field, threads: int | None = None) -> Iterator[Row]:
    shape = f"8 rows, 128 entries, {threads or at.threads} threads"
    yield from compared(
        at, "decode, batch of 8", shape, 8, lambda impl: impl.at([5], 128, 8), threads
    )


def prefill(at: Field, threads: int | None = None) -> Iterator[Row]:
    ids = torch.randint(10, 40000, (512,), generator=torch.manual_seed(1)).tolist()
    shape = f"1 row, 512 tokens, {threads or at.threads} threads"
    yield from compared(
        at, "prefill of 512", shape, 512, lambda impl: impl.at(ids, 0, 1), threads, steps=1
    )


def two_threads(at: Field) -> Iterator[Row]:
    yield from decode(at, 128, 2)
    yield from batch(at, 2)
    if not at.quick:
        yield from decode(at, 1000, 2)
        yield from prefill(at, 2)


def tables(at: Field) -> Iterator[Row]:
    torch.set_num_threads(1)
    yield from laptop_costs.tables(at.ours(1)[0], 4 * at.turns, at.clock)


def breakdown(at: Field) -> Iterator[Row]:
    torch.set_num_threads(1)
    for context in (128, 1000):
        yield from laptop_costs.breakdown(at.ours(1)[0], context, 2 * at.turns, at.clock)


def accuracy(at: Field) -> Iterator[Row]:
    tokens = 250 if at.quick else 1000
    yield from laptop_accuracy.rows(at.opened, at.ours(), at.llama(), tokens)


def tim(at: Field) -> Iterator[Row]:
    yield from laptop_run.rows(at.opened.source.name, at.threads, at.turns, at.clock)


PARTS: dict[str, Callable[[Field], Iterator[Row]]] = {
    "decode 128": lambda at: decode(at, 128),
    "decode 1000": lambda at: decode(at, 1000),
    "batch 8": batch,
    "prefill 512": prefill,
    "two threads": two_threads,
    "block tables": tables,
    "breakdown": breakdown,
    "accuracy": accuracy,
    "tim": tim,
}


def compared(
    at: Field, metric: str, shape: str, tokens: int, make: Callable[[Any], Turn],
    threads: int | None = None, *, reads: int | None = None, steps: int = STEPS,
) -> Iterator[Row]:  # fmt: skip
    """A row for each of ours and each peer, and one for each peer alone. `reads`: bytes a step;
    reading them takes its turn too."""
    ours, peers = at.ours(threads), at.peers(threads)
    turns = {impl.name: repeated(make(impl), steps) for impl in (*ours, *peers)}
    if reads:
        turns["memory"] = repeated(reader(reads), steps)
    alone = (threads or at.threads) == 1
    taken = take_turns(
        turns, at.turns, clock=at.clock if alone else "wall", rest=0.0 if alone else REST
    )
    for step in ours:
        most = floor(taken, step.name, tokens * steps) if reads else (None, None)
        for peer in peers:
            yield Row(
                metric, shape, step.name, tokens * steps / taken.median(step.name), "tok/s",
                peer.name, taken.ratio(step.name, peer.name), *most,
            )  # fmt: skip
    for peer in peers:
        yield Row(metric, shape, peer.name, tokens * steps / taken.median(peer.name), "tok/s")
