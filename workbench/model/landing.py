"""Router choices on their way from the device to the host."""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from workbench.forward import Routing


class Landing(Sequence[Routing]):
    """The choices of `layers`, from experts and weights [layers, T, k] on any device. Their copies
    begin at once; who reads them first waits."""

    def __init__(self, layers: Sequence[int], experts: Tensor, weights: Tensor) -> None:
        self._layers = layers
        self._host = (_to_host(experts), _to_host(weights))
        self._copied: torch.cuda.Event | None = None
        if experts.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def __len__(self) -> int:
        return len(self._layers)

    @overload
    def __getitem__(self, index: int) -> Routing: ...
    @overload
    def __getitem__(self, index: slice) -> list[Routing]: ...
    def __getitem__(self, index: int | slice) -> Routing | list[Routing]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        experts, weights = self._host
        return Routing(self._layers[index], experts[index], weights[index])


def _to_host(x: Tensor) -> Tensor:
    if not x.is_cuda:
        return x.clone()  # the source may be written again
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
