"""cos and sin of positions, made once: a position's turn is the same bits whoever asks for it."""

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.ops.contract import Rotary

CHUNK = 1024  # positions made at a time; fixed, so that no value depends on how many were asked for


class Turns:
    """Rows [D / 2] of cos and sin by position; negative ones too, for keys read as if elsewhere."""

    def __init__(self, rotary: Rotary) -> None:
        self._rotary = rotary
        self._half = int(rotary.inv_freq.shape[0])
        self._ahead = _Table(rotary, 1)
        self._back = _Table(rotary, -1)

    def addresses(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Addresses of the cos and sin rows; valid until the next call."""
        low, high = int(positions.min(initial=0)), int(positions.max(initial=0))
        self._ahead.reach(high)
        step = self._half * 4
        cos = self._ahead.cos.ctypes.data + positions * step
        sin = self._ahead.sin.ctypes.data + positions * step
        if low < 0:
            self._back.reach(-low)
            behind = positions < 0
            cos[behind] = self._back.cos.ctypes.data - positions[behind] * step
            sin[behind] = self._back.sin.ctypes.data - positions[behind] * step
        return cos, sin


class _Table:
    def __init__(self, rotary: Rotary, sign: int) -> None:
        self._rotary, self._sign = rotary, sign
        half = int(rotary.inv_freq.shape[0])
        self.cos = np.empty((0, half), np.float32)
        self.sin = np.empty((0, half), np.float32)

    def reach(self, position: int) -> None:
        made = len(self.cos)
        if position < made:
            return
        cos, sin = [self.cos], [self.sin]
        for start in range(made, position + 1, CHUNK):
            at = torch.arange(start, start + CHUNK).float() * self._sign
            angles = at[:, None] * self._rotary.inv_freq.float().cpu()
            cos.append((angles.cos() * self._rotary.scale).numpy())
            sin.append((angles.sin() * self._rotary.scale).numpy())
        self.cos, self.sin = np.concatenate(cos), np.concatenate(sin)
