"""LoRA beside the packed weights: y + scale * (x A) B, per token, never merged."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workbench.cpu import fields as f
from workbench.cpu.dots import ROWS
from workbench.cpu.packing import bf16
from workbench.cpu.weights import ALIGN, aligned

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
        self.rank = self.bytes = 0  # bytes of weights that a token's step reads
        self._parts: list[NDArray[np.uint16]] = []
        self._tables: list[NDArray[np.int64]] = []
        self._table = np.zeros((len(layers), len(PROJECTIONS), f.ADAPTER_WORDS), np.int64)
        for layer, pairs in enumerate(layers):
            for number, name in enumerate(PROJECTIONS):
                pair = pairs.get(NAMES.get(name, name))
                if pair is not None:
                    self._pair(pair, self._table[layer, number])
        self._memory = aligned(self.bytes)  # in the order in which a step reads
        self._settle()

    @property
    def address(self) -> int:
        return int(self._table.ctypes.data)

    def _pair(self, pair: Pair, words: NDArray[np.int64]) -> None:
        a, b = pair.a.float().numpy(), pair.b.float().numpy()
        rank = -(-a.shape[1] // 16) * 16
        self.rank = max(self.rank, rank)
        down = np.zeros((a.shape[0], rank), np.float32)
        down[:, : a.shape[1]] = a
        words[f.ADAPTER_A] = self._keep(bf16(down.reshape(len(a), -1, 16).transpose(1, 0, 2)))
        words[f.ADAPTER_RANK] = rank
        up = np.zeros((rank, -(-b.shape[1] // ROWS) * ROWS), np.float32)
        up[: len(b), : b.shape[1]] = b
        words[f.ADAPTER_TILES] = self._tiles(up).ctypes.data

    def _tiles(self, up: NDArray[np.float32]) -> NDArray[np.int64]:
        """Ranks are taken by fours; those that are zero all over a tile are left out."""
        table = np.zeros((up.shape[1] // ROWS, f.TILE_WORDS), np.int64)
        for number, row in enumerate(table):
            tile = up[:, number * ROWS : (number + 1) * ROWS]
            used = np.flatnonzero(tile.reshape(-1, 4 * ROWS).any(1))
            first, stop = (4 * int(used[0]), 4 * int(used[-1]) + 4) if len(used) else (0, 0)
            row[:] = self._keep(bf16(tile[first:stop])), first, stop
        self._tables.append(table)
        return table

    def _keep(self, part: NDArray[np.uint16]) -> int:
        """Place a part behind the others; its offset."""
        at = self.bytes
        self._parts.append(part)
        self.bytes += -(-part.nbytes // ALIGN) * ALIGN
        return at

    def _settle(self) -> None:
        """Copy the parts to their places and make addresses of offsets."""
        at, base = 0, int(self._memory.ctypes.data)
        for part in self._parts:
            self._memory[at : at + part.nbytes] = (
                np.ascontiguousarray(part).reshape(-1).view(np.uint8)
            )
            at += -(-part.nbytes // ALIGN) * ALIGN
        self._parts.clear()
        self._table[..., f.ADAPTER_A] += base
        for table in self._tables:
            table[:, f.TILE_DATA] += base
