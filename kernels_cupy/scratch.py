"""Device memory that launches share: allocated once, never moved, so that captured graphs stay
valid.
"""

from functools import cache

import torch
from torch import Tensor


@cache
def floats(device: torch.device, purpose: str, size: int) -> Tensor:
    """Uninitialised float32 [size], the caller's until the next launch that names the same
    purpose.
    """
    return torch.empty(size, dtype=torch.float32, device=device)


@cache
def counters(device: torch.device, purpose: str, size: int) -> Tensor:
    """Zeroed int32 [size] for kernels that leave them at zero."""
    return torch.zeros(size, dtype=torch.int32, device=device)


def round_up(n: int) -> int:
    """The next power of two: few different sizes are kept."""
    return 1 << max(0, n - 1).bit_length()
