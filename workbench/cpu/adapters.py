"""LoRA beside the packed weights: y + scale * (x A) B, per token, never merged."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workbench.cpu import fields as f
from workbench.cpu.dots import ROWS
from workbench.cpu.packing import bf16

PROJECTIONS = ("qkv", "out", "gate_up", "down")  # in the order of their numbers in the step
NAMES = {"out": "o"}  # where an adapter's name of a projection is another


class Pair(Protocol):
    """One fused projection's adapter, its alpha / r worked in."""

    @property
    def a(self) -> Tensor: ...  # [in, r]
    @property
    def b(self) -> Tensor: ...  # [r, out]


class NativeAdapter:
    """An adapter in the step's layout, bfloat16: A as [r / 16, in, 16], B by tiles of sixteen
    outputs, each with the ranks that reach it (fused projections leave blocks of zeros out)."""

    def __init__(self, layers: Sequence[Mapping[str, Pair]]) -> None:
        self._held: list[NDArray[Any]] = []
        self.rank = 0
        self._table = np.zeros((len(layers), len(PROJECTIONS), f.ADAPTER_WORDS), np.int64)
        for layer, pairs in enumerate(layers):
            for number, name in enumerate(PROJECTIONS):
                pair = pairs.get(NAMES.get(name, name))
                if pair is not None:
                    self._table[layer, number] = self._pair(pair)

    @property
    def address(self) -> int:
        return int(self._table.ctypes.data)

    @property
    def bytes(self) -> int:
        """Of weights that a token's step reads."""
        return sum(part.nbytes for part in self._held if part.dtype == np.uint16)

    def _pair(self, pair: Pair) -> tuple[int, int, int]:
        a, b = pair.a.float().numpy(), pair.b.float().numpy()
        rank = -(-a.shape[1] // 16) * 16
        self.rank = max(self.rank, rank)
        down = np.zeros((a.shape[0], rank), np.float32)
        down[:, : a.shape[1]] = a
        down = self._keep(bf16(down.reshape(len(a), -1, 16).transpose(1, 0, 2)))
        return int(down.ctypes.data), rank, int(self._tiles(b).ctypes.data)

    def _tiles(self, b: NDArray[np.float32]) -> NDArray[np.int64]:
        count = -(-b.shape[1] // ROWS)
        padded = np.zeros((len(b), count * ROWS), np.float32)
        padded[:, : b.shape[1]] = b
        table = np.zeros((count, f.TILE_WORDS), np.int64)
        for number in range(count):
            tile = padded[:, number * ROWS : (number + 1) * ROWS]
            used = np.flatnonzero(tile.any(1))
            first, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
            kept = self._keep(bf16(tile[first:stop]))
            table[number] = kept.ctypes.data, first, stop
        return self._keep(table)

    def _keep(self, part: NDArray[Any]) -> NDArray[Any]:
        part = np.ascontiguousarray(part)
        self._held.append(part)
        return part
