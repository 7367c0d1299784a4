"""The net in the form that training wants: dense, differentiable, LoRA merged into each weight.

Only the Llama family without extras (the SmolLM2 that the adapters are for); serving has its own
decoder over pages. Weights of one kind lie stacked over the layers, so that merging an adapter is
seven products a step and not seven a layer. Axis letters: L layers, B packed rows, N tokens a row,
T targets, M width, V vocabulary, r rank.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.model.shape import ModelShape
from workbench.train.masks import Mask, attend

LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """Rank and scale of an adapter on all seven linears (2106.09685). `full` trains the weights
    themselves instead."""

    rank: int = 12
    scale: float = 2.0  # alpha / rank
    full: bool = False


class TrainNet(nn.Module):
    """Frozen weights (Hugging Face names) and a trainable LoRA.

    The merged weight W + scale · B A is formed once a step: one plain forward, no adapter products.
    """

    embedding: Tensor  # [V, M]
    norm: Tensor
    head: Tensor  # [V, M]
    inv_freq: Tensor
    one_layer: Callable[..., Tensor]  # replaced by compiled twins where that pays
    loss: Callable[..., Tensor]

    def __init__(
        self, shape: ModelShape, weights: Mapping[str, Tensor], lora: LoraFacts, seed: int
    ) -> None:
        super().__init__()
        if shape.experts or shape.qk_norm != "none" or shape.qkv_bias:
            raise ValueError(f"training serves plain Llama nets; {shape.family} has more to it")
        self.shape, self.lora = shape, lora
        self.one_layer, self.loss = layer, mean_loss
        head = "model.embed_tokens" if shape.tied_head else "lm_head"
        for name, place in (
            ("embedding", "model.embed_tokens"),
            ("norm", "model.norm"),
            ("head", head),
        ):
            self.register_buffer(name, weights[f"{place}.weight"], persistent=False)
        for name in (*NORMS, *LINEARS):
            layers = [weights[f"{_at(i)}.{name}.weight"] for i in range(shape.layers)]
            self.register_buffer(_key(name), torch.stack(layers), persistent=False)
        rotary = shape.rope.rotary(shape.head_dim)
        self.register_buffer("inv_freq", rotary.inv_freq, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.ParameterDict()  # A [L, r, in]
        self.up = nn.ParameterDict()  # B [L, out, r]
        self.whole = nn.ParameterDict()  # W [L, out, in], fp32, only where all of it is trained
        for name in LINEARS:
            base = self.stacked(name)
            if lora.full:
                self.whole[_key(name)] = nn.Parameter(base.float())
                continue
            layers_, out, inner = base.shape
            a = torch.randn(layers_, lora.rank, inner, generator=generator) / math.sqrt(inner)
            self.down[_key(name)] = nn.Parameter(a)
            self.up[_key(name)] = nn.Parameter(torch.zeros(layers_, out, lora.rank))

    def stacked(self, name: str) -> Tensor:
        return self.get_buffer(_key(name))

    def merged(self, name: str) -> Tensor:
        """A linear's weights with what was learned, [L, out, in]."""
        key, base = _key(name), self.stacked(name)
        if self.lora.full:
            whole: Tensor = self.whole[key].to(base.dtype)
            return whole
        delta = torch.bmm(self.up[key], self.down[key])
        merged: Tensor = base + (self.lora.scale * delta).to(base.dtype)
        return merged

    def trained(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {k: v for k, v in self.state_dict().items() if k.startswith(("down", "up", "whole"))}

    def forward(
        self, ids: Tensor, positions: Tensor, mask: Mask, places: Tensor, wanted: Tensor
    ) -> Tensor:
        """Mean loss over targets. ids, positions [B, N]; `places` [T] are indexes into the B·N
        tokens, `wanted` [T] the tokens to predict there, negative for none."""
        x = self.hidden(ids, positions, mask)
        return self.loss(self.shape, x, self.norm, self.head, places, wanted)

    def hidden(self, ids: Tensor, positions: Tensor, mask: Mask) -> Tensor:
        """[B, N, M] behind the last layer, before the final norm."""
        angles = positions[:, None, :, None].float() * self.inv_freq
        turn = angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)
        x = F.embedding(ids, self.embedding)
        norms = [self.stacked(name).unbind() for name in NORMS]
        linears = [self.merged(name).unbind() for name in LINEARS]
        for weights in zip(*norms, *linears, strict=True):
            x = self.one_layer(self.shape, x, turn, mask, *weights)
        return x

    def adapter(self) -> dict[str, Tensor]:
        """The LoRA in PEFT's layout, bf16; the weights themselves where all were trained."""
        tensors: dict[str, Tensor] = {}
        for name, i in self._places():
            key, place = _key(name), f"{_at(i)}.{name}"
            if self.lora.full:
                tensors[f"{place}.weight"] = _leave(self.whole[key][i])
                continue
            tensors[f"base_model.model.{place}.lora_A.weight"] = _leave(self.down[key][i])
            tensors[f"base_model.model.{place}.lora_B.weight"] = _leave(self.up[key][i])
        return tensors

    def read_adapter(self, tensors: Mapping[str, Tensor]) -> None:
        """Take on a LoRA as `adapter` wrote it."""
        with torch.no_grad():
            for name, i in self._places():
                key, place = _key(name), f"base_model.model.{_at(i)}.{name}"
                self.down[key][i].copy_(tensors[f"{place}.lora_A.weight"])
                self.up[key][i].copy_(tensors[f"{place}.lora_B.weight"])

    def _places(self) -> Iterator[tuple[str, int]]:
        return ((name, i) for i in range(self.shape.layers) for name in LINEARS)


def layer(
    shape: ModelShape,
    x: Tensor,
    turn: tuple[Tensor, Tensor],
    mask: Mask,
    norm1: Tensor,
    norm2: Tensor,
    *linears: Tensor,
) -> Tensor:
    """One decoder layer, a pure function of its weights: so one compilation serves all layers."""
    wq, wk, wv, wo, gate, up, down = linears

    def heads(y: Tensor, count: int) -> Tensor:
        return y.view(*y.shape[:2], count, shape.head_dim).transpose(1, 2)

    y = F.rms_norm(x, (x.shape[-1],), norm1, shape.norm_eps)
    q = _rotate(heads(F.linear(y, wq), shape.heads), *turn)
    k = _rotate(heads(F.linear(y, wk), shape.kv_heads), *turn)
    v = heads(F.linear(y, wv), shape.kv_heads)
    seen = attend(q, k, v, mask)
    x = x + F.linear(seen.transpose(1, 2).flatten(-2), wo)
    y = F.rms_norm(x, (x.shape[-1],), norm2, shape.norm_eps)
    return x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)


def mean_loss(
    shape: ModelShape, x: Tensor, norm: Tensor, head: Tensor, places: Tensor, wanted: Tensor
) -> Tensor:
    """Final norm, logits at the targets only, their mean loss."""
    hidden = F.rms_norm(x.flatten(0, 1)[places], (x.shape[-1],), norm, shape.norm_eps)
    return F.cross_entropy((hidden @ head.T).float(), wanted, ignore_index=-100)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def _at(layer: int) -> str:
    return f"model.layers.{layer}"


def _key(name: str) -> str:
    return name.replace(".", "__")


def _leave(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.bfloat16).contiguous()
