"""The one home of the KV pool's geometry: whoever needs a stride asks here."""

from dataclasses import dataclass
from typing import Literal

import torch

Order = Literal["token", "dim"]


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Geometry of a paged KV pool. Axis letters: L layers, P pages, S slots a page, H KV heads, D
    head_dim.

    `order` belongs to the backend that reads the pool:
    - ``"token"``: K and V are ``[L, P, S, H, D]`` (torch, CUDA kernels);
    - ``"dim"``: K is ``[L, P, H, D, S]`` and V ``[L, P, H, S, D]``, so that a page's scores are one
    small
      matrix product with the slots contiguous (the numba step).
    """

    layers: int
    pages: int
    page_size: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    order: Order = "token"

    def __post_init__(self) -> None:
        for name in ("layers", "pages", "page_size", "kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"KVLayout.{name} must be at least 1, got {getattr(self, name)}")

    @property
    def slots(self) -> int:
        """Tokens that the pool can hold."""
        return self.pages * self.page_size

    @property
    def k_shape(self) -> tuple[int, int, int, int, int]:
        if self.order == "token":
            return (self.layers, self.pages, self.page_size, self.kv_heads, self.head_dim)
        return (self.layers, self.pages, self.kv_heads, self.head_dim, self.page_size)

    @property
    def v_shape(self) -> tuple[int, int, int, int, int]:
        if self.order == "token":
            return (self.layers, self.pages, self.page_size, self.kv_heads, self.head_dim)
        return (self.layers, self.pages, self.kv_heads, self.page_size, self.head_dim)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of K and V that one token occupies over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return self.bytes_per_token * self.slots

    def pages_for(self, tokens: int) -> int:
        """Pages that hold `tokens` tokens."""
        return -(-tokens // self.page_size)
