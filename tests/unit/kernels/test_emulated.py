"""Our .cu files executed on the CPU, tensor-core and warpgroup products included, against slow
twins.

The contract test (tests/contract, implementation "cuda-emulated") covers each op at head_dim 64;
here are the other shapes and the variants that a GPU would choose.
"""

import pytest
import torch

from kernels_cupy import expert_mlp, launch, paged_attention
from kernels_cupy.emulate import emulated
from kernels_cupy.errors import KernelError
from kernels_cupy.launch import LaunchPlan, elem
from kernels_cupy.rms_norm import rms_norm
from tests.unit.kernels import checks
from tests.unit.kernels.cases import Step

FP16 = torch.float16
DECODES = [
    Step(
        ((1, 5), (0, 7), (1, 700)), 8, 1, 128, 16
    ),  # a group of 8, an idle row, work that straddles
    Step(((1, 70), (2, 90)), 8, 2, 128, 1, FP16),
    Step(((1, 70), (1, 200)), 8, 8, 96, 64, window=50),  # a group of 1
    Step(((1, 70), (1, 200)), 12, 4, 256, 16),  # a group of 3
]
EXTENDS = [
    Step(((70, 170), (5, 130)), 4, 1, 64, 16, window=33),
    Step(((70, 70), (50, 300)), 4, 1, 128, 1),
    Step(((40, 100),), 4, 1, 256, 16),
]


TREES = [
    Step(((5, 70), (1, 90), (3, 3)), 2, 2, 64, 16, trees=(0, 2)),  # items
    Step(((20, 140), (9, 9), (2, 40)), 8, 2, 128, 8, trees=(0, 1)),  # tiles
    Step(((64, 200),), 2, 1, 64, 1, torch.float16, trees=(0,)),
]


@pytest.mark.parametrize("case", DECODES)
def test_decode(case: Step) -> None:
    checks.attention(case, 1, "cpu")


def test_decode_on_a_consumer_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Head_dim 256 in 99 KB of shared memory: one stage."""
    monkeypatch.setattr(paged_attention, "shared_limit", lambda device: 99 << 10)
    assert paged_attention.settings(256, 8, 99 << 10)["STAGES"] == 1
    checks.attention(DECODES[3], 1, "cpu")


@pytest.mark.parametrize("case", EXTENDS)
def test_extend(case: Step) -> None:
    checks.attention(case, 2, "cpu")


@pytest.mark.parametrize("case", EXTENDS[:2])
def test_extend_by_warpgroup(case: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "EMULATE_WGMMA", True)
    checks.attention(case, 3, "cpu")


@pytest.mark.parametrize("by_warpgroup", [False, True])
def test_shared_prefix_is_read_once_and_merged(
    by_warpgroup: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "EMULATE_WGMMA", by_warpgroup)
    case = Step(((1, 400), (1, 310), (1, 270)), 8, 2, 64, 16, prefix=256)
    checks.attention(case, 4, "cpu", share=True)


@pytest.mark.parametrize("by_warpgroup", [False, True])
@pytest.mark.parametrize("case", TREES)
def test_token_trees(case: Step, by_warpgroup: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "EMULATE_WGMMA", by_warpgroup)
    checks.attention(case, 6, "cpu")


def test_a_tree_of_too_many_tokens_is_named() -> None:
    with pytest.raises(KernelError, match="at most 64 tokens in a tree"):
        checks.attention(Step(((65, 65),), 2, 1, 64, 16, trees=(0,)), 6, "cpu")


def test_attached_segments_turn_the_query() -> None:
    attached = ((0, 1, 100, 37), (0, 2, 90, -20), (2, 0, 200, 0), (1, 0, 64, 5))
    checks.attention(
        Step(((1, 200), (2, 110), (1, 170)), 8, 2, 64, 16, attached=attached), 5, "cpu"
    )


@pytest.mark.parametrize("wide", [False, True])
def test_experts(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "EMULATE_WGMMA", wide)
    checks.experts(60, 3, 2, 128, 128, torch.bfloat16, "cpu")


def test_many_tokens_an_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "EMULATE_WGMMA", True)
    monkeypatch.setattr(expert_mlp, "MANY", 64)
    checks.experts(150, 2, 1, 256, 128, torch.bfloat16, "cpu")


def test_norm_rope_store() -> None:
    checks.normed_rope_store(128, torch.bfloat16, "cpu")


def test_moves() -> None:
    checks.moves(3, 64, torch.bfloat16, "cpu")


def test_an_unserved_type_is_named() -> None:
    with pytest.raises(KernelError, match=r"bfloat16 and float16.*float32"):
        elem(torch.float32)
    x = torch.zeros(2, 12, dtype=torch.bfloat16)
    with pytest.raises(KernelError, match=r"whole 16-byte chunks.*\[2, 12\]"):
        rms_norm(x, x[0], 1e-5)


def test_a_barrier_that_not_all_reach_is_an_error(tmp_path: object) -> None:
    from kernels_cupy.compile import CUDA

    source = CUDA / "stuck_for_a_test.cu"
    source.write_text(
        '#include "common/ptx.cuh"\n'
        'extern "C" __global__ void stuck() { if (threadIdx.x < 40) __shfl_sync(~0u, 1, 0); '
        "if (threadIdx.x == 3) __shfl_sync(~0u, 1, 0); }\n"
    )
    try:
        with pytest.raises(KernelError, match="barrier that not all"):
            emulated("stuck_for_a_test", "stuck", {})(LaunchPlan((1, 1, 1), 64))
    finally:
        source.unlink()
