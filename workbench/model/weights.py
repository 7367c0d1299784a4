"""A checkpoint's tensors -> the decoder's packed net; shapes are checked against the config."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.ops.contract import Linear, Ops
from workbench.ops.cpu import CpuOps
from workbench.ops.packing import GroupedQ4

from .checkpoint import Checkpoint, q4_of
from .decoder import Experts, Layer, Net
from .errors import ModelError
from .shape import ModelShape


class NetBuilder:
    """Reads tensors, checks their shapes, packs them with `ops`."""

    def __init__(
        self,
        shape: ModelShape,
        checkpoint: Checkpoint,
        ops: Ops,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.shape, self.checkpoint, self.ops = shape, checkpoint, ops
        self.dtype, self.device = dtype, device
        self._int4 = isinstance(ops, CpuOps) and ops.form == "int4"

    def net(self) -> Net:
        s = self.shape
        embedding = self._tensor("model.embed_tokens.weight", s.vocabulary, s.width)
        layers = tuple(self._layer(index) for index in range(s.layers))
        return Net(
            embedding, layers, self._tensor("model.norm.weight", s.width), self._head(embedding)
        )

    def _head(self, embedding: Tensor) -> Linear:
        s = self.shape
        if s.tied_head:
            return self.ops.pack(embedding)
        return self._linear(["lm_head.weight"], [s.vocabulary], s.width, False)

    def _layer(self, index: int) -> Layer:
        s, at = self.shape, f"model.layers.{index}."
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        names = [f"{at}self_attn.{part}_proj.weight" for part in "qkv"]
        qkv = self._linear(names, [q, kv, kv], s.width, s.qkv_bias)
        o = self._linear([f"{at}self_attn.o_proj.weight"], [s.width], q, s.o_bias)
        norms: list[Tensor | None] = [None, None]
        if s.qk_norm != "none":
            full = s.qk_norm == "full-width"
            norms = [
                self._tensor(f"{at}self_attn.q_norm.weight", q if full else s.head_dim),
                self._tensor(f"{at}self_attn.k_norm.weight", kv if full else s.head_dim),
            ]
        gate_up = down = experts = None
        if s.sparse(index):
            experts = self._experts(index)
        else:
            gates = [f"{at}mlp.{part}_proj.weight" for part in ("gate", "up")]
            gate_up = self._linear(gates, [s.ffn, s.ffn], s.width, s.mlp_bias)
            down = self._linear([f"{at}mlp.down_proj.weight"], [s.width], s.ffn, s.mlp_bias)
        return Layer(
            self._tensor(f"{at}input_layernorm.weight", s.width), qkv, o,
            self._tensor(f"{at}post_attention_layernorm.weight", s.width),
            norms[0], norms[1], gate_up, down, experts,
        )  # fmt: skip

    def _experts(self, layer: int) -> Experts:
        s, moe = self.shape, self.shape.moe
        assert moe is not None
        router, parts = s.expert_tensors(layer)
        gate_up = torch.empty(moe.count, 2 * moe.ffn, s.width, dtype=self.dtype, device=self.device)
        down = torch.empty(moe.count, s.width, moe.ffn, dtype=self.dtype, device=self.device)
        for expert in range(moe.count):
            gate, up, out = (part.format(expert) for part in parts)
            gate_up[expert, : moe.ffn] = self._tensor(gate, moe.ffn, s.width)
            gate_up[expert, moe.ffn :] = self._tensor(up, moe.ffn, s.width)
            down[expert] = self._tensor(out, s.width, moe.ffn)
        return Experts(self._tensor(router, moe.count, s.width), gate_up, down)

    def _linear(
        self, names: Sequence[str], outs: Sequence[int], inward: int, biased: bool
    ) -> Linear:
        """Weights of the same input stacked into one product."""
        bias = None
        if biased:
            bias = torch.cat(
                [
                    self._tensor(name.removesuffix("weight") + "bias", out)
                    for name, out in zip(names, outs, strict=True)
                ]
            )
        if self._int4:
            parts = [q4_of(self.checkpoint, name) for name in names]
            if all(part is not None for part in parts):
                stacked = GroupedQ4.cat([part for part in parts if part is not None])
                self._check(names[0], stacked.codes.shape, (sum(outs), inward))
                assert isinstance(self.ops, CpuOps)
                return self.ops.pack(stacked, bias)
        dense = [self._tensor(name, out, inward) for name, out in zip(names, outs, strict=True)]
        return self.ops.pack(dense[0] if len(dense) == 1 else torch.cat(dense), bias)

    def _tensor(self, name: str, *wanted: int) -> Tensor:
        tensor = self.checkpoint.tensor(name)
        self._check(name, tensor.shape, wanted)
        return tensor.to(self.device, self.dtype).contiguous()

    def _check(self, name: str, came: Sequence[int], wanted: Sequence[int]) -> None:
        if tuple(came) != tuple(wanted):
            raise ModelError(
                f"{self.checkpoint.path}: {name} must be {list(wanted)} by the config, "
                f"got {list(came)}; config and weights belong to different models"
            )
