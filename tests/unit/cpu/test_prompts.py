"""Long prompts through another net, and the probe that finds where that pays."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.cpu import nets
from tests.unit.cpu.oracle import Oracle
from tests.unit.model.nets import Paged
from workbench.cpu import NumbaForward, build, probe
from workbench.cpu.probe import Prefill
from workbench.cpu.prompts import Prompts, asked
from workbench.forward import Abandoned, Override
from workbench.model.decoder import Decoder
from workbench.model.weights import NetBuilder
from workbench.ops.cpu import CpuOps

INT8 = 0.08  # rms of the deviation: int8 weights and activations against none


def torch_net(name: str) -> Decoder:
    """The same random weights in fp32, not quantised."""
    shape, ops, cpu = nets.SHAPES[name], CpuOps(), torch.device("cpu")
    source: Any = nets.RandomSource(shape)
    net = NetBuilder(shape, source, ops, torch.float32, cpu).net()
    return Decoder(shape, net, ops, name="torch", dtype=torch.float32, device=cpu)


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    assert ((got - want).square().mean() / want.var()).sqrt() < INT8


@pytest.mark.parametrize("name", ["llama", "qwen3", "yarn"])
@pytest.mark.parametrize("page_size", [1, 5, 16])
def test_both_ways_read_and_write_the_same_pages(name: str, page_size: int) -> None:
    fast = NumbaForward(nets.net(name))
    fast.prompts = Prompts(torch_net(name), 12)
    ids = nets.tokens(50)
    got = Paged(fast, page_size).all_logits(ids, [20, 3, 12, 1, 14])
    near(got, Oracle(fast.net, rounded=False).logits(ids))
    calm = NumbaForward(fast.net)
    assert not torch.equal(got[:20], Paged(calm, page_size).all_logits(ids[:20], [20]))


def test_only_long_plain_prompts_on_their_own_are_taken() -> None:
    calm = NumbaForward(nets.net("llama"))
    fast = NumbaForward(calm.net)
    fast.prompts = Prompts(torch_net("llama"), 12)
    ids, other = nets.tokens(20), nets.tokens(20, seed=1)
    vector = calm.embed(torch.tensor(ids[:1]))
    pair, row = [(ids, Override()), (other, Override())], [(ids, Override())]
    for rows, n, extra in (
        (pair, 20, {}),
        (row, 11, {}),
        ([(ids, Override(exit_layer=1))], 20, {}),
        (row, 20, {"vectors": vector, "vector_rows": torch.tensor([0])}),
    ):
        results = []
        for forward in (calm, fast):
            paged = Paged(forward, 16)
            results.append(paged.step([(paged.row(*r), n) for r in rows], **extra).logits)
        assert torch.equal(*results)


def test_a_prompt_that_is_given_up_has_written_nothing() -> None:
    fast = NumbaForward(nets.net("llama"))
    fast.prompts = Prompts(torch_net("llama"), 12)
    paged = Paged(fast, 16)
    batch = paged.batch([(paged.row(nets.tokens(20)), 20)])

    def pulse() -> None:
        raise Abandoned

    with pytest.raises(Abandoned):
        fast(batch, paged.pool, pulse)
    assert paged.pool.k.isnan().all()


def rates(*others: float) -> Prefill:
    lengths = probe.LENGTHS[: len(others)]
    return Prefill(
        "here", "net", 1, "torch bf16", dict.fromkeys(lengths, 100.0),
        dict(zip(lengths, others, strict=True)),
    )  # fmt: skip


def test_the_crossover_is_where_all_longer_ones_gain() -> None:
    assert rates(90, 110, 119, 119).crossover is None
    assert rates(90, 110, 121, 150).crossover == 256
    assert rates(150, 110, 121, 150).crossover == 256
    assert rates(150, 150, 150, 150).crossover == 64
    assert "fused at every length" in rates(1, 1, 1, 1).told()
    assert "faster from 256 tokens" in rates(90, 110, 121, 150).told()
    assert "torch bf16 150" in rates(90, 110, 121, 150).told()


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, made = NumbaForward(nets.net("llama")), []

    def make() -> Decoder:
        made.append(torch_net("llama"))
        return made[-1]

    def ask(**changed: Any) -> Prefill:
        shape = replace(nets.SHAPES["llama"], **changed)
        return probe.prefill(step, make, "net", shape, 1, tmp_path)[0]

    first = ask()
    assert set(first.fused) == set(probe.LENGTHS)
    assert ask() == first and len(made) == 1
    assert probe.known_here(tmp_path) == [first]
    assert ask(window=77) != first and len(made) == 2, "another shape"
    for path in tmp_path.glob("prefill-*.json"):
        kept = json.loads(path.read_text())
        path.write_text(json.dumps({**kept, "fused": {}}))
    assert probe.known_here(tmp_path) == []
    ask()
    assert len(made) == 3, "a damaged figure is measured again"
    monkeypatch.setattr(build, "key_of", lambda isa, half: "another CPU")
    assert probe.known_here(tmp_path) == []
    blocked = tmp_path / "file"
    blocked.write_text("")
    probe.prefill(step, make, "net", nets.SHAPES["llama"], 1, blocked)


def test_a_word_that_is_no_choice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked() == "exact"
    monkeypatch.setenv("WORKBENCH_CPU_PROMPTS", "quick")
    with pytest.raises(ValueError, match="exact or fast, got 'quick'"):
        asked()
