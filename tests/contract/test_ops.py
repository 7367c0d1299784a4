"""Every implementation of `ops.contract` against the reference, by one table of tolerances."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from tests.contract.cases import CASES, Case, MakePool, Results
from workbench.kv.pool import TorchPool
from workbench.ops.contract import SamplerRow
from workbench.ops.cpu import CpuOps
from workbench.ops.reference import ReferenceOps
from workbench.ops.tolerance import EXACT, TOLERANCE, Tolerance, disagreement

CPU = torch.device("cpu")


def cuda_ops() -> Any:
    from kernels_cupy import CudaOps

    return CudaOps()


def emulated_ops() -> Any:
    from kernels_cupy import CudaOps

    return CudaOps(emulated=True)


def cuda_pool(*args: Any) -> Any:
    from kernels_cupy import CudaPool

    return CudaPool(*args)


@dataclass(frozen=True)
class Implementation:
    """To join: how to make the ops and their pool, where tensors lie, which dtypes are served."""

    ops: Callable[[], Any]
    pool: MakePool = TorchPool
    device: str = "cpu"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)


HALVES = (torch.bfloat16, torch.float16)
IMPLEMENTATIONS = {
    "cpu": Implementation(CpuOps),
    "torch-cuda": Implementation(CpuOps, device="cuda"),
    "cuda": Implementation(cuda_ops, cuda_pool, "cuda", HALVES),
    "cuda-emulated": Implementation(emulated_ops, cuda_pool, "cpu", (torch.bfloat16,)),
}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


COMBINATIONS = [
    pytest.param(
        implementation,
        case,
        dtype,
        id=f"{name}-{case.op}-{case.name}-{name_of(dtype)}",
        marks=[pytest.mark.gpu] if implementation.device == "cuda" else [],
    )
    for name, implementation in IMPLEMENTATIONS.items()
    for case in CASES
    for dtype in implementation.dtypes
    # logits are float32 whatever the weights are
    if case.op != "sample" or dtype == implementation.dtypes[0]
]


@cache
def reference(case: Case, dtype: torch.dtype) -> Results:
    return case.run(ReferenceOps(), TorchPool, CPU, dtype)


@pytest.mark.parametrize(("implementation", "case", "dtype"), COMBINATIONS)
def test_agrees_with_the_reference(
    implementation: Implementation, case: Case, dtype: torch.dtype
) -> None:
    device = torch.device(implementation.device)
    if case.op == "sample":
        dtype = torch.float32
    got = case.run(implementation.ops(), implementation.pool, device, dtype)
    want = reference(case, dtype)
    assert got.keys() == want.keys()
    for part, expected in want.items():
        # router weights are float32 whatever the activations are, and v is stored as it came
        tolerance = TOLERANCE[case.op, torch.float32 if case.op == "route" else dtype]
        why = disagreement(got[part], expected, EXACT if part == "v" else tolerance)
        assert why is None, f"{case.op} ({case.name}), {part}: {why}"


@pytest.mark.parametrize("ops", [CpuOps(), ReferenceOps()], ids=["cpu", "reference"])
def test_a_mask_that_allows_nothing_is_refused(ops: Any) -> None:
    mask = torch.tensor([[1], [0]], dtype=torch.int32)
    none: list[Any] = [torch.empty(0, dtype=torch.int64)] * 2
    with pytest.raises(ValueError, match="row 1 allows no token"):
        ops.sample(
            torch.zeros(2, 20), [SamplerRow()] * 2, mask, none, [None] * 2,
            torch.zeros(2, dtype=torch.float64), 1,
        )  # fmt: skip


def test_a_row_draws_the_same_token_alone_and_in_a_batch() -> None:
    logits = torch.randn(8, 300, generator=torch.manual_seed(0)) * 2
    rows = [SamplerRow(temperature=0.5 + r / 4, top_p=0.95) for r in range(8)]
    uniforms = torch.rand(8, generator=torch.manual_seed(1), dtype=torch.float64)
    empty = torch.empty(0, dtype=torch.int64)
    ops = CpuOps()
    together = ops.sample(logits, rows, None, [empty] * 8, [None] * 8, uniforms, 1).token
    for r in range(8):
        alone = ops.sample(
            logits[r : r + 1], rows[r : r + 1], None, [empty], [None], uniforms[r : r + 1], 1
        )
        assert alone.token[0] == together[r]


def test_a_disagreement_names_the_first_bad_coordinate_and_both_values() -> None:
    want = torch.arange(6.0).view(2, 3)
    got = want.clone()
    got[1, 0] += 0.5
    why = disagreement(got, want, Tolerance(1e-3, 0.0))
    assert why is not None and "first at [1, 0]: got 3.5, want 3.0" in why
    assert disagreement(want, want.clone(), EXACT) is None
    got[1, 0] = torch.nan
    assert disagreement(got, want, Tolerance(1e9, 0.0)) is not None


def test_a_planted_error_is_found() -> None:
    """The table is no rubber stamp: a causal mask that is off by one fails."""

    class OffByOne(CpuOps):
        def attention(self, q: Any, plan: Any, layer: int, scale: float, window: int | None) -> Any:
            return super().attention(q, plan, layer, scale, 6 if window is None else window)

    case = next(c for c in CASES if c.op == "attention" and c.name == "mixed")
    got = case.run(OffByOne(), TorchPool, CPU, torch.float32)["out"]
    want = reference(case, torch.float32)["out"]
    assert disagreement(got, want, TOLERANCE["attention", torch.float32]) is not None
