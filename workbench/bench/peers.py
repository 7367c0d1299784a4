"""The peers: transformers on the same weights, llama.cpp on the same file where it is there."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Transformers:
    """Greedy decoding by transformers, in the plainest loop that its model API allows: no sampling,
    no stopping rule, no callback, so that nothing but the net and its cache is timed."""

    def __init__(self, source: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        place = {"gguf_file": source.name} if source.is_file() else {}
        folder = source.parent if source.is_file() else source
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **place)
        self.model: Any = model.eval()
        self.name = "transformers " + {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
        self.cache: Any = None
        self.last: Tensor = torch.empty(0, dtype=torch.int64)

    @torch.inference_mode()
    def open(self, prompt: Sequence[int]) -> None:
        """Prefill; `decode` goes on from there."""
        out = self.model(torch.tensor([list(prompt)]), use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        self.last = out.logits[:, -1].argmax(-1, keepdim=True)

    @torch.inference_mode()
    def decode(self, tokens: int) -> None:
        for _ in range(tokens):
            out = self.model(self.last, past_key_values=self.cache, use_cache=True)
            self.cache = out.past_key_values
            self.last = out.logits[:, -1].argmax(-1, keepdim=True)

    @torch.inference_mode()
    def static_batch(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """One batch, padded on the left, until its longest output is done: a static batch waits."""
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(
            ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1
        )
        place, one = places[:, -1:], torch.ones(len(prompts), 1, dtype=torch.int64)
        for _ in range(max(lengths) - 1):
            last = out.logits[:, -1].argmax(-1, keepdim=True)
            mask, place = torch.cat([mask, one], 1), place + 1
            out = self.model(
                last,
                attention_mask=mask,
                position_ids=place,
                past_key_values=out.past_key_values,
                use_cache=True,
            )


class LlamaCpp:
    """llama.cpp through llama-cpp-python, on the file as it is. Raises ImportError without it."""

    def __init__(self, file: Path, threads: int, context: int = 2560, label: str = "") -> None:
        from llama_cpp import Llama

        self.model: Any = Llama(
            str(file),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            n_batch=512,
            verbose=False,
        )
        self.name = f"llama.cpp {label or file.stem}"

    def open(self, prompt: Sequence[int]) -> None:
        self.model.reset()
        self.model.eval(list(prompt))

    def decode(self, tokens: int) -> None:
        import numpy as np

        for _ in range(tokens):
            scores = self.model._scores[-1]
            self.model.eval([int(np.argmax(scores))])
