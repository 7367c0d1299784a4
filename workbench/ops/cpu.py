"""The net's operations in torch: the default without a GPU, and unchanged on CUDA tensors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.forward import ForwardBatch, Pool

from .contract import HeadNorm, Linear, Rotary, Sampled, SamplerRow
from .packing import Form, GroupedQ4, Int4Linear, PlainLinear, PrepackedLinear
from .plan import BLOCK, Read, StepPlan
from .sampling import sample

LONG = 512  # queries from which bf16 attention goes in blocks


class CpuOps:
    """`ops.contract.Ops` in torch. `form`: how `pack` keeps a weight; int4 takes `GroupedQ4`."""

    def __init__(self, form: Form = "as loaded") -> None:
        self.name = "cpu" if form == "as loaded" else f"cpu {form}"
        self.form = form
        self._numbers: dict[tuple[float, torch.device], Tensor] = {}

    def prepare(self, batch: ForwardBatch, pool: Pool, rotary: Rotary) -> StepPlan:
        return StepPlan(batch, pool, rotary)

    def pack(self, weight: Tensor | GroupedQ4, bias: Tensor | None = None) -> Linear:
        if isinstance(weight, GroupedQ4):
            return Int4Linear(weight, bias)
        if self.form == "as loaded":
            return PlainLinear(weight, bias)
        return PrepackedLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        # five calls; torch's own rms_norm takes nine on a CPU
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, 2, -1, True)  # [..., 1]
        scale = torch.addcmul(self._number(eps, x.device), norm, norm, value=1 / x.shape[-1])
        return (wide * scale.rsqrt_()).mul_(weight).to(x.dtype)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def rope_store(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: Any,
        layer: int,
        norm: HeadNorm | None = None,
    ) -> Tensor:
        if norm is not None:
            q, k = self.rms_norm(q, norm.q, norm.eps), self.rms_norm(k, norm.k, norm.eps)
        joined = _joined(q, k)
        if joined is None:
            turned_q, turned_k = _turned(q, plan.cos, plan.sin), _turned(k, plan.cos, plan.sin)
        else:
            turned = _turned(joined, plan.cos, plan.sin)
            turned_q, turned_k = torch.split(turned, [q.shape[1], k.shape[1]], 1)
        plan.pool.keys[layer].index_copy_(0, plan.slots, turned_k)
        plan.pool.values[layer].index_copy_(0, plan.slots, v)
        return turned_q

    def attention(
        self, q: Tensor, plan: Any, layer: int, scale: float, sliding_window: int | None
    ) -> Tensor:
        reads = plan.reads(sliding_window)
        keys, values = plan.pool.keys[layer], plan.pool.values[layer]
        if len(reads) == 1 and isinstance(reads[0].tokens, slice):
            return _attend(q, keys, values, reads[0], scale)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for read in reads:
            out[read.tokens] = _attend(q[read.tokens], keys, values, read, scale)
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    def route(self, logits: Tensor, k: int, normalise: bool) -> tuple[Tensor, Tensor]:
        probabilities = torch.softmax(logits, -1, dtype=torch.float32)
        # a stable sort, since topk leaves the order of equals open
        weights, experts = probabilities.sort(dim=-1, descending=True, stable=True)
        weights, experts = weights[:, :k], experts[:, :k]
        if normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return experts.contiguous(), weights.contiguous()

    def expert_mlp(
        self, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for expert in torch.unique(experts).tolist():  # ascending
            token, place = (experts == expert).nonzero(as_tuple=True)
            inner = self.silu_mul(F.linear(x[token], gate_up[expert]))
            share = F.linear(inner, down[expert]).float() * weights[token, place, None]
            out.index_add_(0, token, share)
        return out.to(x.dtype)

    def sample(
        self,
        logits: Tensor,
        rows: Sequence[SamplerRow],
        mask: Tensor | None,
        seen: Sequence[Tensor],
        bias: Sequence[tuple[Tensor, Tensor] | None],
        uniforms: Tensor,
        top_n: int,
    ) -> Sampled:
        return sample(logits, rows, mask, seen, bias, uniforms, top_n)

    def _number(self, value: float, device: torch.device) -> Tensor:
        if (value, device) not in self._numbers:
            self._numbers[value, device] = torch.tensor(value, device=device)
        return self._numbers[value, device]


def _joined(q: Tensor, k: Tensor) -> Tensor | None:
    """q and k as one tensor where they are neighbours in a fused projection: half the calls."""
    _, heads, dim = q.shape
    stride = q.stride()
    if (
        q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
        and k.storage_offset() == q.storage_offset() + heads * dim
        and stride == k.stride()
        and stride[1] == dim
    ):
        return q.as_strided((q.shape[0], heads + k.shape[1], dim), stride)
    return None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _attend(q: Tensor, keys: Tensor, values: Tensor, read: Read, scale: float) -> Tensor:
    """q [b * queries, Q, D] over the read's entries; [b * queries, Q, D]."""
    tokens, heads, dim = q.shape
    k, v = keys.index_select(0, read.slots), values.index_select(0, read.slots)  # [b * n, H, D]
    if read.turn is not None:
        k = _turned(k.float(), *read.turn).to(k.dtype)
    kv_heads = k.shape[1]
    group = heads // kv_heads
    k = k.view(read.rows, read.entries, kv_heads, dim).transpose(1, 2)  # [b, H, n, D]
    v = v.view(read.rows, read.entries, kv_heads, dim).transpose(1, 2)
    if read.queries == 1:
        # The heads that share a KV head go in as if they were its queries: K and V are read once.
        q = q.reshape(read.rows, kv_heads, group, dim)
        out = F.scaled_dot_product_attention(q, k, v, read.mask, scale=scale)
        return out.reshape(tokens, heads, dim)
    if read.causal and _in_blocks(read, k):
        return _attend_in_blocks(q, k[0], v[0], scale)
    q = q.view(tokens, kv_heads, group, dim).permute(1, 2, 0, 3)  # [H, G, T, D]
    shape = (kv_heads, group, read.entries, dim)
    k, v = k[0].unsqueeze(1).expand(shape), v[0].unsqueeze(1).expand(shape)
    out = F.scaled_dot_product_attention(q, k, v, read.mask, is_causal=read.causal, scale=scale)
    return out.permute(2, 0, 1, 3).reshape(tokens, heads, dim)


def _in_blocks(read: Read, k: Tensor) -> bool:
    if read.entries > read.queries:
        return True  # the fused kernel knows no prefix: a mask would make it compute what is hidden
    half = k.dtype == torch.bfloat16 and k.device.type == "cpu"
    return half and read.queries >= LONG  # its bf16 products miss the CPU's matrix units


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q [T, Q, D] over k, v [H, n, D], causal to the end, `BLOCK` queries at a time; [T, Q, D]."""
    tokens, heads, dim = q.shape
    kv_heads, entries, _ = k.shape
    group, before = heads // kv_heads, entries - tokens
    k = k.transpose(1, 2).contiguous()  # [H, D, n]
    v = v.contiguous()
    q = (q * scale).view(tokens, kv_heads, group, dim)
    out = torch.empty_like(q)
    hidden = torch.full((BLOCK, BLOCK), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
    for start in range(0, tokens, BLOCK):
        stop = min(start + BLOCK, tokens)
        n, seen = stop - start, before + stop
        block = q[start:stop].permute(1, 2, 0, 3).reshape(kv_heads, group * n, dim)
        scores = torch.bmm(block, k[:, :, :seen])  # [H, G * n, seen]
        scores.view(kv_heads, group, n, seen)[..., seen - n :] += hidden[:n, :n]
        read = torch.bmm(torch.softmax(scores, -1), v[:, :seen])
        out[start:stop] = read.view(kv_heads, group, n, dim).permute(2, 0, 1, 3)
    return out.view(tokens, heads, dim)
