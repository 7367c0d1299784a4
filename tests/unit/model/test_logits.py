"""Logits against transformers, through pages: every family, every fact."""

import pytest
import torch

from tests.unit.model.conftest import Made
from tests.unit.model.nets import NETS, Paged, oracle, tokens
from workbench.model import load_model
from workbench.ops.packing import can_prepack

TOLERANCE = 1e-4  # max absolute difference of logits, fp32
PROMPT = 45  # tokens: past every sliding window, and past the 32 positions of the scaled RoPEs


@pytest.mark.parametrize("name", NETS)
def test_logits_equal_transformers(name: str, tiny: Made) -> None:
    folder, theirs = tiny(name)
    ours = load_model(folder, dtype="fp32", backend="cpu")
    ids = tokens(PROMPT)
    want = oracle(theirs, ids)
    assert want.std() > 0.3  # the net says something
    for page_size, chunks in [
        (16, [PROMPT]),
        (5, [17, 1, 1, 20, 2, 1, 1, 1, 1]),
        (1, [3, 1, PROMPT - 4]),
    ]:
        got = Paged(ours, page_size).all_logits(ids, chunks)
        assert (got - want).abs().max() <= TOLERANCE, (page_size, chunks)


@pytest.mark.parametrize("name", ["llama", "mistral sliding", "qwen3", "olmoe"])
def test_a_ragged_batch_equals_each_row_alone(name: str, tiny: Made) -> None:
    folder, theirs = tiny(name)
    paged = Paged(load_model(folder, dtype="fp32", backend="cpu"), 4)
    streams = [tokens(n, seed=n) for n in (30, 9, 21, 40)]
    rows = [paged.row(ids) for ids in streams]
    got: list[list[torch.Tensor]] = [[] for _ in rows]
    # prompts come in pieces beside rows that decode
    for plan in ([20, 0, 1, 7], [1, 4, 12, 1], [1, 1, 1, 1], [1, 1, 1, 20], [7, 3, 6, 11]):
        work = [(row, n) for row, n in zip(rows, plan, strict=True) if n]
        logits = paged.step(work).logits.split([n for _, n in work])
        mine = iter(logits)
        for place, n in enumerate(plan):
            if n:
                got[place].append(next(mine))
    for ids, parts in zip(streams, got, strict=True):
        assert (torch.cat(parts) - oracle(theirs, ids)).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 0.25), ("fp16", 0.03)])
@pytest.mark.parametrize("name", ["llama", "qwen3 moe", "olmoe clipped"])
def test_half_precision_stays_near(name: str, dtype: str, bound: float, tiny: Made) -> None:
    folder, theirs = tiny(name)
    ours = load_model(folder, dtype=dtype, backend="cpu")
    ids = tokens(24)
    got = Paged(ours, 8).all_logits(ids, [20, 1, 1, 1, 1])
    difference = (got - oracle(theirs, ids)).abs()
    assert ours.name.endswith(dtype)
    # an expert that changes with rounding moves a token's logits at large: the median judges
    assert difference.median() <= bound / 4
    assert difference.mean() <= bound


@pytest.mark.parametrize("name", ["qwen2", "llama mlp bias", "llama tied", "qwen3 moe"])
def test_prepacked_weights_are_the_same_weights(name: str, tiny: Made) -> None:
    if not can_prepack():
        pytest.skip("oneDNN has no bf16 on this CPU")
    folder, _ = tiny(name)
    ids = tokens(24)
    got, want = (
        Paged(load_model(folder, backend="cpu", **form), 8).all_logits(ids, [20, 1, 1, 1, 1])
        for form in ({"weights": "bf16 prepacked"}, {"dtype": "bf16"})
    )
    assert (got - want).abs().median() <= 0.03
    assert (got - want).abs().mean() <= 0.25
