"""A step of few new tokens as the ops capture it: its arrays, its shape, its launches.

Attention takes each new token as a row of its own, so that a step in which some rows decode and
others have a reply or survivors to encode is one shape with all steps of about as many tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels_cupy.attention import host_plan
from kernels_cupy.graphs import Graphs, Outputs
from kernels_cupy.plan import AttentionPlan, HostPlan, Prefix, decodes, shared_prefixes
from kernels_cupy.scratch import round_up
from kernels_cupy.store_kv import rope_table
from workbench.forward import ForwardBatch
from workbench.kv.layout import KVLayout
from workbench.ops.contract import Recipe, Rotary

WIDTH = 128  # pages that a block table has room for at least: few different shapes
MOST = 1024  # tokens of a captured step
AGAIN = 8 << 30  # bytes of KV that it may read once for each token, mostly out of the L2 cache


class DecodePlan:
    """`StepPlan` over a graph's own buffers; made anew for each run of the launches."""

    def __init__(
        self,
        pool: Any,
        placed: Tensor,
        inv_freq: Tensor,
        scale: float,
        plans: dict[int | None, AttentionPlan],
    ) -> None:
        self.pool, self.layout = pool, pool.layout
        self.slots: Tensor = placed[2]
        self.table = rope_table(placed[1], inv_freq, scale, self.layout.head_dim)
        self._plans = plans

    def attention(self, window: int | None, heads: int) -> AttentionPlan:
        return self._plans[window]


def replay(
    graphs: Graphs, batch: ForwardBatch, pool: Any, rotary: Rotary, recipe: Recipe, share: bool
) -> Outputs | None:
    """Run the step through `graphs`; None where attention wants the step's own plan: rows of many
    tokens are read tile by tile there, here once for each token."""
    layout, tokens, rows = pool.layout, batch.tokens, batch.rows
    shared = _shared(batch, layout, recipe.windows) if share else []
    if tokens != rows and (shared or not recipe.pads or not _few(batch, layout)):
        return None
    width = round_up(max(WIDTH, batch.block_tables.shape[1]))
    room, tables = tokens, 0
    if recipe.pads and not shared:
        room = filled(tokens)
        tables = room if tokens == rows else round_up(rows)
    hosts: dict[int | None, HostPlan] = {}
    for w in recipe.windows:
        if shared and w is None:
            hosts[w] = host_plan(
                batch, w, recipe.heads, layout.kv_heads, layout.head_dim, graphs.device, shared,
                width,
            )  # fmt: skip
        else:
            hosts[w] = decodes(batch, w, width, room, tables)
    placed = np.zeros((3, room), dtype=np.int64)
    placed[2, tokens:] = -1
    for mine, given in zip(placed, (batch.token_ids, batch.positions, batch.slots), strict=True):
        mine[:tokens] = given.numpy()
    indexes = [_longer(index, room) for index in recipe.indexes]
    if recipe.asked is not None:
        indexes.append(_longer(recipe.asked, max(tables, round_up(len(recipe.asked)))))
    arrays: list[NDArray[Any]] = [placed, *indexes]
    for host in hosts.values():
        arrays += host.arrays
    sizes = (recipe.asked is None, *(len(index) for index in indexes))
    key = (recipe.net, placed.shape, sizes, *((w, h.shape) for w, h in hosts.items()))

    def make(places: list[Tensor]) -> Callable[[], Outputs]:
        return _launches(places, hosts, pool, rotary, recipe, len(indexes))

    logits, *others = graphs.run(key, arrays, make, batch.drawn)
    return (logits[: len(batch.logit_rows)], *others)


def _longer(index: Tensor, count: int) -> NDArray[np.int64]:
    longer = np.zeros(count, dtype=np.int64)
    longer[: len(index)] = index.numpy()
    return longer


def filled(tokens: int) -> int:
    """The next size that steps are filled up to: few different ones, none much larger."""
    if tokens <= 8:
        return round_up(tokens)
    step = max(8, round_up(tokens) // 4)
    return -(-tokens // step) * step


def _few(batch: ForwardBatch, layout: KVLayout) -> bool:
    """Whether reading a row's entries once for each of its tokens costs next to nothing."""
    if batch.tokens > MOST:
        return False
    new, lens = np.diff(batch.query_start.numpy()), batch.kv_lens.numpy()
    entries = int((new * lens)[new > 1].sum())
    return entries * layout.bytes_per_token <= AGAIN


def _shared(batch: ForwardBatch, layout: KVLayout, windows: Sequence[int | None]) -> list[Prefix]:
    if None not in windows or batch.rows < 2 or layout.head_dim > 128:
        return []
    return shared_prefixes(batch, layout.page_size, layout.bytes_per_token // layout.layers)


def _launches(
    places: list[Tensor],
    hosts: dict[int | None, HostPlan],
    pool: Any,
    rotary: Rotary,
    recipe: Recipe,
    indexes: int,
) -> Callable[[], Outputs]:
    placed, mine = places[0], places[1 : 1 + indexes]
    asked = mine.pop() if recipe.asked is not None else None
    plans, at = {}, 1 + indexes
    for window, host in hosts.items():
        count = len(host.arrays)
        plans[window] = host.on(places[at : at + count], None)
        at += count
    inv_freq = rotary.inv_freq.to(placed.device, torch.float32)

    def run() -> Outputs:
        plan = DecodePlan(pool, placed, inv_freq, rotary.scale, plans)
        return recipe.body(placed[0], plan, mine, asked)

    return run
