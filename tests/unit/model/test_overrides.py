"""Rows that run another net than their neighbours, and what a step gives besides logits."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.model.conftest import Made
from tests.unit.model.nets import Paged, oracle, tokens
from workbench.forward import PLAIN, Abandoned, ForwardBatch, Override, Steering, StopFlag
from workbench.model import Model, load_model

N = 14
IDS = tokens(N, seed=3)


def loaded(tiny: Made, name: str = "llama") -> tuple[Model, Any]:
    folder, theirs = tiny(name)
    return load_model(folder, dtype="fp32", backend="cpu"), theirs


def shortened(theirs: Any, layers: int) -> Tensor:
    """transformers' logits of the net cut after `layers`."""
    cut = copy.deepcopy(theirs)
    cut.model.layers = cut.model.layers[:layers]
    cut.config.num_hidden_layers = layers
    return oracle(cut, IDS)


def steered(theirs: Any, layer: int, vector: Tensor) -> Tensor:
    def add(_: Any, __: Any, output: Any) -> Any:
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    hook = theirs.model.layers[layer].register_forward_hook(add)
    try:
        return oracle(theirs, IDS)
    finally:
        hook.remove()


def test_rows_with_different_overrides_share_a_batch(tiny: Made) -> None:
    model, theirs = loaded(tiny)
    vector = torch.randn(32, generator=torch.manual_seed(4)) * 2
    want = {
        Override(exit_layer=1): shortened(theirs, 1),
        PLAIN: oracle(theirs, IDS),
        Override(exit_layer=2): shortened(theirs, 2),
        Override(exit_layer=3): oracle(theirs, IDS),
        Override(steering=(Steering(1, vector),)): steered(theirs, 1, vector),
    }
    paged = Paged(model, 4)
    rows = [paged.row(IDS, override) for override in want]
    parts = [paged.step([(row, n) for row in rows]).logits.view(5, n, -1) for n in (9, 1, 4)]
    for got, expected in zip(torch.cat(parts, 1), want.values(), strict=True):
        assert (got - expected).abs().max() <= 1e-4
    assert (want[PLAIN] - shortened(theirs, 2)).abs().max() > 0.5


def test_a_batch_of_early_exits_runs_no_deeper_layer(tiny: Made) -> None:
    model, theirs = loaded(tiny)
    paged = Paged(model, 4)
    pulses: list[int] = []
    row = paged.row(IDS, Override(exit_layer=1))
    batch = paged.batch([(row, N)])
    got = model(batch, paged.pool, lambda: pulses.append(1)).logits
    assert len(pulses) == 1
    assert (got - shortened(theirs, 1)).abs().max() <= 1e-4
    assert bool(paged.pool.read(1, batch.slots)[0].isnan().all())


def test_hidden_states_equal_transformers(tiny: Made) -> None:
    model, theirs = loaded(tiny)
    with torch.no_grad():
        want = theirs(torch.tensor([IDS]), output_hidden_states=True).hidden_states
    paged = Paged(model, 4)
    rows = torch.tensor([0, 5, N - 1])
    out = paged.step([(paged.row(IDS), N)], hidden_rows=rows, hidden_layers=(0, 1, -1))
    assert (out.hidden[0] - want[1][0, rows]).abs().max() <= 1e-4
    assert (out.hidden[1] - want[2][0, rows]).abs().max() <= 1e-4
    assert (out.hidden[-1] - want[-1][0, rows]).abs().max() <= 1e-4  # theirs is normed at last
    assert (model.project(out.hidden[-1], True) - out.logits[rows]).abs().max() <= 1e-4


def test_project_reads_any_layer_through_norm_and_head(tiny: Made) -> None:
    model, theirs = loaded(tiny)
    out = Paged(model, 4)
    got = out.step([(out.row(IDS), N)], hidden_rows=torch.arange(N), hidden_layers=(0, 2))
    assert (model.project(got.hidden[2], False) - oracle(theirs, IDS)).abs().max() <= 1e-4
    assert (model.project(got.hidden[0], False) - shortened(theirs, 1)).abs().max() <= 1e-4


def test_vectors_replace_embeddings(tiny: Made) -> None:
    model, theirs = loaded(tiny)
    table = theirs.get_input_embeddings().weight.detach()
    assert torch.equal(model.embed(torch.tensor([5, 9])), table[[5, 9]])
    mixed = (table[11] + table[40]) / 2
    embedded = table[IDS].clone()
    embedded[6] = mixed
    with torch.no_grad():
        want = theirs(inputs_embeds=embedded[None]).logits[0]
    paged = Paged(model, 4)
    got = paged.step(
        [(paged.row(IDS), N)], vectors=mixed[None], vector_rows=torch.tensor([6])
    ).logits
    assert (got - want).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["qwen3 moe", "mixtral", "olmoe"])
def test_router_choices_equal_transformers(name: str, tiny: Made) -> None:
    model, theirs = loaded(tiny, name)
    k = theirs.config.num_experts_per_tok
    with torch.no_grad():
        logits = theirs(torch.tensor([IDS]), output_router_logits=True).router_logits
    paged = Paged(model, 4)
    out = paged.step([(paged.row(IDS), N)], routing=True)
    assert [r.layer for r in out.routing] == [0, 1, 2]
    for got, theirs_logits in zip(out.routing, logits, strict=True):
        best = torch.softmax(theirs_logits, -1).topk(k)
        assert torch.equal(got.experts, best.indices)
        assert got.weights.dtype == torch.float32


def test_a_dense_net_reports_no_routing(tiny: Made) -> None:
    model, _ = loaded(tiny)
    paged = Paged(model, 4)
    assert paged.step([(paged.row(IDS), N)], routing=True).routing == ()
    assert model.facts.experts == 0


def test_an_abandoned_step_can_be_done_again(tiny: Made) -> None:
    model, theirs = loaded(tiny)
    paged = Paged(model, 4)
    row = paged.row(IDS)
    paged.step([(row, 8)])
    batch = paged.batch([(row, N - 8)])
    stop = StopFlag()
    stop.set()
    with pytest.raises(Abandoned):
        model(batch, paged.pool, stop)
    stop.clear()
    got = model(batch, paged.pool, stop).logits
    assert (got - oracle(theirs, IDS)[8:]).abs().max() <= 1e-4


def test_outputs_are_the_callers_own(tiny: Made) -> None:
    """Written into, and unharmed by the next step."""
    model, _ = loaded(tiny)
    paged = Paged(model, 4)
    row = paged.row(IDS)
    first = paged.step([(row, 8)], hidden_rows=torch.arange(2), hidden_layers=(1,))
    kept, hidden = first.logits.clone(), first.hidden[1].clone()
    paged.step([(row, 6)])
    assert torch.equal(first.logits, kept) and torch.equal(first.hidden[1], hidden)
    first.logits.add_(1.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"overrides": (Override(exit_layer=0),)}, "exit_layer must be 1 to 3, got 0"),
        ({"overrides": (Override(exit_layer=4),)}, "exit_layer must be 1 to 3, got 4"),
        ({"overrides": (Override(steering=(Steering(3, torch.zeros(32)),)),)}, "0 to 2"),
        ({"overrides": (Override(steering=(Steering(0, torch.zeros(5)),)),)}, r"\[32\]"),
        ({"vectors": torch.zeros(1, 7), "vector_rows": torch.tensor([0])}, r"\[N, 32\]"),
        ({"hidden_layers": (3,)}, "hidden_layers must lie in -1 to 2"),
    ],
)
def test_what_is_not_served_is_said_before_anything_runs(
    change: dict[str, Any], says: str, tiny: Made
) -> None:
    model, _ = loaded(tiny)
    one = torch.tensor([0])
    facts: dict[str, Any] = {
        "token_ids": one, "positions": one, "slots": one, "query_start": torch.tensor([0, 1]),
        "kv_lens": torch.tensor([1]), "block_tables": torch.tensor([[0]]),
    }  # fmt: skip
    why = model.unserved(ForwardBatch(**facts, **change))
    with pytest.raises(AssertionError, match=says):
        assert why is None, why
    assert model.unserved(ForwardBatch(**facts)) is None
