"""What a net is, as plain facts: the one place where families differ.

Axis letters, used wherever tensors are named: T tokens of a step, B rows (branches), W pages of a
block table, M model width, F feed-forward width, Q query heads, H KV heads, D head_dim, E experts,
k experts a token, V vocabulary, L layers, P pages, S slots a page, R rows of logits, N vectors
handed in.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workbench.forward import ForwardBatch
from workbench.ops.contract import Rotary

RopeKind = Literal["default", "linear", "llama3", "yarn"]
QkNorm = Literal["none", "per-head", "full-width"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position facts. Fields below `factor` matter to the kinds named beside them."""

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0  # linear, llama3, yarn
    original_window: int = 0  # llama3, yarn: positions of the net before it was stretched
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: worked out from `factor` and the mscales
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn
    divisors: tuple[float, ...] = ()  # [D / 2], each frequency's own; empty: none (GGUF's llama3)

    def rotary(self, head_dim: int) -> Rotary:
        """Frequencies and the factor on cos and sin, scaling worked in."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        inv_freq = 1.0 / (self.theta**exponents)
        if self.kind == "linear":
            return Rotary(inv_freq / self.factor)
        if self.kind == "llama3":
            return Rotary(self._llama3(inv_freq))
        if self.kind == "yarn":
            return Rotary(self._yarn(inv_freq, head_dim), self._yarn_scale())
        if self.divisors:
            return Rotary(inv_freq / torch.tensor(self.divisors))
        return Rotary(inv_freq)

    def _llama3(self, inv_freq: Tensor) -> Tensor:
        # Llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended.
        wavelength = 2 * math.pi / inv_freq
        longest_kept = self.original_window / self.high_freq_factor
        shortest_stretched = self.original_window / self.low_freq_factor
        blend = (self.original_window / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        between = (1 - blend) * inv_freq / self.factor + blend * inv_freq
        stretched = torch.where(wavelength > shortest_stretched, inv_freq / self.factor, between)
        return torch.where(wavelength < longest_kept, inv_freq, stretched)

    def _yarn(self, inv_freq: Tensor, head_dim: int) -> Tensor:
        # YaRN (2309.00071, section 3.2): a ramp over dimensions from kept to stretched.
        def dimension(rotations: float) -> float:
            turns = self.original_window / (rotations * 2 * math.pi)
            return head_dim * math.log(turns) / (2 * math.log(self.theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001  # the ramp must not divide by nothing
        steps = torch.arange(head_dim // 2, dtype=torch.float32)
        ramp = ((steps - low) / (high - low)).clamp(0, 1)
        return inv_freq / self.factor * ramp + inv_freq * (1 - ramp)

    def _yarn_scale(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor

        def softening(mscale: float) -> float:
            return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0

        if self.mscale and self.mscale_all_dim:
            return softening(self.mscale) / softening(self.mscale_all_dim)
        return softening(1.0)


@dataclass(frozen=True, slots=True)
class Moe:
    """Expert facts of a sparse net."""

    count: int  # E
    k: int
    ffn: int  # F of one expert
    norm_topk_prob: bool
    layers: tuple[bool, ...]  # which layers are sparse; the others have a dense MLP


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Every fact of a decoder-only net of a family that we serve. Satisfies `forward.NetFacts`."""

    family: str  # as shown: "llama", "qwen3_moe" …
    vocabulary: int  # V
    width: int  # M
    layers: int  # L
    heads: int  # Q
    kv_heads: int  # H
    head_dim: int  # D
    ffn: int  # F of a dense layer
    norm_eps: float
    rope: Rope
    window: int  # positions that the net was made for
    sliding: tuple[int | None, ...]  # per layer: a token reads this many last entries, None: all
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QkNorm = "none"
    clip_qkv: float | None = None
    tied_head: bool = False
    moe: Moe | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads must be a multiple of kv_heads, got {self.heads} and {self.kv_heads}"
            )
        if len(self.sliding) != self.layers:
            raise ValueError(f"sliding needs {self.layers} entries, got {len(self.sliding)}")

    @property
    def experts(self) -> int:
        return self.moe.count if self.moe else 0

    @property
    def attention_scale(self) -> float:
        return float(self.head_dim**-0.5)

    def expert_tensors(self, layer: int) -> tuple[str, tuple[str, str, str]]:
        """A sparse layer's tensors as checkpoints name them: its router's, and those of gate, up
        and down with a `{}` for the expert."""
        at = f"model.layers.{layer}."
        if self.family == "mixtral":
            at, parts = f"{at}block_sparse_moe.", ("w1", "w3", "w2")
        else:
            at, parts = f"{at}mlp.", ("gate_proj", "up_proj", "down_proj")
        gate, up, down = (f"{at}experts.{{}}.{part}.weight" for part in parts)
        return f"{at}gate.weight", (gate, up, down)

    def sparse(self, layer: int) -> bool:
        """Whether `layer` routes its tokens to experts."""
        return self.moe is not None and self.moe.layers[layer]


def unserved(shape: ModelShape, batch: ForwardBatch, adapters: Collection[str]) -> str | None:
    """Why no net of this shape with these adapters can carry out `batch`; None when one can."""
    for override in batch.overrides:
        if override.adapter is not None and override.adapter not in adapters:
            known = ", ".join(sorted(adapters)) or "none"
            return f"adapter {override.adapter!r} is not loaded (loaded: {known})"
        if override.exit_layer is not None and not 1 <= override.exit_layer <= shape.layers:
            return f"exit_layer must be 1 to {shape.layers}, got {override.exit_layer}"
        for steer in override.steering:
            if not 0 <= steer.layer < shape.layers or steer.vector.shape != (shape.width,):
                return (
                    f"steering wants a layer of 0 to {shape.layers - 1} and a vector "
                    f"[{shape.width}], got {steer.layer} and {list(steer.vector.shape)}"
                )
    if batch.vectors is not None and batch.vectors.shape[1:] != (shape.width,):
        return f"vectors must be [N, {shape.width}], got {list(batch.vectors.shape)}"
    if any(not -1 <= layer < shape.layers for layer in batch.hidden_layers):
        return f"hidden_layers must lie in -1 to {shape.layers - 1}, got {batch.hidden_layers}"
    if any(batch.attached) and any(shape.sliding):  # nobody says how far back others stand
        return "attach is not served on a net with sliding windows; take one without"
    if batch.ancestors is not None and any(shape.sliding):
        return "token trees are not served on a net with sliding windows; take one without"
    return None
