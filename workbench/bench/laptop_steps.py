"""One step of each implementation, ready to be called over and over: ours, llama.cpp's and
transformers'."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.ctypeslib import as_array
from torch import Tensor

from workbench.cpu import NumbaForward, open_step
from workbench.cpu.isa import offered
from workbench.forward import ForwardBatch
from workbench.model.load import Opened

PAGE = 16
CONTEXT = 1100  # entries that a row has room for
Turn = Callable[[], object]


class Step:
    """Our step over pages: in random order, or `in_order`, as a cache without tables would lie."""

    def __init__(
        self, forward: NumbaForward, rows: int = 8, page: int = PAGE, in_order: bool = False,
        name: str = "",
    ) -> None:  # fmt: skip
        self.forward, self.page = forward, page
        self.name = name or f"{forward.name} {forward.isa.name}"
        pages = -(-CONTEXT // page)
        self.pool = forward.new_pool(forward.layout(pages * rows, page))
        mixed = torch.randperm(pages * rows, generator=torch.manual_seed(0))
        order = torch.arange(pages * rows) if in_order else mixed
        self.tables = order.view(rows, pages)

    def batch(self, ids: Sequence[int], start: int, rows: int) -> ForwardBatch:
        """The step in which `rows` branches of `start` entries each take `ids`."""
        entry = torch.arange(start, start + len(ids))
        tables = self.tables[:rows]
        slots = tables[:, entry // self.page] * self.page + entry % self.page
        return ForwardBatch(
            torch.tensor(list(ids) * rows), entry.repeat(rows), slots.reshape(-1),
            torch.arange(rows + 1) * len(ids), torch.full((rows,), start + len(ids)), tables,
            logit_rows=(torch.arange(rows) + 1) * len(ids) - 1,
        )  # fmt: skip

    def at(self, ids: Sequence[int], start: int, rows: int) -> Turn:
        made = self.batch(ids, start, rows)
        return lambda: self.forward(made, self.pool)

    def reads(self, context: int) -> int:
        """Bytes of weights, K and V that a token's step has to read."""
        return self.forward.net.step_bytes + self.pool.layout.bytes_per_token * context


def our_steps(opened: Opened, threads: int, sets: Sequence[str] | None = None) -> list[Step]:
    """A step for each set of instructions that this CPU offers, fastest first."""
    names = [isa.name for isa in offered() if isa.dot != "plain"] or ["plain"]
    made = []
    for name in [n for n in names if sets is None or n in sets] or names[:1]:
        step, _ = open_step(opened.checkpoint, opened.shape, threads=threads, instructions=name)
        made.append(Step(step))
    return made


class LlamaCppStep:
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

    def logits(self, ids: Sequence[int], start: int) -> Tensor:
        """[n, V] of the next tokens of sequence 0."""
        self._decode(list(ids), start, range(1), every=True)
        vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        rows = [self.lib.llama_get_logits_ith(self.context, n) for n in range(len(ids))]
        return torch.from_numpy(np.stack([as_array(row, (vocabulary,)) for row in rows]))

    def _decode(self, ids: list[int], start: int, rows: range, every: bool = False) -> None:
        batch, n = self.tokens, 0
        if start == 0:
            for row in rows:
                self.lib.llama_memory_seq_rm(self.memory, row, 0, -1)
        for row in rows:
            for place, token in enumerate(ids):
                batch.token[n], batch.pos[n] = token, start + place
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, row
                batch.logits[n] = every or place == len(ids) - 1
                n += 1
        batch.n_tokens = n
        if self.lib.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")


class TransformersStep:
    """bf16, the plain model call, its cache cut back after every step."""

    def __init__(self, file: Path) -> None:
        from workbench.bench.peers import Transformers

        self.peer = Transformers(file, torch.bfloat16)
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


def llama_steps(file: Path, threads: int) -> list[LlamaCppStep]:
    """llama.cpp on the very file and, its best case, on the same in Q4_0; none where it is not."""
    try:
        return [
            LlamaCppStep(file, threads, "llama.cpp Q4_1"),
            LlamaCppStep(requantised(file), threads, "llama.cpp Q4_0"),
        ]
    except ImportError:
        return []


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
