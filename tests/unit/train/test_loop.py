"""The training net against transformers and PEFT; the loop learns, and goes on where it was cut."""

import copy
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.model.shape import ModelShape, Rope
from workbench.tasks import task
from workbench.train.corpus import Encoder, Mixture, batch_at, pack
from workbench.train.led import judge
from workbench.train.loop import Loop, Recipe
from workbench.train.masks import dense, rule
from workbench.train.net import LINEARS, LoraFacts, TrainNet
from workbench.train.step import Step
from workbench.train.views import NO_TARGET

VOCABULARY = 128  # ASCII, so that text is its own token ids
SHAPE = ModelShape(
    family="llama",
    vocabulary=VOCABULARY,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn=64,
    norm_eps=1e-5,
    rope=Rope(10_000.0),
    window=2048,
    sliding=(None, None),
    tied_head=True,
)
MIXTURE = Mixture("flat", (("expression", 1.0),), row=1024, gap_share=0.0)
TREES = Mixture("tree", (("maze", 1.0), ("expression", 1.0)), row=768, gap_share=0.0)
RECIPE = Recipe(
    "tiny",
    MIXTURE,
    LoraFacts(rank=4),
    steps=12,
    tokens=2048,
    warmup=2,
    save_every=6,
    report_every=6,
)


def ascii_encoder() -> Encoder:
    return Encoder(
        prompt=lambda text: [ord(c) for c in text], piece=lambda text: [ord(c) for c in text], end=3
    )


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def tiny_net(llama: LlamaForCausalLM, seed: int = 0) -> TrainNet:
    weights = {k: v.detach().clone() for k, v in llama.state_dict().items()}
    return TrainNet(SHAPE, weights, RECIPE.lora, seed)


def test_loss_equals_transformers_on_an_unpruned_document(llama: LlamaForCausalLM) -> None:
    batch = batch_at(replace(TREES, thresholds=(None,)), ascii_encoder(), 1536, seed=1, step=0)
    loss = Step(tiny_net(llama), torch.optim.SGD([torch.zeros(1)]), 1.0).loss(batch)
    total, count = 0.0, 0
    for row in range(len(batch.ids)):
        for document in range(batch.document[row].max() + 1):
            place = torch.from_numpy(batch.document[row] == document)
            ids = torch.from_numpy(batch.ids[row]).long()[place][None]
            targets = torch.from_numpy(batch.targets[row]).long()[place]
            with torch.no_grad():
                logits = llama(ids).logits[0]
            chosen = targets >= 0
            total += float(
                torch.nn.functional.cross_entropy(logits[chosen], targets[chosen], reduction="sum")
            )
            count += int(chosen.sum())
    assert loss.item() == pytest.approx(total / count, abs=1e-4)


def test_the_adapter_file_means_the_same_to_peft(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    from peft import PeftModel

    net = tiny_net(llama)
    torch.manual_seed(1)
    for up in net.up.values():
        torch.nn.init.normal_(up, std=0.1)
    # what the file holds is bf16: compare what it says, not what was rounded away
    for parameters in (net.down, net.up):
        for parameter in parameters.values():
            parameter.data = parameter.data.bfloat16().float()
    loop = Loop(RECIPE, net, ascii_encoder, tmp_path, torch.device("cpu"))
    loop.write_adapter()
    merged = PeftModel.from_pretrained(copy.deepcopy(llama), str(tmp_path)).merge_and_unload()
    for name in LINEARS:
        for i, ours in enumerate(net.merged(name)):
            wanted = merged.get_submodule(f"model.layers.{i}.{name}").weight
            torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=0)


def test_the_loop_learns_and_a_cut_run_goes_on_as_if_uncut(
    llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    def loop(out: Path) -> Loop:
        return Loop(RECIPE, tiny_net(llama), ascii_encoder, out, torch.device("cpu"))

    whole = loop(tmp_path / "whole")
    start = whole.validate()
    rows = list(whole.run())
    assert rows[-1].validation is not None and rows[-1].validation < start

    cut = loop(tmp_path / "cut")
    next(cut.run())  # killed after the first row, at step 6
    resumed = loop(tmp_path / "cut")
    resumed.resume()
    assert resumed.step == 6
    list(resumed.run())
    for name, tensor in whole.net.adapter().items():
        assert torch.equal(tensor, resumed.net.adapter()[name]), name


def test_the_rule_is_the_dense_mask() -> None:
    batch = batch_at(TREES, ascii_encoder(), 1536, seed=1, step=0)
    document, dead = torch.from_numpy(batch.document), torch.from_numpy(batch.dead)
    b, _, q, k = torch.meshgrid(*map(torch.arange, (2, 1, 768, 768)), indexing="ij")
    assert torch.equal(rule(document, dead)(b, torch.zeros_like(b), q, k), dense(document, dead))


def test_rows_for_which_every_document_is_too_long() -> None:
    with pytest.raises(ValueError, match="no document of"):
        batch_at(replace(TREES, row=64), ascii_encoder(), 128, seed=0, step=0)


def test_led_along_the_right_text(llama: LlamaForCausalLM) -> None:
    """Predictions at targets are transformers' argmax; a net that says them all is exact."""
    net = tiny_net(llama)
    step = Step(net, torch.optim.SGD([torch.zeros(1)]), 1.0)
    mixture = replace(TREES, thresholds=(0,))
    problem = task("maze", 3, 1)
    view = ascii_encoder().view(problem, mixture, random.Random(0))
    batch, over = pack([view], 1, 1024)
    assert not over
    came = step.predictions(batch)
    sampled = np.flatnonzero(view.targets != NO_TARGET)
    for query in (sampled[0], sampled[len(sampled) // 2], sampled[-1]):
        keys = [k for k in range(query + 1) if query < view.dead[k]]
        with torch.no_grad():
            logits = llama(torch.from_numpy(view.ids[keys]).long()[None]).logits[0, -1]
        assert int(logits.argmax()) == came[0, query]
    known = judge(step, "maze", 3, [replace(view, targets=came[0, : len(view)])])
    assert (known.exact, known.errors, known.sampled) == (1, 0, len(sampled))
    found = judge(step, "maze", 3, [view])
    assert found.errors == int((came[0, : len(view)] != view.targets).sum()) and not found.exact
