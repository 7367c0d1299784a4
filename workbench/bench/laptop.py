"""`workbench bench laptop`: the step itself against its peers, without an engine around either
side.

One call of each implementation is a turn: the same single step, over and over at one context
length, or one prompt. llama.cpp (where llama-cpp-python is) runs the very GGUF file, and the same
requantised to Q4_0, its best case; transformers runs bf16.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.bench.engine import located
from workbench.bench.rows import Row, read_bandwidth, take_turns
from workbench.cpu import NumbaForward
from workbench.forward import ForwardBatch
from workbench.model.load import open_model

PAGE = 16
STEPS = 4  # steps a turn
Turn = Callable[[], object]


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(args.threads)
    ours = our_steps(args)
    peers = their_steps(args)
    parts: Mapping[str, Callable[[], Iterator[Row]]] = {
        "decode 128": lambda: decode(ours, peers, args, 128),
        "decode 1000": lambda: decode(ours, peers, args, 1000),
        "batch 8": lambda: batch(ours, peers, args),
        "prefill 512": lambda: prefill(ours, peers, args),
    }
    for name, part in parts.items():
        if args.part in (None, name):
            for row in part():
                yield row.json()


class Step:
    """Our step over random pages."""

    def __init__(self, forward: NumbaForward, context: int = 1100, rows: int = 8) -> None:
        self.forward = forward
        self.name = f"{forward.name} {forward.isa.name}"
        pages = -(-context // PAGE)
        self.pool = forward.new_pool(forward.layout(pages * rows, PAGE))
        order = torch.randperm(pages * rows, generator=torch.manual_seed(0))
        self.tables = order.view(rows, pages)

    def at(self, ids: Sequence[int], start: int, rows: int) -> Turn:
        """The step in which `rows` branches of `start` entries each take `ids`."""
        entry = torch.arange(start, start + len(ids))
        tables = self.tables[:rows]
        slots = tables[:, entry // PAGE] * PAGE + entry % PAGE
        made = ForwardBatch(
            torch.tensor(list(ids) * rows), entry.repeat(rows), slots.reshape(-1),
            torch.arange(rows + 1) * len(ids), torch.full((rows,), start + len(ids)), tables,
            logit_rows=(torch.arange(rows) + 1) * len(ids) - 1,
        )  # fmt: skip
        return lambda: self.forward(made, self.pool)


def our_steps(args: argparse.Namespace) -> list[Step]:
    from workbench.cpu import open_step
    from workbench.cpu.isa import offered

    opened = open_model(args.model)
    names = [isa.name for isa in offered() if isa.dot != "plain"] or ["plain"]
    made = []
    for name in names:
        step, _ = open_step(
            opened.checkpoint, opened.shape, threads=args.threads, instructions=name
        )
        made.append(Step(step))
    return made


class Theirs:
    """llama.cpp's own calls: a context of eight sequences, logits of the last token of each."""

    def __init__(self, file: Path, threads: int, label: str) -> None:
        import llama_cpp as lib

        self.lib, self.name = lib, label
        lib.llama_backend_init()
        self._quiet = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._quiet, None)
        self.model = lib.llama_model_load_from_file(
            os.fsencode(file), lib.llama_model_default_params()
        )
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = 8 * 1280, 8, 512, 512
        params.n_threads = params.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, params)
        self.memory = lib.llama_get_memory(self.context)
        self.tokens = lib.llama_batch_init(512, 0, 1)

    def at(self, ids: Sequence[int], start: int, rows: int) -> Turn:
        for row in range(rows):
            for first in range(0, start, 512):
                self._decode([5] * min(512, start - first), first, range(row, row + 1))

        def turn() -> None:
            for row in range(rows):
                self.lib.llama_memory_seq_rm(self.memory, row, start, -1)
            self._decode(list(ids), start, range(rows))

        return turn

    def _decode(self, ids: Sequence[int], start: int, rows: range) -> None:
        batch, n = self.tokens, 0
        if start == 0:
            for row in rows:
                self.lib.llama_memory_seq_rm(self.memory, row, 0, -1)
        for row in rows:
            for place, token in enumerate(ids):
                batch.token[n], batch.pos[n] = token, start + place
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, row
                batch.logits[n] = place == len(ids) - 1
                n += 1
        batch.n_tokens = n
        if self.lib.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")


class Transformers:
    """bf16, the plain model call, its cache cut back after every step."""

    def __init__(self, file: Path) -> None:
        from workbench.bench.peers import Transformers as Peer

        self.peer = Peer(file, torch.bfloat16)
        self.name = self.peer.name

    @torch.inference_mode()
    def at(self, ids: Sequence[int], start: int, rows: int) -> Turn:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.peer.model.config)
        new = torch.tensor([list(ids)] * rows)
        if start:
            self.peer.model(torch.full((rows, start), 5), past_key_values=cache, logits_to_keep=1)

        @torch.inference_mode()
        def turn() -> None:
            at = cache if start else DynamicCache(config=self.peer.model.config)
            self.peer.model(new, past_key_values=at, use_cache=True, logits_to_keep=1)
            if start:
                at.crop(-len(ids))

        return turn


def their_steps(args: argparse.Namespace) -> list[Any]:
    file = located(args.model)
    peers: list[Any] = [Transformers(file)]
    try:
        peers.append(Theirs(file, args.threads, "llama.cpp Q4_1"))
        peers.append(Theirs(requantised(file), args.threads, "llama.cpp Q4_0"))
    except ImportError:
        pass  # the rows then have one peer less
    return peers


def requantised(file: Path) -> Path:
    """The file in Q4_0, made once by llama.cpp itself, beside the packed weights."""
    import llama_cpp as lib

    from workbench.cpu.build import cache_folder

    out = cache_folder() / "packed" / f"{file.stem}-q4_0.gguf"
    if not out.exists():
        params = lib.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = lib.LLAMA_FTYPE_MOSTLY_Q4_0, True
        out.parent.mkdir(parents=True, exist_ok=True)
        if lib.llama_model_quantize(os.fsencode(file), os.fsencode(out), params) != 0:
            raise RuntimeError(f"llama.cpp could not requantise {file}")
    return out


def decode(
    ours: Sequence[Step], peers: Sequence[Any], args: argparse.Namespace, context: int
) -> Iterator[Row]:
    yield from compared(
        f"decode at {context}", f"1 row, {context} entries, {args.threads} threads", 1, ours, peers,
        args, lambda impl: impl.at([5], context, 1), floor(ours[0], context),
    )  # fmt: skip


def batch(ours: Sequence[Step], peers: Sequence[Any], args: argparse.Namespace) -> Iterator[Row]:
    yield from compared(
        "decode, batch of 8", f"8 rows, 128 entries, {args.threads} threads", 8, ours, peers, args,
        lambda impl: impl.at([5], 128, 8), None,
    )  # fmt: skip


def prefill(ours: Sequence[Step], peers: Sequence[Any], args: argparse.Namespace) -> Iterator[Row]:
    ids = torch.randint(10, 40000, (512,), generator=torch.manual_seed(1)).tolist()
    yield from compared(
        "prefill of 512", f"1 row, 512 tokens, {args.threads} threads", 512, ours, peers, args,
        lambda impl: impl.at(ids, 0, 1), None, steps=1,
    )  # fmt: skip


def compared(
    metric: str, shape: str, tokens: int, ours: Sequence[Step], peers: Sequence[Any],
    args: argparse.Namespace, make: Callable[[Any], Turn], most: float | None, steps: int = STEPS,
) -> Iterator[Row]:  # fmt: skip
    def repeated(turn: Turn) -> Turn:
        return lambda: [turn() for _ in range(steps)]

    turns = {impl.name: repeated(make(impl)) for impl in (*ours, *peers)}
    taken = take_turns(turns, args.rounds, clock=args.clock)
    for step in ours:
        value = tokens * steps / taken.median(step.name)
        for peer in peers:
            yield Row(
                metric, shape, step.name, value, "tok/s", peer.name,
                taken.ratio(step.name, peer.name), most, value / most if most else None,
            )  # fmt: skip
    for peer in peers:
        yield Row(metric, shape, peer.name, tokens * steps / taken.median(peer.name), "tok/s")


def floor(step: Step, context: int) -> float:
    """Tokens a second if a step only read its weights and its K and V, at one core's bandwidth."""
    size = step.forward.net.step_bytes
    kv = step.pool.layout.bytes_per_token * context
    return read_bandwidth(size) / (size + kv)
