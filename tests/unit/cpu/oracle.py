"""The same net in plain torch fp32, over whole sequences: no pages, no batch.

`rounded`: inputs of matrices go through int8 in blocks of 16, and K and V through halves, as
the step has them by design. What differs then is a fault; without it, what differs is the price of
the design.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.cpu.weights import PackedNet


class Oracle:
    def __init__(self, net: PackedNet, rounded: bool = True) -> None:
        self.rounded = rounded
        self.routed: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> experts, weights [T, k]
        self.net, self.shape = net, net.shape
        self.w = {name: torch.from_numpy(net.dense(name)) for name in net.matrices}
        self.v = {name: torch.from_numpy(net.vector(name).copy()) for name in net.vectors}
        self.bias = {}
        for name, at in net.matrices.items():
            if at.bias >= 0:
                raw = net.memory[at.bias : at.bias + 4 * at.out]
                self.bias[name] = torch.from_numpy(raw.view("<f4").copy())
        rotary = net.shape.rope.rotary(net.shape.head_dim)
        self.inv_freq, self.turn_scale = rotary.inv_freq, rotary.scale

    def logits(self, ids: list[int], positions: list[int] | None = None, **how) -> Tensor:
        """[T, V] of one sequence."""
        hidden = self.residuals(ids, positions, **how)[-1]
        head = self.w["embedding" if self.shape.tied_head else "head"]
        return self.int8(self.norm(hidden, "final_norm")) @ head.T

    def int8(self, x: Tensor) -> Tensor:
        if not self.rounded:
            return x
        blocks = x.reshape(-1, 16)
        scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
        return ((blocks / scale).round() * scale).view(x.shape)

    def residuals(
        self, ids, positions=None, adapter=None, scale=1.0, steering=None, exit_layer=None, x=None
    ) -> list[Tensor]:
        """The residual stream [T, M] after each layer."""
        at = torch.tensor(positions if positions is not None else range(len(ids))).float()
        angles = at[:, None] * self.inv_freq
        self.cos, self.sin = angles.cos() * self.turn_scale, angles.sin() * self.turn_scale
        self.adapter, self.scale = adapter, scale
        x = self.w["embedding"][torch.tensor(ids)] if x is None else x
        found = []
        for layer in range(exit_layer or self.shape.layers):
            x = x + self.attention(self.norm(x, f"{layer}.attention_norm"), layer)
            mlp = self.experts if self.shape.sparse(layer) else self.mlp
            x = x + mlp(self.norm(x, f"{layer}.mlp_norm"), layer)
            if steering and layer in steering:
                x = x + steering[layer]
            found.append(x)
        return found

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.v[name], self.shape.norm_eps)

    def linear(self, x: Tensor, layer: int, name: str) -> Tensor:
        y = F.linear(self.int8(x), self.w[f"{layer}.{name}"], self.bias.get(f"{layer}.{name}"))
        if self.adapter is not None:
            pair = self.adapter[layer].get({"out": "o"}.get(name, name))
            if pair is not None:
                y = y + self.scale * ((x @ pair.a.float()) @ pair.b.float())
        return y

    def attention(self, x: Tensor, layer: int) -> Tensor:
        s = self.shape
        heads = self.linear(x, layer, "qkv").view(len(x), -1, s.head_dim)
        q, k, v = heads.split((s.heads, s.kv_heads, s.kv_heads), 1)
        if s.qk_norm == "full-width":
            q = self.norm(q.flatten(1), f"{layer}.q_norm").view(q.shape)
            k = self.norm(k.flatten(1), f"{layer}.k_norm").view(k.shape)
        if s.clip_qkv is not None:
            q, k, v = (t.clamp(-s.clip_qkv, s.clip_qkv) for t in (q, k, v))
        if s.qk_norm == "per-head":
            q, k = self.norm(q, f"{layer}.q_norm"), self.norm(k, f"{layer}.k_norm")
        q, k = self.turn(q), self.turn(k)
        if self.rounded:
            k, v = k.half().float(), v.half().float()
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        group = s.heads // s.kv_heads
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        n = len(x)
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        if (window := s.sliding[layer]) is not None:
            seen &= ~torch.ones(n, n, dtype=torch.bool).tril(-window)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.linear(out.transpose(0, 1).reshape(n, -1), layer, "out")

    def turn(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        cos, sin = self.cos[:, None], self.sin[:, None]
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)

    def mlp(self, x: Tensor, layer: int) -> Tensor:
        gate, up = self.linear(x, layer, "gate_up").chunk(2, -1)
        return self.linear(F.silu(gate) * up, layer, "down")

    def experts(self, x: Tensor, layer: int) -> Tensor:
        """Token by token: what the definition says, and nothing grouped."""
        moe = self.shape.moe
        router = self.v[f"{layer}.router"].view(moe.count, -1)
        weights, chosen = torch.softmax(x @ router.T, -1).topk(moe.k, -1)
        if moe.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        self.routed[layer] = chosen, weights
        gate, up = self.w[f"{layer}.gate_up"].view(2, moe.count, moe.ffn, -1)
        down = self.w[f"{layer}.down"].view(moe.count, self.shape.width, -1)
        out = torch.zeros_like(x)
        for t, row in enumerate(self.int8(x)):
            for e, weight in zip(chosen[t].tolist(), weights[t], strict=True):
                inner = F.silu(gate[e] @ row) * (up[e] @ row)
                out[t] += weight * (down[e] @ self.int8(inner))
        return out
