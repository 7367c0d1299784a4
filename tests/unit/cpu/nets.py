"""Small random nets for the step, in every family that it serves."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.cpu import weights
from workbench.cpu.weights import PackedNet
from workbench.model.shape import ModelShape, Moe, Rope

VOCABULARY = 103  # no multiple of sixteen


def shape(**facts: object) -> ModelShape:
    base: dict[str, Any] = dict(  # noqa: C408 - names, as in ModelShape
        family="llama", vocabulary=VOCABULARY, width=96, layers=3, heads=6, kv_heads=2, head_dim=16,
        ffn=160, norm_eps=1e-5, rope=Rope(10000.0), window=512, sliding=(None,) * 3,
    )  # fmt: skip
    return ModelShape(**{**base, **facts})


SHAPES = {
    "llama": shape(),
    "llama tied, seven heads a group": shape(tied_head=True, heads=14, head_dim=16, width=224),
    "many heads": shape(heads=24, kv_heads=8),
    "twenty heads a group": shape(heads=20, kv_heads=1),
    "mistral": shape(family="mistral", sliding=(9, None, 7)),
    "qwen2": shape(family="qwen2", qkv_bias=True, heads=4, kv_heads=4, head_dim=48),
    "qwen3": shape(family="qwen3", qk_norm="per-head", heads=4, kv_heads=1, head_dim=32),
    "yarn": shape(rope=Rope(10000.0, "yarn", factor=4.0, original_window=32)),
    "qwen3 moe": shape(
        family="qwen3_moe",
        qk_norm="per-head",
        head_dim=32,
        heads=3,
        kv_heads=1,
        moe=Moe(19, 3, 64, True, (True, False, True)),
    ),
    "mixtral": shape(family="mixtral", moe=Moe(4, 2, 160, True, (True,) * 3)),
    "olmoe": shape(
        family="olmoe",
        qk_norm="full-width",
        clip_qkv=0.8,
        moe=Moe(8, 5, 96, False, (True,) * 3),
    ),
    "biases": shape(o_bias=True, mlp_bias=True, qk_norm="full-width"),
}


class RandomSource:
    """Tensors made when asked for, the same ones every time."""

    def __init__(self, of: ModelShape) -> None:
        self.path = Path("random.net")
        self.of = of

    def has(self, name: str) -> bool:
        return True

    def blocks(self, name: str) -> None:
        return None

    def tensor(self, name: str) -> Tensor:
        generator = torch.manual_seed(sum(map(ord, name)) + len(name))
        size = self._size(name)
        values = torch.randn(size, generator=generator)
        if len(size) == 2:
            return values * 1.5 * size[-1] ** -0.5
        return values * 0.3 + (1.0 if "norm" in name else 0.0)

    def _size(self, name: str) -> tuple[int, ...]:
        s = self.of
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        sizes = {
            "q_proj": (q, s.width), "k_proj": (kv, s.width), "v_proj": (kv, s.width),
            "o_proj": (s.width, q), "gate_proj": (s.ffn, s.width), "up_proj": (s.ffn, s.width),
            "down_proj": (s.width, s.ffn), "embed_tokens": (s.vocabulary, s.width),
            "lm_head": (s.vocabulary, s.width),
        }  # fmt: skip
        stem, kind = name.split(".")[-2:]
        if s.moe is not None:
            inner, outer = (s.moe.ffn, s.width), (s.width, s.moe.ffn)
            sizes |= {"gate": (s.moe.count, s.width), "w1": inner, "w3": inner, "w2": outer}
            if ".experts." in name:
                sizes |= {"gate_proj": inner, "up_proj": inner, "down_proj": outer}
        if stem in sizes:
            return sizes[stem][:1] if kind == "bias" else sizes[stem]
        full = s.qk_norm == "full-width"
        if stem in ("q_norm", "k_norm"):
            return ((q if stem == "q_norm" else kv) if full else s.head_dim,)
        return (s.width,)


def net(name: str, kind: weights.Weights = "q8") -> PackedNet:
    return weights.pack(RandomSource(SHAPES[name]), SHAPES[name], kind, lambda line: None)


def tokens(n: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (n,), generator=torch.manual_seed(seed)).tolist()
