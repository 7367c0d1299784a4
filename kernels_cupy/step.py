"""What the CUDA ops keep of one step."""

from typing import Any

import torch
from torch import Tensor

from kernels_cupy.attention import plan_attention
from kernels_cupy.errors import need
from kernels_cupy.plan import AttentionPlan, shared_prefixes
from kernels_cupy.store_kv import rope_table
from workbench.forward import ForwardBatch
from workbench.kv.layout import KVLayout
from workbench.ops.contract import Rotary


class StepPlan:
    """Device tensors of a step; attention tables are made per sliding window, on first use.

    The pool has `layout` (order "token"), `device`, and per layer `keys` and `values` [P * S, H,
    D].
    """

    def __init__(self, batch: ForwardBatch, pool: Any, rotary: Rotary, share: bool) -> None:
        layout: KVLayout = pool.layout
        need(layout.order == "token", "a pool of order 'token'", layout.order)
        self.pool, self.layout, self.batch, self.share = pool, layout, batch, share
        self.device: torch.device = pool.keys[0].device
        self.inv_freq = rotary.inv_freq.to(self.device, torch.float32)
        placed = torch.stack([batch.positions, batch.slots]).to(self.device)
        self.slots: Tensor = placed[1]
        self.table = rope_table(placed[0], self.inv_freq, rotary.scale, layout.head_dim)
        self._plans: dict[int | None, AttentionPlan] = {}

    def attention(self, window: int | None, heads: int) -> AttentionPlan:
        """The tables for layers with this sliding window and number of query heads."""
        if window not in self._plans:
            layout, batch = self.layout, self.batch
            shared = []
            if self.share and window is None and layout.head_dim <= 128:
                each = 2 * layout.kv_heads * layout.head_dim * layout.dtype.itemsize
                shared = shared_prefixes(batch, layout.page_size, each)
            self._plans[window] = plan_attention(
                batch,
                window,
                heads,
                layout.kv_heads,
                layout.head_dim,
                self.device,
                self._turns,
                shared,
            )
        return self._plans[window]

    def _turns(self, shifts: list[int]) -> Tensor:
        positions = torch.tensor(shifts, dtype=torch.int64).to(self.device)
        return rope_table(positions, self.inv_freq, 1.0, self.layout.head_dim)
