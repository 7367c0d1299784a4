"""KV memory as two torch tensors, in token order: what the torch decoder and the CUDA ops read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.kv.layout import KVLayout


@dataclass(frozen=True, slots=True, eq=False)
class SavedPages:
    """Contents of pages outside the pool: K and V as [L, n, S, H, D] on the CPU."""

    k: Tensor
    v: Tensor


class TorchPool:
    """A `forward.Pool` of order "token".

    `inv_freq` [D / 2] are the net's RoPE frequencies, scaling worked in. The factor that YaRN puts
    on cos and sin is no part of them, since stored K bears it already.
    """

    def __init__(
        self, layout: KVLayout, inv_freq: Tensor, device: torch.device | str = "cpu"
    ) -> None:
        if layout.order != "token":
            raise ValueError(
                f"TorchPool keeps order 'token', got a layout of order {layout.order!r}"
            )
        if inv_freq.shape != (layout.head_dim // 2,):
            raise ValueError(
                f"inv_freq must be [{layout.head_dim // 2}] for head_dim {layout.head_dim}, "
                f"got {list(inv_freq.shape)}"
            )
        self.layout = layout
        self.k = torch.zeros(layout.k_shape, dtype=layout.dtype, device=device)
        self.v = torch.zeros(layout.v_shape, dtype=layout.dtype, device=device)
        self._inv_freq = inv_freq.to("cpu", torch.float64)
        flat = (layout.layers, layout.slots, layout.kv_heads, layout.head_dim)
        # Views made once: a step asks for them in every layer.
        self.keys: tuple[Tensor, ...] = self.k.view(flat).unbind(0)  # per layer [P * S, H, D]
        self.values: tuple[Tensor, ...] = self.v.view(flat).unbind(0)

    @property
    def device(self) -> torch.device:
        return self.k.device

    def copy_pages(self, src: Sequence[int], dst: Sequence[int]) -> None:
        source, target = self._index(src), self._index(dst)
        for memory in (self.k, self.v):
            memory[:, target] = memory[:, source]

    def move(self, src: Tensor, dst: Tensor, shift: int) -> None:
        src, dst = src.to(self.device), dst.to(self.device)
        angle = self._inv_freq * shift
        cos = torch.cat([angle.cos(), angle.cos()]).to(self.device, torch.float32)  # [D]
        sin = torch.cat([-angle.sin(), angle.sin()]).to(self.device, torch.float32)
        half = self.layout.head_dim // 2
        for keys, values in zip(self.keys, self.values, strict=True):
            k = keys[src].float()  # [n, H, D]; indexing copies, so overlap does no harm
            if shift:
                k = k * cos + k.roll(half, -1) * sin
            keys[dst] = k.to(keys.dtype)
            values[dst] = values[src]

    def save(self, pages: Sequence[int]) -> SavedPages:
        index = self._index(pages)
        return SavedPages(self.k[:, index].cpu(), self.v[:, index].cpu())

    def load(self, pages: Sequence[int], saved: SavedPages) -> None:
        if saved.k.shape[1] != len(pages):
            raise ValueError(
                f"{saved.k.shape[1]} pages were saved, {len(pages)} given to load into"
            )
        index = self._index(pages)
        self.k[:, index] = saved.k.to(self.device)
        self.v[:, index] = saved.v.to(self.device)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        slots = slots.to(self.device)
        return self.keys[layer][slots].float(), self.values[layer][slots].float()

    def poison(self, slots: Tensor) -> None:
        slots = slots.to(self.device)
        for memory in (*self.keys, *self.values):
            memory[slots] = torch.nan

    def _index(self, pages: Sequence[int]) -> Tensor:
        return torch.tensor(list(pages), dtype=torch.int64, device=self.device)
