"""Weights under Hugging Face's names, wherever they lie: in a folder, or in a GGUF file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from workbench.ops.packing import GroupedQ4

from .config import read_config
from .errors import ModelError
from .gguf_convert import PERMUTED
from .gguf_file import Blocks, GgufFile, grouped_q4
from .safefiles import open_folder


class Checkpoint(Protocol):
    """Where a net's tensors come from. Names are those of Hugging Face checkpoints."""

    path: Path
    config: Mapping[str, Any]

    def has(self, name: str) -> bool: ...

    def tensor(self, name: str) -> Tensor:
        """The tensor in the file's own float type (float32 where it is quantised)."""

    def blocks(self, name: str) -> Blocks | None:
        """The tensor's quantised rows, ordered as `tensor`'s rows; None where it has none."""

    def tokenizer_files(self) -> tuple[str, Mapping[str, Any]]:
        """tokenizer.json as text, and the fields of tokenizer_config.json."""


class FolderCheckpoint:
    """A Hugging Face directory: config.json, safetensors, tokenizer.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: Mapping[str, Any] = read_config(path)
        self._files = open_folder(path)

    def has(self, name: str) -> bool:
        return name in self._files

    def tensor(self, name: str) -> Tensor:
        if name not in self._files:
            raise ModelError(
                f"{self.path} lacks the tensor {name}, which its config.json calls for; "
                "fetch the checkpoint again"
            )
        return self._files[name].tensor(name)

    def blocks(self, name: str) -> Blocks | None:
        return None

    def tokenizer_files(self) -> tuple[str, Mapping[str, Any]]:
        path = self.path / "tokenizer.json"
        try:
            text = path.read_text()
        except FileNotFoundError as error:
            raise ModelError(
                f"wanted {path}, which does not exist; save the tokenizer in the fast form "
                "(`AutoTokenizer.from_pretrained(...).save_pretrained(...)`)"
            ) from error
        config: dict[str, Any] = {}
        for name in ("tokenizer_config.json", "generation_config.json"):
            if (file := self.path / name).exists():
                config = {**json.loads(file.read_text()), **config}
        if (template := self.path / "chat_template.jinja").exists():
            config["chat_template"] = template.read_text()
        return text, config


# Hugging Face's name of a layer's tensor -> llama.cpp's
GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
# an expert's part -> the stack of all experts' parts
GGUF_EXPERT = {
    "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps",
}  # fmt: skip
GGUF_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


class GgufCheckpoint:
    """A GGUF file seen as a checkpoint; llama.cpp's permutation of Q and K is undone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = GgufFile(path)
        self.config: Mapping[str, Any] = self.file.config
        self._permuted = self.config["architectures"][0] in PERMUTED

    def has(self, name: str) -> bool:
        return self._name(name) in self.file.placed

    def tensor(self, name: str) -> Tensor:
        return self.file.dense(self._blocks(name))

    def blocks(self, name: str) -> Blocks | None:
        found = self._blocks(name)
        return None if found.kind in ("F32", "F16", "BF16") else found

    def tokenizer_files(self) -> tuple[str, Mapping[str, Any]]:
        return self.file.tokenizer["tokenizer"], self.file.tokenizer["config"]

    def _name(self, name: str) -> str:
        if name in GGUF_OUTER:
            return GGUF_OUTER[name]
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        stem, _, kind = rest.rpartition(".")
        if ".experts." in stem:
            return f"blk.{layer}.{GGUF_EXPERT[stem.rpartition('.')[2]]}.{kind}"
        return f"blk.{layer}.{GGUF_LAYER.get(stem, stem)}.{kind}"

    def _blocks(self, name: str) -> Blocks:
        theirs = self._name(name)
        if theirs not in self.file.placed:
            raise ModelError(f"{self.path} lacks the tensor {theirs}; fetch or convert it again")
        found = self.file.blocks(theirs)
        if ".experts." in name:
            return _expert(found, int(name.partition(".experts.")[2].partition(".")[0]))
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if self._permuted and f"self_attn.{part}." in name:
                return _unpermuted(found, int(self.config[heads]))
        return found


def _expert(stack: Blocks, index: int) -> Blocks:
    """One expert's rows of [E, out, in]."""
    count, out, inward = stack.shape
    rows = stack.rows.reshape(count, out, -1)[index]
    return Blocks(stack.kind, (out, inward), rows)


def _unpermuted(blocks: Blocks, heads: int) -> Blocks:
    """llama.cpp keeps row 2i + half of a head where the checkpoint has half * D/2 + i."""
    if len(blocks.shape) == 1:  # a bias: one value a "row"
        values = blocks.rows.reshape(blocks.shape[0], -1)
        order = _order(blocks.shape[0], heads)
        return Blocks(blocks.kind, blocks.shape, values[order].reshape(blocks.rows.shape))
    return Blocks(blocks.kind, blocks.shape, blocks.rows[_order(blocks.shape[0], heads)])


def _order(rows: int, heads: int) -> Any:
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).reshape(-1).numpy()


def q4_of(checkpoint: Checkpoint, name: str) -> GroupedQ4 | None:
    """The weight in int4 groups where the file has it so."""
    blocks = checkpoint.blocks(name)
    return None if blocks is None else grouped_q4(blocks)


def open_checkpoint(path: Path) -> Checkpoint:
    """A folder or a `.gguf` file. Raises ModelError."""
    if path.is_dir():
        ggufs = sorted(path.glob("*.gguf"))
        if not (path / "config.json").exists() and len(ggufs) == 1:
            return GgufCheckpoint(ggufs[0])
        return FolderCheckpoint(path)
    if path.suffix == ".gguf":
        return GgufCheckpoint(path)
    raise ModelError(f"wanted a checkpoint's folder or a .gguf file, got {path}")
