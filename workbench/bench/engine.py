"""`workbench bench engine`: our engine and transformers on the same weights, turn by turn.

Each part is a generator of rows and can be run alone (`--part`). Floors are bytes of weights a
token over the bandwidth at which one core reads as many bytes, measured in the same run.
"""

import argparse
import contextlib
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from workbench.bench.ours import Ours
from workbench.bench.peers import LlamaCpp, Transformers
from workbench.bench.rows import Row, read_bandwidth, take_turns
from workbench.events import BranchOpened, Event, StepEnded

CONTEXT = 128
TURN = 16  # tokens a turn
# weights, type, backend
FORMS = (
    ("as loaded", "fp32", "cpu"),
    ("bf16 prepacked", "bf16", "cpu"),
    ("int4", "bf16", "cpu"),
    ("auto", "auto", "numba"),
)
# of SmolLM2's file: Q4_1 body (5 bits a weight), and the tied head in bf16 or as in the file (Q8_0)
BYTES_A_WEIGHT = {"fp32": 4.0, "bf16 prepacked": 2.0, "int4": 0.92, "numba": 0.72}


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(args.threads)
    parts = [args.part] if args.part else list(PARTS)
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"bench engine has no part {part!r}; there are {', '.join(PARTS)}")
        for row in PARTS[part](args):
            yield row.json()


def prompt(tokens: int, seed: int = 0) -> list[int]:
    """Ids of ordinary tokens; what they say does not matter to a clock."""
    draw = random.Random(seed)
    return [draw.randrange(100, 40_000) for _ in range(tokens)]


def located(name: str) -> Path:
    from workbench.model.load import locate

    return locate(name).path


def forms(args: argparse.Namespace, pages: int, **options: Any) -> list[Ours]:
    return [
        Ours.load(args.model, form, dtype, pages, backend=backend, **options)
        for form, dtype, backend in FORMS
    ]


def decode(args: argparse.Namespace) -> Iterator[Row]:
    """One stream: every weight form of ours, transformers in both types, llama.cpp if present."""
    file = located(args.model)
    tokens = (args.rounds + 1) * TURN + CONTEXT
    ours = forms(args, -(-tokens // 16) + 2)
    peers: list[Any] = [Transformers(file, torch.bfloat16), Transformers(file, torch.float32)]
    if file.suffix == ".gguf":
        with contextlib.suppress(ImportError):  # an optional peer
            peers.append(LlamaCpp(file, args.threads))
    everyone = {player.name: player for player in [*ours, *peers]}
    for player in everyone.values():
        player.open(prompt(CONTEXT))
    turns = take_turns(
        {name: partial(player.decode, TURN) for name, player in everyone.items()},
        args.rounds,
        clock=args.clock,
    )
    fp32 = peers[1].name
    for player in ours:
        floor = memory_floor(player, args.clock)
        for peer in [fp32] if "fp32" in player.name else [p.name for p in peers if p.name != fp32]:
            value = TURN / turns.median(player.name)
            yield Row(
                "decode", f"batch 1, context {CONTEXT}", player.name, value, "tok/s", peer,
                turns.ratio(player.name, peer), floor, value / floor,
            )  # fmt: skip
        player.close()
    for peer in peers:
        value = TURN / turns.median(peer.name)
        yield Row("decode", f"batch 1, context {CONTEXT}", peer.name, value, "tok/s")


def memory_floor(player: Ours, clock: str) -> float:
    """Tokens a second if a step were nothing but reading the weights once, on one core."""
    form = next(form for form in BYTES_A_WEIGHT if form in player.name)
    nbytes = int(BYTES_A_WEIGHT[form] * player.model.source.parameters)
    return read_bandwidth(nbytes, clock=clock) / nbytes


def serve(args: argparse.Namespace) -> Iterator[Row]:
    """64 requests through 16 slots, lengths log-uniform 16 to 256, seed 0."""
    draw = random.Random(0)

    def length() -> int:
        return round(math.exp(draw.uniform(math.log(16), math.log(256))))

    jobs = [(prompt(length(), seed), length()) for seed in range(64)]
    prompts, lengths = [p for p, _ in jobs], [n for _, n in jobs]
    ours = [
        Ours.load(args.model, form, dtype, pages=16 * 34, max_rows=16, backend=backend)
        for form, dtype, backend in (FORMS[1], FORMS[3])
    ]
    peer = Transformers(located(args.model), torch.bfloat16)

    def static() -> None:
        for at in range(0, 64, 16):
            peer.static_batch(prompts[at : at + 16], lengths[at : at + 16])

    turns = take_turns(
        {peer.name: static} | {p.name: partial(p.serve, prompts, lengths) for p in ours},
        max(1, args.rounds // 2),
        warm=0,
        clock=args.clock,
    )
    total = sum(lengths)
    shape = f"64 requests, 16 slots, {sum(map(len, prompts)):,} prompt and {total:,} output tokens"
    for player in ours:
        value, ratio = total / turns.median(player.name), turns.ratio(player.name, peer.name)
        yield Row("serve", shape, player.name, value, "output tok/s", peer.name, ratio)
        player.close()
    yield Row("serve", shape, peer.name, total / turns.median(peer.name), "output tok/s")


def prefill(args: argparse.Namespace) -> Iterator[Row]:
    """First token of a 2,000-token prompt."""
    ids = prompt(2000)
    ours = Ours.load(args.model, "bf16 prepacked", "bf16", pages=140)
    peer = Transformers(located(args.model), torch.bfloat16)

    def first() -> None:
        ours.open(ids)
        ours.decode(1)

    turns = take_turns(
        {ours.name: first, peer.name: lambda: peer.open(ids)}, args.rounds, clock=args.clock
    )
    yield Row(
        "first token", "prompt 2,000", ours.name, turns.median(ours.name), "s", peer.name,
        turns.ratio(ours.name, peer.name),
    )  # fmt: skip
    yield Row("first token", "prompt 2,000", peer.name, turns.median(peer.name), "s")
    ours.close()


def forks(args: argparse.Namespace) -> Iterator[Row]:
    """Prefill tokens computed for 16 continuations of one prefix of 1,000 tokens."""
    seen: list[Event] = []
    ours = Ours.load(args.model, "bf16 prepacked", "bf16", pages=200, emit=seen.append)
    ours.open(prompt(1000))
    assert ours.branch is not None
    children = ours.wait(ours.engine.fork(ours.branch, 16))
    from workbench.engine.protocols import Until

    ours.wait(ours.engine.decode(children, until=Until(max_tokens=4, eos=False)))
    computed = sum(e.prefill + e.extend + e.reencode for e in seen if isinstance(e, StepEnded))
    opened = sum(isinstance(e, BranchOpened) for e in seen)
    shape = f"{opened - 1} forks of a prefix of 1,000"
    yield Row(
        "prefill computed", shape, ours.name, computed, "tokens", "16 prompts on their own",
        16_000 / computed, 1000, 1000 / computed,
    )  # fmt: skip
    ours.close()


def recording(args: argparse.Namespace) -> Iterator[Row]:
    """What recording everything adds to a step."""
    from workbench.bench import trace

    with tempfile.TemporaryDirectory() as folder:
        yield from trace.recording(args, Path(folder, "bench.wbt"))


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "decode": decode,
    "serve": serve,
    "prefill": prefill,
    "forks": forks,
    "recording": recording,
}
