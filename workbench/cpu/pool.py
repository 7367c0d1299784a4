"""KV memory in the step's own order: each page and KV head holds K as [D, S] and V as [S, D]."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.kv.layout import KVLayout

BEHIND = 64  # elements behind the last page: scores read sixteen slots at a time, past a page's end


@dataclass(frozen=True, slots=True, eq=False)
class SavedPages:
    """Contents of pages outside the pool: K [L, n, H, D, S], V [L, n, H, S, D]."""

    k: Tensor
    v: Tensor


class DimPool:
    """A `forward.Pool` of order "dim", float16 or float32. `inv_freq` [D / 2] are the net's RoPE
    frequencies, for `move`."""

    def __init__(self, layout: KVLayout, inv_freq: Tensor) -> None:
        if layout.order != "dim":
            raise ValueError(f"DimPool keeps order 'dim', got a layout of order {layout.order!r}")
        if layout.dtype not in (torch.float16, torch.float32):
            raise ValueError(f"DimPool keeps float16 or float32, got {layout.dtype}")
        if inv_freq.shape != (layout.head_dim // 2,):
            raise ValueError(
                f"inv_freq must be [{layout.head_dim // 2}] for head_dim {layout.head_dim}, "
                f"got {list(inv_freq.shape)}"
            )
        self.layout = layout
        self.k = _memory(layout.k_shape, layout.dtype)
        self.v = _memory(layout.v_shape, layout.dtype)
        self._inv_freq = inv_freq.to("cpu", torch.float64)

    def copy_pages(self, src: Sequence[int], dst: Sequence[int]) -> None:
        source, target = list(src), list(dst)
        for memory in (self.k, self.v):
            memory[:, target] = memory[:, source]

    def move(self, src: Tensor, dst: Tensor, shift: int) -> None:
        size = self.layout.page_size
        angle = self._inv_freq * shift
        cos = torch.cat([angle.cos(), angle.cos()]).float()  # [D]
        sin = torch.cat([-angle.sin(), angle.sin()]).float()
        half = self.layout.head_dim // 2
        src_page, src_slot, dst_page, dst_slot = src // size, src % size, dst // size, dst % size
        for k, v in zip(self.k, self.v, strict=True):  # k [P, H, D, S]
            keys = k[src_page, :, :, src_slot].float()  # [n, H, D]; indexing copies
            values = v[src_page, :, src_slot]
            if shift:
                keys = keys * cos + keys.roll(half, -1) * sin
            k[dst_page, :, :, dst_slot] = keys.to(k.dtype)
            v[dst_page, :, dst_slot] = values

    def save(self, pages: Sequence[int]) -> SavedPages:
        index = list(pages)
        return SavedPages(self.k[:, index], self.v[:, index])

    def load(self, pages: Sequence[int], saved: SavedPages) -> None:
        if saved.k.shape[1] != len(pages):
            raise ValueError(
                f"{saved.k.shape[1]} pages were saved, {len(pages)} given to load into"
            )
        index = list(pages)
        self.k[:, index], self.v[:, index] = saved.k, saved.v

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        page, slot = slots // self.layout.page_size, slots % self.layout.page_size
        return self.k[layer][page, :, :, slot].float(), self.v[layer][page, :, slot].float()

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Put k and v [n, H, D] into `slots` [n] of one layer."""
        page, slot = slots // self.layout.page_size, slots % self.layout.page_size
        self.k[layer][page, :, :, slot] = k.to(self.k.dtype)
        self.v[layer][page, :, slot] = v.to(self.v.dtype)

    def poison(self, slots: Tensor) -> None:
        page, slot = slots // self.layout.page_size, slots % self.layout.page_size
        for k, v in zip(self.k, self.v, strict=True):
            k[page, :, :, slot] = torch.nan
            v[page, :, slot] = torch.nan


def _memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros, in numpy's memory: it asks for huge pages, which the step's wide strides want."""
    kind: Any = np.float16 if dtype == torch.float16 else np.float32
    count = int(np.prod(shape))
    flat = torch.from_numpy(np.zeros(count + BEHIND, dtype=kind))
    return flat[:count].view(shape)
