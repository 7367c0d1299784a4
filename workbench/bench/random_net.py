"""Nets of a published shape with random weights, which take the time of the real ones.

Every tensor has memory of its own, so that a step reads as many bytes as the real net's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.model import Model
from workbench.model.config import shape_of
from workbench.model.load import ModelSource, Opened, load_model, parameters
from workbench.model.tokenizer import ModelTokenizer

QWEN3 = {
    "vocab_size": 151936, "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "max_position_embeddings": 40960, "tie_word_embeddings": False, "hidden_act": "silu",
    "num_attention_heads": 32, "attention_bias": False,
}  # fmt: skip
CONFIGS: Mapping[str, dict[str, Any]] = {
    "qwen3-8b": {
        **QWEN3, "architectures": ["Qwen3ForCausalLM"], "hidden_size": 4096,
        "num_hidden_layers": 36, "num_key_value_heads": 8, "intermediate_size": 12288,
    },
    "qwen3-30b-a3b": {
        **QWEN3, "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048,
        "num_hidden_layers": 48, "num_key_value_heads": 4, "intermediate_size": 6144,
        "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
    "tiny-moe": {  # for a recording with experts; says nothing of any real net
        **QWEN3, "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 512,
        "vocab_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 1024,
        "moe_intermediate_size": 256, "num_experts": 32, "num_experts_per_tok": 4,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
}  # fmt: skip

END = {"eos_token_id": 0}


def two_byte_sizes(name: str) -> tuple[int, int]:
    """Bytes of the net's weights, and of one token's K and V."""
    shape = shape_of(CONFIGS[name])
    return 2 * parameters(shape), 4 * shape.layers * shape.kv_heads * shape.head_dim


class RandomCheckpoint:
    """A `checkpoint.Checkpoint` without a file: tensors of the config's shapes, N(0, 1/in)."""

    def __init__(
        self, name: str, config: Mapping[str, Any], device: str, dtype: torch.dtype, seed: int = 0
    ) -> None:
        self.path, self.config = Path(f"random {name}"), config
        self._device, self._dtype = device, dtype
        self._draw = torch.Generator(device).manual_seed(seed)

    def has(self, name: str) -> bool:
        return True

    def tensor(self, name: str) -> Tensor:
        shape = self.shape(name)
        if len(shape) == 1:
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        w = torch.empty(shape, dtype=self._dtype, device=self._device)
        return w.normal_(0.0, shape[1] ** -0.5, generator=self._draw)

    def blocks(self, name: str) -> None:
        return None

    def tokenizer_files(self) -> tuple[str, Mapping[str, Any]]:
        return byte_tokenizer(), END

    def shape(self, name: str) -> tuple[int, ...]:
        c = self.config
        width, dim = c["hidden_size"], c["head_dim"]
        q, kv = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim
        inner = c["moe_intermediate_size"] if ".experts." in name else c["intermediate_size"]
        part = name.removesuffix(".weight").rsplit(".", 1)[-1]
        shapes: dict[str, tuple[int, ...]] = {
            "embed_tokens": (c["vocab_size"], width), "lm_head": (c["vocab_size"], width),
            "q_proj": (q, width), "k_proj": (kv, width), "v_proj": (kv, width),
            "o_proj": (width, q), "gate_proj": (inner, width), "up_proj": (inner, width),
            "down_proj": (width, inner), "gate": (c.get("num_experts", 0), width),
            "q_norm": (dim,), "k_norm": (dim,),
        }  # fmt: skip
        return shapes.get(part, (width,))


def byte_tokenizer() -> str:
    """tokenizer.json of 256 bytes; other ids mean nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


def random_model(
    name: str, *, layers: int | None = None, backend: str = "cuda", dtype: str = "bf16"
) -> Model:
    """The net called `name` in `CONFIGS` with random weights (and `layers` of its layers)."""
    config = dict(CONFIGS[name])
    if layers is not None:
        config["num_hidden_layers"] = layers
    device = "cpu" if backend == "cpu" else "cuda"
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    checkpoint = RandomCheckpoint(name, config, device, kind)
    shape = shape_of(config)
    source = ModelSource(
        f"random {name}", "random weights", "", "", "none", parameters(shape),
        config["architectures"][0],
    )  # fmt: skip
    opened = Opened(checkpoint, shape, ModelTokenizer(byte_tokenizer(), END), source)
    return load_model(opened, backend=backend, dtype=dtype, weights="as loaded", threads=None)
