"""Draws of the emulated kernels against the CPU's: peaked, flat and level rows, and numbers by
counter.
"""

import pytest
import torch
from torch import Tensor

from kernels_cupy.sample import Counters, draw, settings
from workbench.engine.philox import uniform
from workbench.ops.contract import Sampled, SamplerRow
from workbench.ops.cpu import CpuOps

KINDS = (
    SamplerRow(), SamplerRow(temperature=1.0), SamplerRow(temperature=1.3, top_p=0.9),
    SamplerRow(temperature=0.7, top_k=50, top_p=0.9), SamplerRow(temperature=2.0, min_p=0.001),
    SamplerRow(temperature=1.0, top_p=0.95, min_p=0.01), SamplerRow(temperature=0.8, top_k=700),
    SamplerRow(temperature=1.0, top_p=0.3),
)  # fmt: skip


def wanted(logits: Tensor, rows: list[SamplerRow], mask: Tensor | None, u: Tensor) -> Sampled:
    none = [torch.empty(0, dtype=torch.int64)] * len(rows)
    return CpuOps().sample(logits, rows, mask, none, [None] * len(rows), u, 4)


@pytest.mark.parametrize("spread", [6.0, 1.0, 0.01])
@pytest.mark.parametrize(("vocabulary", "masked"), [(2600, False), (5003, True)])
def test_draws_are_the_cpu_s(vocabulary: int, spread: float, masked: bool) -> None:
    g = torch.Generator().manual_seed(vocabulary + int(100 * spread))
    rows = [kind for kind in KINDS for _ in range(2)]
    logits = torch.randn(len(rows), vocabulary, generator=g) * spread
    words = torch.randint(-(2**31), 2**31 - 1, (len(rows), -(-vocabulary // 32)), generator=g).int()
    mask = words if masked else None
    u = torch.rand(len(rows), generator=g, dtype=torch.float64)
    got, state = draw(logits, settings(rows), mask, u, 4)
    want = wanted(logits, rows, mask, u)
    assert torch.equal(got.token, want.token), (got.token, want.token, state)
    assert torch.equal(got.top_ids, want.top_ids)
    for ours, theirs in zip(
        (got.logprob, got.entropy, got.top_logprobs),
        (want.logprob, want.entropy, want.top_logprobs), strict=True,
    ):  # fmt: skip
        assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS[1:3])
def test_a_flat_row_is_collected_by_several_blocks(kind: SamplerRow) -> None:
    """Again and again: the blocks' counters are back at zero after a draw."""
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        logits = torch.randn(1, 8 * 1024 + 5, generator=g) * 0.7
        u = torch.rand(1, generator=g, dtype=torch.float64)
        got, state = draw(logits, settings([kind]), None, u, 4)
        want = wanted(logits, [kind], None, u)
        assert state.tolist() == [0]
        assert torch.equal(got.token, want.token)
        assert torch.equal(got.top_ids, want.top_ids)


@pytest.mark.parametrize("u", [0.0, 0.25, 0.999999])
def test_equal_logits_are_drawn_by_id(u: float) -> None:
    rows = [SamplerRow(temperature=1.0), SamplerRow(temperature=1.0, top_k=5)]
    logits = torch.zeros(2, 4096)
    got, _ = draw(logits, settings(rows), None, torch.full((2,), u, dtype=torch.float64), 3)
    assert got.token.tolist() == [int(u * 4096), int(u * 5)]
    assert got.top_ids.tolist() == [[0, 1, 2]] * 2


def test_rounding_decides_where_top_p_falls_on_a_border() -> None:
    """0.9 of 9,000 equal logits are exactly 8,100. The kernels take top_p in float32, a little less
    than 0.9, and stop there; the CPU's float64 sums of 1 / 9000 fall short by as little and take
    one more. So the last that may be drawn differs by one, and so may every draw before it."""
    row = SamplerRow(temperature=1.0, top_p=0.9)
    last = torch.full((1,), 1 - 2**-53, dtype=torch.float64)
    for u, most in ((last, 8100), (torch.full_like(last, 0.97), 7858)):
        got, _ = draw(torch.zeros(1, 9000), settings([row]), None, u, 4)
        want = wanted(torch.zeros(1, 9000), [row], None, u)
        assert {int(got.token), int(want.token)} <= {most - 1, most}


@pytest.mark.parametrize("flat", [False, True])
def test_crowded_rows_are_decided(flat: bool) -> None:
    """More equal logits, or more in the best chunks, than a list holds."""
    rows = [SamplerRow(), SamplerRow(top_k=700), SamplerRow(temperature=1.0, top_k=5)] * 2
    g = torch.Generator().manual_seed(3)
    logits = torch.zeros(len(rows), 6000)
    logits[3:, :2600] = torch.randn(3, 2600, generator=g)
    logits[3:, 2600:] = -torch.inf
    mask = torch.full((len(rows), -(-6000 // 32)), -1, dtype=torch.int32)
    mask[:, 0] = -2  # not the first token
    u = torch.full((len(rows),), 0.5, dtype=torch.float64)
    got, state = draw(logits, settings(rows), mask, u, 4, flat)
    want = wanted(logits, rows, mask, u)
    assert state.tolist() == [0] * len(rows)
    assert torch.equal(got.token, want.token), (got.token, want.token)
    assert got.top_ids[:3].tolist() == [[1, 2, 3, 4]] * 3  # equal ones by id
    assert torch.equal(got.top_ids[3:], want.top_ids[3:])


def test_a_mask_that_allows_one_decides() -> None:
    mask = torch.zeros(1, 100, dtype=torch.int32)
    mask[0, 40] = 8
    got, state = draw(
        torch.randn(1, 3200), settings([SamplerRow(temperature=1.0)]), mask,
        torch.tensor([0.7], dtype=torch.float64), 2,
    )  # fmt: skip
    assert state.tolist() == [0]
    assert got.token.tolist() == [40 * 32 + 3]
    assert got.logprob.tolist() == [0.0]
    assert got.top_logprobs.tolist() == [[0.0, -torch.inf]]


def test_numbers_by_counter_are_the_engine_s() -> None:
    """Of a level row of 4096, the token drawn is the number's first 12 bits."""
    seeds = [0, 1, 2**63 + 12345, 0xDEADBEEF12345678, 2**64 - 1]
    indexes = [0, 7, 123456789, 2**40 + 3, 2**62]
    rows = [SamplerRow(temperature=1.0)] * len(seeds)
    counters = Counters(
        torch.tensor([s - 2**64 if s >= 2**63 else s for s in seeds]), torch.tensor(indexes)
    )
    u = torch.tensor(
        [uniform(s, i) for s, i in zip(seeds, indexes, strict=True)], dtype=torch.float64
    )
    logits = torch.randn(len(seeds), 1500)
    by_counter, _ = draw(logits, settings(rows), None, counters, 1)
    given, _ = draw(logits, settings(rows), None, u, 1)
    assert torch.equal(by_counter.token, given.token)
    level, _ = draw(torch.zeros(len(seeds), 4096), settings(rows), None, counters, 1)
    assert level.token.tolist() == (u * 4096).long().tolist()
