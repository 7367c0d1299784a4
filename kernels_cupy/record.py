"""What the sampler's kernels take and give, each in one buffer: one copy up, one copy down."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from kernels_cupy.staging import Staging, places, room
from workbench.ops.contract import Sampled, SamplerRow


class Record:
    """Outcomes of R draws with the top n of each, as views of one buffer. `state` [R] int32 is 1
    where the mask allowed nothing."""

    def __init__(
        self, count: int, top_n: int, device: torch.device, *, pinned: bool = False
    ) -> None:
        longs, words = count * (1 + top_n), count * (3 + top_n)
        self.buffer = torch.empty(
            8 * longs + 4 * words, dtype=torch.uint8, device=device, pin_memory=pinned
        )
        ids = self.buffer[: 8 * longs].view(torch.int64)
        rest = self.buffer[8 * longs :]
        values = rest[: 4 * (words - count)].view(torch.float32)
        self.drawn = Sampled(
            ids[:count], values[:count], values[count : 2 * count],
            ids[count:].view(count, top_n), values[2 * count :].view(count, top_n),
        )  # fmt: skip
        self.state = rest[4 * (words - count) :].view(torch.int32)
        self._size = (count, top_n)

    def land(self) -> Sampled:
        """The outcomes on the host, on their way there: valid once `wait` has returned."""
        if self.buffer.device.type == "cpu":
            self._check(self.state)
            self.drawn.on_device = self.drawn.token
            return self.drawn
        host = Record(*self._size, torch.device("cpu"), pinned=True)
        host.buffer.copy_(self.buffer, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def wait() -> None:
            copied.synchronize()
            self._check(host.state)

        host.drawn.wait, host.drawn.on_device = wait, self.drawn.token
        return host.drawn

    @staticmethod
    def _check(state: Tensor) -> None:
        if bool((state == 1).any()):
            row = int((state == 1).nonzero()[0, 0])
            raise ValueError(f"sample: the mask of row {row} allows no token; nothing can be drawn")


def send(
    rows: Sequence[SamplerRow], mask: Tensor | None, uniforms: Tensor, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Settings, mask and numbers on the device; returns before they are there."""
    arrays = [uniforms.to(torch.float64).numpy(), settings(rows).numpy()]
    if mask is not None:
        arrays.append(mask.cpu().numpy())
    buffer = torch.empty(room(arrays), dtype=torch.uint8, device=device)
    _staging(device).send(arrays, buffer)
    numbers, settled, *masks = places(buffer, arrays)
    return settled, masks[0] if masks else None, numbers


@cache
def _staging(device: torch.device) -> Staging:
    return Staging(device)


def settings(rows: Sequence[SamplerRow]) -> Tensor:
    """What the kernels read of each row: [R, 4], the last an int32."""
    table = np.empty((len(rows), 4), dtype=np.float32)
    table[:, :3] = [(row.temperature, row.top_p, row.min_p) for row in rows]
    table[:, 3] = np.array([max(row.top_k, 0) for row in rows], dtype=np.int32).view(np.float32)
    return torch.from_numpy(table)
