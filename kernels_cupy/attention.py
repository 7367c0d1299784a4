"""Attention of one layer, whatever the step's rows are: the launches that its plan calls for."""

from typing import Any

import torch
from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.extend_attention import (
    block_rows,
    extend_attention,
    serves_shared_prefixes,
    shared_prefix_attention,
)
from kernels_cupy.launch import multiprocessors, shared_limit
from kernels_cupy.paged_attention import HEAD_DIMS, merge_parts, paged_attention, wide_rows
from kernels_cupy.plan import NARROW, AttentionPlan, HostPlan, Prefix, draft, on_host, upload
from workbench.forward import ForwardBatch


def plan_attention(
    batch: ForwardBatch,
    window: int | None,
    heads: int,
    kv_heads: int,
    dim: int,
    device: torch.device,
    turns: Any,
    shared: list[Prefix],
) -> AttentionPlan:
    """Tables of the layers that have this window. `turns(shifts)` makes the table of query
    turns.
    """
    host = host_plan(batch, window, heads, kv_heads, dim, device, shared)
    return host.on(upload(host.arrays, device), turns)


def host_plan(
    batch: ForwardBatch,
    window: int | None,
    heads: int,
    kv_heads: int,
    dim: int,
    device: torch.device,
    shared: list[Prefix],
    width: int = 1,
) -> HostPlan:
    """`plan_attention` before it goes to the device; block tables of `width` pages at least."""
    need(dim in HEAD_DIMS, f"head_dim of {HEAD_DIMS} (others: ops='cpu')", dim)
    fits = heads % kv_heads == 0 and heads // kv_heads <= NARROW
    need(fits, f"at most {NARROW} query heads a KV head", heads, kv_heads)
    blocks = 0
    if serves_shared_prefixes(dim, device):
        blocks = max(1, multiprocessors(device) // kv_heads)
    block = block_rows(dim, shared_limit(device))
    drafted = draft(batch, window, heads // kv_heads, block, shared, wide_rows(dim), blocks)
    return on_host(drafted, batch, width)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    plan: AttentionPlan,
    page_size: int,
    scale: float,
    window: int | None,
) -> None:
    """Write `out` [T, Q, D]. q [T, Q, D]; k and v [slots, H, D] of one layer; all packed."""
    for x in (q, k, v, out):
        need(x.is_contiguous(), "attention: packed tensors", x)
    shared_prefix_attention(q, k, v, plan, page_size, scale)
    paged_attention(q, k, v, out, plan, page_size, scale)
    extend_attention(q, k, v, out, plan, page_size, scale, window)
    merge_parts(q, out, plan)
