"""The KV pool of the CUDA ops: two torch tensors in token order, moved by our kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.graphs import Graphs
from kernels_cupy.move_kv import move_kv
from kernels_cupy.store_kv import rope_table
from workbench.kv.layout import KVLayout


@dataclass(frozen=True, slots=True, eq=False)
class SavedPages:
    """Contents of pages outside the pool: K and V [L, n, S, H, D] in pinned host memory."""

    k: Tensor
    v: Tensor


class CudaPool:
    """A `forward.Pool` of order "token". `inv_freq` [D / 2] are the net's RoPE frequencies."""

    def __init__(self, layout: KVLayout, inv_freq: Tensor, device: torch.device | str) -> None:
        need(layout.order == "token", "a pool of order 'token'", layout.order)
        self.layout = layout
        self.k = torch.zeros(layout.k_shape, dtype=layout.dtype, device=device)
        self.v = torch.zeros(layout.v_shape, dtype=layout.dtype, device=device)
        self.device = self.k.device
        self._inv_freq = inv_freq.to(self.device, torch.float32)
        flat = (layout.layers, layout.slots, layout.kv_heads, layout.head_dim)
        self._flat_k, self._flat_v = self.k.view(flat), self.v.view(flat)
        self.keys: tuple[Tensor, ...] = self._flat_k.unbind(0)  # per layer [P * S, H, D]
        self.values: tuple[Tensor, ...] = self._flat_v.unbind(0)
        self.graphs: Graphs | None = None  # of decode steps: they bake these addresses in

    def copy_pages(self, src: Sequence[int], dst: Sequence[int]) -> None:
        inner = torch.arange(self.layout.page_size)
        slots = [
            (torch.tensor(list(p))[:, None] * self.layout.page_size + inner).ravel()
            for p in (src, dst)
        ]
        self.move_each(slots[0], slots[1], None)

    def move(self, src: Tensor, dst: Tensor, shift: int) -> None:
        self.move_each(src, dst, torch.full((len(src),), shift) if shift else None)

    def move_each(self, src: Tensor, dst: Tensor, shifts: Tensor | None) -> None:
        """`move` with a shift of its own for each entry [n]."""
        overlap = bool(torch.isin(src, dst).any())
        src, dst = src.to(self.device), dst.to(self.device)
        table = None
        if shifts is not None:
            table = rope_table(
                shifts.to(self.device, torch.int64), self._inv_freq, 1.0, self.layout.head_dim
            )
        if not overlap:
            move_kv(self._flat_k, self._flat_v, self._flat_k, self._flat_v, src, dst, table)
            return
        shape = (self.layout.layers, len(src), self.layout.kv_heads, self.layout.head_dim)
        k, v = (torch.empty(shape, dtype=self.k.dtype, device=self.device) for _ in range(2))
        row = torch.arange(len(src), device=self.device)
        move_kv(self._flat_k, self._flat_v, k, v, src, row, table)
        move_kv(k, v, self._flat_k, self._flat_v, row, dst, None)

    def save(self, pages: Sequence[int]) -> SavedPages:
        index = torch.tensor(list(pages), device=self.device)
        return SavedPages(_to_host(self.k[:, index]), _to_host(self.v[:, index]))

    def load(self, pages: Sequence[int], saved: SavedPages) -> None:
        need(saved.k.shape[1] == len(pages), f"{saved.k.shape[1]} pages to load into", len(pages))
        index = torch.tensor(list(pages), device=self.device)
        self.k[:, index] = saved.k.to(self.device)
        self.v[:, index] = saved.v.to(self.device)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        slots = slots.to(self.device)
        return self.keys[layer][slots].float(), self.values[layer][slots].float()

    def poison(self, slots: Tensor) -> None:
        slots = slots.to(self.device)
        self._flat_k[:, slots] = torch.nan
        self._flat_v[:, slots] = torch.nan


def _to_host(x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return x.clone()
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    return host.copy_(x)
