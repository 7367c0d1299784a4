"""silu(gate) * up of a fused projection."""

import torch
from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.launch import Instance, LaunchPlan, elem, i32, kernel

INSTANCES = tuple(Instance("silu_mul", "silu_mul", {"ELEM": e}) for e in (0, 1))


def silu_mul(gate_up: Tensor) -> Tensor:
    """[T, 2F] -> [T, F]."""
    tokens, width = gate_up.shape
    need(
        gate_up.is_contiguous() and width % 16 == 0, "silu_mul: packed [T, 2F], F % 8 == 0", gate_up
    )
    y = torch.empty((tokens, width // 2), dtype=gate_up.dtype, device=gate_up.device)
    if tokens:
        kernel("silu_mul", "silu_mul", gate_up.device, ELEM=elem(gate_up.dtype))(
            LaunchPlan.cover(tokens * width // 16, 256), gate_up, y, i32(tokens), i32(width // 2)
        )
    return y
