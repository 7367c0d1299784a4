"""What the sections of `bench kernels` share: how a row is written, and peers that may refuse."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels_cupy.timing import Ceilings

BF16 = torch.bfloat16
HEADS, KV_HEADS, DIM = 32, 8, 128


@dataclass(slots=True)
class Bench:
    """What the sections share: the device, its ceilings, and how a row is written."""

    device: torch.device
    ceilings: Ceilings
    where: dict[str, str] = field(default_factory=dict)

    def row(
        self, metric: str, shape: str, us: float, floor: float, peers: dict[str, float], **more: Any
    ) -> dict[str, Any]:
        """One row; `peers` are their times in microseconds."""
        name, best = min(peers.items(), key=lambda p: p[1]) if peers else (None, None)
        return {
            "metric": metric, "shape": shape, "impl": "cuda", "value": round(us, 2), "unit": "us",
            "peer": name, "ratio": best and round(best / us, 3), "floor": round(floor, 2),
            "floor_ratio": round(floor / us, 3), **more,
            "peers": {k: round(v, 2) for k, v in peers.items()}, **self.where,
        }  # fmt: skip

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=BF16, device=self.device)


def tried(peers: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Times of the peers that run here; one that refuses the shape is left out."""
    times = {}
    for name, time in peers.items():
        try:
            times[name] = time()
        except (RuntimeError, ImportError, AttributeError) as e:
            sys.stderr.write(f"{name}: {str(e).splitlines()[0][:120]}\n")
    return times


def agree(name: str, theirs: Tensor, ours: Tensor) -> None:
    """A peer that computes something else is none."""
    error = float((theirs.float() - ours.float()).norm() / ours.float().norm())
    if not error < 0.02:
        raise RuntimeError(f"{name}: its result is {error:.3g} away from ours")
