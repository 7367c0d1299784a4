"""Small host arrays on their way to the device: packed into pinned memory, one copy, no waiting."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Staging:
    """Two pinned buffers in turn, so that one is filled while the other is on its way."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor] = [torch.empty(0, dtype=torch.uint8)] * 2
        self._sent: list[Any] = [None, None]
        self._turn = 0

    def send(self, arrays: Sequence[NDArray[Any]], to: Tensor) -> None:
        """Copy the arrays to their places in `to`; returns before they are there."""
        turn = self._turn = 1 - self._turn
        pinned = self._device.type == "cuda"
        if self._sent[turn] is not None:
            self._sent[turn].synchronize()
        if self._buffers[turn].numel() < to.numel():
            most = 1 << to.numel().bit_length()
            self._buffers[turn] = torch.empty(most, dtype=torch.uint8, pin_memory=pinned)
        staged, at = self._buffers[turn].numpy(), 0
        for array in arrays:
            staged[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
            at += _room(array)
        to.copy_(self._buffers[turn][: to.numel()], non_blocking=True)
        if pinned:
            self._sent[turn] = self._sent[turn] or torch.cuda.Event()
            self._sent[turn].record()


def places(buffer: Tensor, arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Views of the buffer, shaped and typed like the arrays."""
    views, at = [], 0
    for array in arrays:
        part = buffer[at : at + array.nbytes]
        views.append(part.view(_TYPES[array.dtype.str]).view(array.shape))
        at += _room(array)
    return views


def room(arrays: Sequence[NDArray[Any]]) -> int:
    """Bytes that the arrays take."""
    return sum(map(_room, arrays))


def _room(array: NDArray[Any]) -> int:
    return math.ceil(array.nbytes / 16) * 16


_TYPES = {"<i8": torch.int64, "<i4": torch.int32, "<f4": torch.float32, "<f8": torch.float64}
