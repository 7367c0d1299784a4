"""The net in the form that training wants: dense, differentiable, LoRA merged into each weight.

Only the Llama family without extras (the SmolLM2 that the adapters are for); serving has its own
decoder over pages. Axis letters: B packed rows, N tokens a row, R targets, M width, V vocabulary.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.model.shape import ModelShape

LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """Rank and scale of an adapter on all seven linears (2106.09685)."""

    rank: int = 12
    scale: float = 2.0  # alpha / rank


class TrainNet(nn.Module):
    """Frozen weights (Hugging Face names) and a trainable LoRA.

    The merged weight W + scale · B A is formed once a step: one plain forward, no adapter products.
    """

    def __init__(
        self, shape: ModelShape, weights: Mapping[str, Tensor], lora: LoraFacts, seed: int
    ) -> None:
        super().__init__()
        if shape.experts or shape.qk_norm != "none" or shape.qkv_bias:
            raise ValueError(f"training serves plain Llama nets; {shape.family} has more to it")
        self.shape, self.lora = shape, lora
        for name, tensor in weights.items():
            self.register_buffer(name.replace(".", "__"), tensor, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.ParameterDict()  # A [r, in]
        self.up = nn.ParameterDict()  # B [out, r]
        for name in self.linear_names():
            out, inner = self.weight(name).shape
            a = torch.randn(lora.rank, inner, generator=generator) / math.sqrt(inner)
            self.down[name.replace(".", "__")] = nn.Parameter(a)
            self.up[name.replace(".", "__")] = nn.Parameter(torch.zeros(out, lora.rank))

    def linear_names(self) -> Iterator[str]:
        for layer in range(self.shape.layers):
            for linear in LINEARS:
                yield f"model.layers.{layer}.{linear}"

    def weight(self, name: str) -> Tensor:
        return self.get_buffer(f"{name}.weight".replace(".", "__"))

    def merged(self, name: str) -> Tensor:
        key, base = name.replace(".", "__"), self.weight(name)
        delta = self.up[key] @ self.down[key]
        merged: Tensor = base + (self.lora.scale * delta).to(base.dtype)
        return merged

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over targets ≥ 0. ids, positions, targets [B, N]; mask [B, 1, N, N] bool."""
        embedding = self.weight("model.embed_tokens")
        rotary = self.shape.rope.rotary(self.shape.head_dim)
        angles = positions[..., None].float() * rotary.inv_freq.to(positions.device)
        turn = (
            angles.cos()[:, None].to(embedding.dtype),
            angles.sin()[:, None].to(embedding.dtype),
        )
        x = F.embedding(ids, embedding)
        for layer in range(self.shape.layers):
            prefix = f"model.layers.{layer}"
            x = x + self._attend(prefix, self._norm(f"{prefix}.input_layernorm", x), turn, mask)
            x = x + self._feed(prefix, self._norm(f"{prefix}.post_attention_layernorm", x))
        chosen = targets >= 0
        hidden = self._norm("model.norm", x[chosen])
        head = embedding if self.shape.tied_head else self.weight("lm_head")
        return F.cross_entropy((hidden @ head.T).float(), targets[chosen])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight(name), self.shape.norm_eps)

    def _attend(self, prefix: str, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        def heads(name: str, count: int) -> Tensor:
            y = F.linear(x, self.merged(f"{prefix}.self_attn.{name}"))
            return y.view(*y.shape[:2], count, self.shape.head_dim).transpose(1, 2)

        q = _rotate(heads("q_proj", self.shape.heads), *turn)
        k = _rotate(heads("k_proj", self.shape.kv_heads), *turn)
        v = heads("v_proj", self.shape.kv_heads)
        group = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.linear(y.transpose(1, 2).flatten(-2), self.merged(f"{prefix}.self_attn.o_proj"))

    def _feed(self, prefix: str, x: Tensor) -> Tensor:
        gate = F.linear(x, self.merged(f"{prefix}.mlp.gate_proj"))
        up = F.linear(x, self.merged(f"{prefix}.mlp.up_proj"))
        return F.linear(F.silu(gate) * up, self.merged(f"{prefix}.mlp.down_proj"))

    def adapter(self) -> dict[str, Tensor]:
        """The LoRA in PEFT's layout, bf16."""
        tensors: dict[str, Tensor] = {}
        for name in self.linear_names():
            key, place = name.replace(".", "__"), f"base_model.model.{name}"
            tensors[f"{place}.lora_A.weight"] = self.down[key].detach().to("cpu", torch.bfloat16)
            tensors[f"{place}.lora_B.weight"] = self.up[key].detach().to("cpu", torch.bfloat16)
        return tensors


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
