"""Draws from the head of a large vocabulary are draws from all of it."""

import pytest
import torch

from workbench.ops import sampling
from workbench.ops.contract import SamplerRow

V = 3000
SAMPLERS = [
    SamplerRow(temperature=t, top_k=k, top_p=p, min_p=m)
    for t in (0.3, 1.0, 1.5)
    for k in (0, 5, 300)
    for p, m in ((1.0, 0.0), (0.6, 0.0), (0.99, 0.0), (1.0, 0.1), (0.9, 0.02))
]


@pytest.mark.parametrize("spread", [0.1, 2.0, 6.0])
@pytest.mark.parametrize("coarse", [False, True])  # logits out of bf16 have many equals
def test_the_head_decides_as_the_whole_does(
    spread: float, coarse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.manual_seed(9)
    logits = torch.randn(len(SAMPLERS), V, generator=generator) * spread
    if coarse:
        logits = logits.bfloat16().float()
    uniforms = torch.rand(len(SAMPLERS), generator=generator, dtype=torch.float64)
    none = [torch.empty(0, dtype=torch.int64)] * len(SAMPLERS)
    drawn = []
    for head in (256, V):
        monkeypatch.setattr(sampling, "HEAD", head)
        drawn.append(
            sampling.sample(logits, SAMPLERS, None, none, [None] * len(none), uniforms, 1).token
        )
    assert torch.equal(drawn[0], drawn[1])


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0, 1.5]]).expand(4000, 5)
    uniforms = torch.rand(4000, generator=torch.manual_seed(1), dtype=torch.float64)
    rows = [SamplerRow(temperature=0.7)] * 4000
    none = [torch.empty(0, dtype=torch.int64)] * 4000
    tokens = sampling.sample(logits, rows, None, none, [None] * 4000, uniforms, 1).token
    counts = torch.bincount(tokens, minlength=5) / 4000
    assert (counts - torch.softmax(logits[0] / 0.7, -1)).abs().max() < 0.03
