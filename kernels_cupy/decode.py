"""A step of one token a row as the ops capture it: its arrays, its shape, its launches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels_cupy.attention import host_plan
from kernels_cupy.graphs import Graphs, Outputs
from kernels_cupy.plan import AttentionPlan, HostPlan, decodes, shared_prefixes
from kernels_cupy.scratch import round_up
from kernels_cupy.store_kv import rope_table
from workbench.forward import ForwardBatch
from workbench.kv.layout import KVLayout
from workbench.ops.contract import Recipe, Rotary

WIDTH = 128  # pages that a block table has room for at least: few different shapes


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
) -> Outputs:
    """Run the step through `graphs`."""
    hosts = {w: _plan(batch, pool.layout, w, recipe.heads, graphs.device, share)
             for w in recipe.windows}  # fmt: skip
    placed = np.stack([batch.token_ids.numpy(), batch.positions.numpy(), batch.slots.numpy()])
    indexes = [index.numpy() for index in recipe.indexes]
    arrays: list[NDArray[Any]] = [placed, *indexes]
    for host in hosts.values():
        arrays += host.arrays
    sizes = tuple(len(index) for index in indexes)
    key = (recipe.net, placed.shape, sizes, *((w, h.shape) for w, h in hosts.items()))

    def make(places: list[Tensor]) -> Callable[[], Outputs]:
        return _launches(places, hosts, pool, rotary, recipe, len(indexes))

    return graphs.run(key, arrays, make, batch.drawn)


def _plan(
    batch: ForwardBatch,
    layout: KVLayout,
    window: int | None,
    heads: int,
    device: torch.device,
    share: bool,
) -> HostPlan:
    width = round_up(max(WIDTH, batch.block_tables.shape[1]))
    if share and window is None and batch.rows > 1 and layout.head_dim <= 128:
        each = 2 * layout.kv_heads * layout.head_dim * layout.dtype.itemsize
        if shared := shared_prefixes(batch, layout.page_size, each):
            kv_heads, dim = layout.kv_heads, layout.head_dim
            return host_plan(batch, window, heads, kv_heads, dim, device, shared, width)
    return decodes(batch, window, width)


def _launches(
    places: Sequence[Tensor],
    hosts: dict[int | None, HostPlan],
    pool: Any,
    rotary: Rotary,
    recipe: Recipe,
    indexes: int,
) -> Callable[[], Outputs]:
    placed, mine = places[0], places[1 : 1 + indexes]
    plans, at = {}, 1 + indexes
    for window, host in hosts.items():
        count = len(host.arrays)
        plans[window] = host.on(places[at : at + count], None)
        at += count
    inv_freq = rotary.inv_freq.to(placed.device, torch.float32)

    def run() -> Outputs:
        plan = DecodePlan(pool, placed, inv_freq, rotary.scale, plans)
        return recipe.body(placed[0], plan, mine)

    return run
