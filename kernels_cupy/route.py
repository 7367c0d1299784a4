"""Router: softmax, the k best experts of each token, their weights."""

import torch
from torch import Tensor

from kernels_cupy.errors import need
from kernels_cupy.launch import ELEM, Instance, LaunchPlan, i32, kernel

LOGITS = {**ELEM, torch.float32: 2}
INSTANCES = tuple(
    Instance("route", "route", {"ELEM": e, "PER_LANE": n})
    for e, n in ((0, 1), (0, 2), (0, 4), (0, 8), (1, 4), (2, 4))
)


def route(logits: Tensor, k: int, normalise: bool) -> tuple[Tensor, Tensor]:
    """Of logits [T, E]: experts [T, k] int64, best first, and weights [T, k] float32."""
    tokens, experts = logits.shape
    need(
        logits.dtype in LOGITS and logits.is_contiguous(),
        "packed bf16, fp16 or fp32 logits",
        logits,
    )
    need(k <= min(experts, 32) and experts <= 1024, "k <= 32 of at most 1024 experts", k, experts)
    chosen = torch.empty((tokens, k), dtype=torch.int64, device=logits.device)
    weights = torch.empty((tokens, k), dtype=torch.float32, device=logits.device)
    per_lane = 1 << max(0, (-(-experts // 32) - 1).bit_length())
    if tokens:
        kernel("route", "route", logits.device, ELEM=LOGITS[logits.dtype], PER_LANE=per_lane)(
            LaunchPlan.warps(tokens, 1 if tokens < 512 else 4),
            logits, chosen, weights, i32(tokens), i32(experts), i32(k), i32(normalise),
        )  # fmt: skip
    return chosen, weights
