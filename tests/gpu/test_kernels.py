"""The kernels on a GPU against their twins in float64: odd sizes, empty and one-token rows,
poisoned memory.
"""

import random

import pytest
import torch

from kernels_cupy.errors import KernelError
from kernels_cupy.launch import LaunchPlan, kernel
from kernels_cupy.sample import sample
from tests.unit.kernels import checks
from tests.unit.kernels.cases import Step
from tests.unit.kernels.test_emulated import DECODES, EXTENDS, TREES
from workbench.ops.contract import SamplerRow
from workbench.ops.cpu import CpuOps

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
HALVES = (torch.bfloat16, torch.float16)


def random_step(seed: int) -> Step:
    """Mixed rows: decodes, short and long extends, idle rows."""
    r = random.Random(seed)
    group, kv_heads = r.choice([1, 3, 4, 8]), r.choice([1, 2, 3, 8])
    rows = []
    for _ in range(r.randint(1, 9)):
        new = r.choice([0, 1, 1, 1, 2, 5, 33, 190])
        rows.append((new, max(new, 1) + r.choice([0, 0, 1, 63, 64, 700, 2500])))
    return Step(
        tuple(rows), group * kv_heads, kv_heads, r.choice([64, 96, 128, 256]),
        r.choice([1, 5, 16, 64]), r.choice(HALVES), r.choice([None, None, 1, 77, 400]),
    )  # fmt: skip


@pytest.mark.parametrize("case", [*DECODES, *EXTENDS])
def test_attention(case: Step) -> None:
    checks.attention(case, 11, CUDA)


@pytest.mark.parametrize("seed", range(16))
def test_attention_of_random_steps(seed: int) -> None:
    checks.attention(random_step(seed), seed, CUDA)


@pytest.mark.parametrize("dim", [64, 96, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (24, 3), (8, 8)])
def test_shared_prefix(dim: int, heads: int, kv_heads: int) -> None:
    rows = tuple((1, 700 + 37 * i) for i in range(21))
    checks.attention(Step(rows, heads, kv_heads, dim, 16, prefix=640), dim, CUDA, share=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", TREES)
def test_token_trees(case: Step, seed: int) -> None:
    checks.attention(case, seed, CUDA)


@pytest.mark.parametrize("dim", [64, 128])
def test_attached(dim: int) -> None:
    attached = ((0, 1, 1100, 37), (0, 2, 90, -20), (2, 0, 200, 0), (1, 0, 64, 99999))
    rows = ((1, 900), (2, 1110), (1, 170))
    checks.attention(Step(rows, 8, 2, dim, 16, attached=attached), 5, CUDA)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("tokens", [1, 17, 130])
def test_experts(tokens: int, dtype: torch.dtype) -> None:
    checks.experts(tokens, 8, 2, 256, 192, dtype, CUDA)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("tokens", [300, 777])
def test_many_tokens_an_expert(tokens: int, dtype: torch.dtype) -> None:
    checks.experts(tokens, 3, 2, 512, 384, dtype, CUDA)


def test_experts_128() -> None:
    checks.experts(3, 128, 8, 2048, 768, torch.bfloat16, CUDA)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("dim", [64, 96, 128, 256])
def test_norm_rope_store(dim: int, dtype: torch.dtype) -> None:
    checks.normed_rope_store(dim, dtype, CUDA)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("kv_heads", "dim"), [(3, 64), (4, 96), (8, 128), (1, 256)])
def test_moves(kv_heads: int, dim: int, dtype: torch.dtype) -> None:
    checks.moves(kv_heads, dim, dtype, CUDA)


@pytest.mark.parametrize("spread", [3.0, 0.01, 0.0])
@pytest.mark.parametrize("vocabulary", [151936, 49157])
def test_sampling(vocabulary: int, spread: float) -> None:
    g = torch.Generator().manual_seed(vocabulary)
    rows = [
        SamplerRow(), SamplerRow(temperature=1.0), SamplerRow(temperature=0.7, top_k=50, top_p=0.9),
        SamplerRow(temperature=1.3, top_p=0.9), SamplerRow(temperature=1.0, min_p=0.1),
        SamplerRow(temperature=0.8, top_k=3000), SamplerRow(temperature=1.0, top_k=20, min_p=0.05),
    ]  # fmt: skip
    n = len(rows)
    logits = torch.randn(n, vocabulary, generator=g) * spread
    mask = torch.randint(-(2**31), 2**31 - 1, (n, -(-vocabulary // 32)), generator=g).int()
    uniforms = torch.rand(n, generator=g, dtype=torch.float64)
    none = [torch.empty(0, dtype=torch.int64)] * n
    for masks in (None, mask):
        got = sample(
            logits.to(CUDA), rows, None if masks is None else masks.to(CUDA), none, [None] * n,
            uniforms, 4,
        )  # fmt: skip
        got.wait()
        want = CpuOps().sample(logits, rows, masks, none, [None] * n, uniforms, 4)
        # within rounding of the sum of float32 weights, a neighbour may be drawn
        differ = (got.token.cpu() != want.token).sum()
        assert differ <= (0 if spread == 3.0 else 1), (got.token, want.token)
        assert torch.allclose(got.entropy.cpu(), want.entropy, atol=2e-5)
        assert torch.allclose(got.top_logprobs.cpu(), want.top_logprobs, atol=2e-5)
        if spread > 1:
            assert torch.equal(got.top_ids.cpu(), want.top_ids)


def test_launches_are_captured_in_a_graph() -> None:
    """A kernel launched outside torch's capture stream would be missing from the replay."""
    from kernels_cupy.silu_mul import silu_mul

    x = torch.randn(64, 256, device=CUDA, dtype=torch.bfloat16)
    want = silu_mul(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = silu_mul(x)
    got.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(got, want)
    assert torch.equal(silu_mul(x), want)  # and back on the stream of before


def test_too_much_shared_memory_is_named() -> None:
    x = torch.zeros(8, device=CUDA, dtype=torch.bfloat16)
    with pytest.raises(KernelError, match="shared memory a block wanted"):
        kernel("silu_mul", "silu_mul", x.device, ELEM=0)(LaunchPlan((1, 1, 1), 256, 1 << 20))
