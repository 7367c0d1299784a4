"""How near two implementations of an operation must be, in one table, and where they are not."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|got - want| <= atol + rtol * |want|."""

    atol: float
    rtol: float


EXACT = Tolerance(0.0, 0.0)
_ULP = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}

# Products and softmaxes over hundreds of terms get room by what they sum; stores and choices are
# exact but for one rounding of the dtype.
TOLERANCE: dict[tuple[str, torch.dtype], Tolerance] = {
    (op, dtype): Tolerance(factor * ulp, ulp)
    for op, factor in {
        "rms_norm": 1.0,
        "add_rms_norm": 1.0,
        "rope_store": 2.0,
        "attention": 2.0,
        "silu_mul": 1.0,
        "linear": 8.0,
        "expert_mlp": 4.0,
        "route": 1.0,
        "sample": 10.0,
    }.items()
    for dtype, ulp in _ULP.items()
}


def disagreement(got: Tensor, want: Tensor, tolerance: Tolerance) -> str | None:
    """A sentence that names the first bad coordinate and both values; None when all is near."""
    if got.shape != want.shape:
        return f"shape {list(got.shape)} instead of {list(want.shape)}"
    got, want = got.detach().cpu(), want.detach().cpu()
    if got.dtype != want.dtype:
        return f"dtype {got.dtype} instead of {want.dtype}"
    if not got.dtype.is_floating_point:
        bad = got != want
    else:
        near = (got.double() - want.double()).abs() <= tolerance.atol + tolerance.rtol * want.abs()
        bad = ~(near | (got == want))  # equal infinities are near, NaN is near to nothing
    if not bool(bad.any()):
        return None
    first = tuple(bad.nonzero()[0].tolist())
    return (
        f"{int(bad.sum())} of {bad.numel()} differ; first at {list(first)}: "
        f"got {got[first].item()!r}, want {want[first].item()!r} "
        f"(atol {tolerance.atol:g}, rtol {tolerance.rtol:g})"
    )
