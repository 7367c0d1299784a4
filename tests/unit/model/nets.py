"""Tiny random checkpoints of every family and every fact, made by transformers, and paged runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from workbench.forward import PLAIN, Forward, ForwardBatch, ForwardOutput, Override, Pool

VOCABULARY = 97
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SPARSE = {"num_experts": 6, "num_experts_per_tok": 2}


def rope(kind: str, **facts: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **facts}}


LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32)

# name -> (family's prefix in transformers, facts)
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama ffn 64": ("Llama", {"intermediate_size": 64}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama head_dim 16 of 32 / 4": ("Llama", {"head_dim": 16}),
    "llama one kv head": ("Llama", {"num_key_value_heads": 1}),
    "llama all kv heads": ("Llama", {"num_key_value_heads": 4}),
    "llama attention bias": ("Llama", {"attention_bias": True}),
    "llama mlp bias": ("Llama", {"mlp_bias": True}),
    "llama rope linear": ("Llama", rope("linear", factor=3.0)),
    "llama rope llama3": ("Llama", LLAMA3),
    "llama rope yarn": ("Llama", YARN),
    "llama rope yarn mscale": (
        "Llama", rope("yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.7,
                      mscale_all_dim=0.3, beta_fast=16.0, beta_slow=2.0),
    ),
    "llama rope yarn factor": (
        "Llama", rope("yarn", factor=4.0, original_max_position_embeddings=32,
                      attention_factor=1.3, truncate=False),
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral sliding": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen2 sliding from layer 1": (
        "Qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 bias": ("Qwen3", {"head_dim": 8, "attention_bias": True}),
    "qwen3 moe": (
        "Qwen3Moe", {**SPARSE, "head_dim": 8, "moe_intermediate_size": 24, "norm_topk_prob": True},
    ),
    "qwen3 moe mixed layers": (
        "Qwen3Moe", {**SPARSE, "head_dim": 8, "moe_intermediate_size": 24, "norm_topk_prob": False,
                     "mlp_only_layers": [1]},
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": ("Olmoe", {**SPARSE, "norm_topk_prob": False}),
    "olmoe clipped": ("Olmoe", {**SPARSE, "norm_topk_prob": True, "clip_qkv": 0.8}),
}  # fmt: skip


def make(name: str, folder: Path, **save: Any) -> Any:
    """Save the net (and a tokenizer of words w0 … w96) in `folder`; give transformers' model."""
    family, facts = NETS[name]
    config = getattr(transformers, f"{family}Config")(**{**BASE, **facts})
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5)
            else:  # norms around one, biases around zero: both must matter
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder, **save)
    save_tokenizer(folder)
    return model


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def tokens(n: int, seed: int = 0) -> list[int]:
    return torch.randint(3, VOCABULARY, (n,), generator=torch.manual_seed(seed)).tolist()


def oracle(model: Any, ids: Sequence[int]) -> Tensor:
    """transformers' logits [n, V]."""
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([list(ids)])).logits[0].float()
    return logits


@dataclass
class Row:
    """One branch: its stream, how much of it lies in memory, and its own pages in random order."""

    ids: list[int]
    pages: list[int]
    override: Override = PLAIN
    stored: int = 0


class Paged:
    """Drives a forward over rows, with every slot that holds nothing poisoned."""

    def __init__(self, forward: Forward, page_size: int, pages: int = 64, seed: int = 0) -> None:
        self.forward, self.size = forward, page_size
        self.pool: Pool = forward.new_pool(forward.layout(pages, page_size))
        self.pool.poison(torch.arange(self.pool.layout.slots))
        self.free = torch.randperm(pages, generator=torch.manual_seed(seed)).tolist()

    def row(self, ids: Sequence[int], override: Override = PLAIN) -> Row:
        need = -(-len(ids) // self.size)
        pages, self.free = self.free[:need], self.free[need:]
        return Row(list(ids), pages, override)

    def step(self, work: Sequence[tuple[Row, int]], **extra: Any) -> ForwardOutput:
        """Run the next n tokens of each row; logits of all tokens unless `extra` says otherwise."""
        batch = self.batch(work, **extra)
        why = self.forward.unserved(batch)
        assert why is None, why
        return self.forward(batch, self.pool)

    def batch(self, work: Sequence[tuple[Row, int]], **extra: Any) -> ForwardBatch:
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for row, n in work:
            span = range(row.stored, row.stored + n)
            ids += [row.ids[i] for i in span]
            positions += span
            slots += [row.pages[i // self.size] * self.size + i % self.size for i in span]
            row.stored += n
            starts.append(len(ids))
        width = max(len(row.pages) for row, _ in work)
        tables = [row.pages + [0] * (width - len(row.pages)) for row, _ in work]
        return ForwardBatch(
            torch.tensor(ids), torch.tensor(positions), torch.tensor(slots), torch.tensor(starts),
            torch.tensor([row.stored for row, _ in work]), torch.tensor(tables),
            overrides=tuple(row.override for row, _ in work),
            **{"logit_rows": torch.arange(len(ids)), **extra},
        )  # fmt: skip

    def all_logits(self, ids: Sequence[int], chunks: Sequence[int]) -> Tensor:
        row = self.row(ids)
        assert sum(chunks) == len(ids)
        return torch.cat([self.step([(row, n)]).logits for n in chunks])
