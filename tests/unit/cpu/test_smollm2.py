"""The real net from its own int4 file, against the same values in fp32."""

import pytest
import torch

from tests.unit.model.nets import Paged
from workbench.forward import Override
from workbench.model import Model, load_model

TEXT = (
    "The history of the steam engine is longer than most people think. In the first century, "
    "Hero of Alexandria described a hollow sphere that turned when steam escaped from two "
    "bent tubes. It did no useful work, and for more than fifteen hundred years nobody built "
    "anything better. Then, in 1698, Thomas Savery patented a pump that used the pressure of "
    "steam and the vacuum left when it cooled to raise water out of mines. Thomas Newcomen "
    "made a safer machine in 1712."
)
PILOT = "tim-smollm2"

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def nets() -> tuple[Model, Model]:
    ours, exact = load_model(backend="numba"), load_model(backend="cpu", dtype="fp32")
    for model in (ours, exact):
        model.load_adapter(PILOT)
    return ours, exact


@pytest.mark.parametrize("override", [Override(), Override(PILOT)], ids=["plain", "adapter"])
def test_as_near_to_fp32_as_int8_activations_allow(
    nets: tuple[Model, Model], override: Override
) -> None:
    """llama.cpp on the same file: rms 0.20, KL 0.0031, on text like this one. An adapter that was
    taught to be sure widens the logits, and their errors with them; its opinion is held as near."""
    ids = nets[0].tokenizer.encode(TEXT)
    ours, exact = (
        paged.step([(paged.row(ids, override), len(ids))]).logits
        for paged in (Paged(model, 16) for model in nets)
    )
    rms = (ours - exact).square().mean().sqrt()
    p, q = exact.log_softmax(-1), ours.log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1).mean()
    assert rms < (0.25 if override.adapter is None else 0.3)
    assert divergence < 0.0045
    assert (ours.argmax(-1) == exact.argmax(-1)).float().mean() > 0.93


def test_decoding_is_the_same_bits_as_prefill(nets: tuple[Model, Model]) -> None:
    ids = nets[0].tokenizer.encode(TEXT)[:40]
    whole = Paged(nets[0], 16, seed=1).all_logits(ids, [40])
    assert torch.equal(Paged(nets[0], 16, seed=2).all_logits(ids, [30] + [1] * 10), whole)
