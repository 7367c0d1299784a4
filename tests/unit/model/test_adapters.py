"""LoRA beside the weights against transformers and PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.model.conftest import Made
from tests.unit.model.nets import Paged, oracle, tokens
from workbench.forward import Override
from workbench.model import Model, ModelError, load_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peft_on(base: Any, folder: Path, seed: int, **config: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(**{"r": 4, "lora_alpha": 10, "target_modules": ALL, **config})
    adapted = get_peft_model(base, lora).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    adapted.save_pretrained(folder)
    return adapted


@pytest.fixture
def adapted(tiny: Made, tmp_path: Path) -> tuple[Model, dict[str, torch.Tensor], list[int]]:
    """A net with two adapters, and what transformers and PEFT say with each and without."""
    folder, base = tiny("qwen2")
    ids = tokens(20)
    model = load_model(folder, dtype="fp32", backend="cpu")
    want = {"plain": oracle(base, ids)}
    made = {
        "all": {},
        "some": {"r": 3, "target_modules": ["q_proj", "v_proj", "up_proj"], "use_rslora": True},
    }
    for seed, (name, config) in enumerate(made.items()):
        peft = peft_on(base, tmp_path / name, seed, **config)
        want[name] = oracle(peft, ids)
        peft.unload()
        model.load_adapter(name, tmp_path / name)
    return model, want, ids


def test_each_adapter_equals_peft(
    adapted: tuple[Model, dict[str, torch.Tensor], list[int]],
) -> None:
    model, want, ids = adapted
    for name in ("all", "some"):
        paged = Paged(model, 4)
        row = paged.row(ids, Override(adapter=name))
        got = torch.cat([paged.step([(row, n)]).logits for n in (13, 1, 6)])
        assert (want[name] - want["plain"]).abs().max() > 0.5
        assert (got - want[name]).abs().max() <= 1e-4


def test_rows_with_different_adapters_share_a_batch(
    adapted: tuple[Model, dict[str, torch.Tensor], list[int]],
) -> None:
    model, want, ids = adapted
    paged = Paged(model, 4)
    names = ["some", None, "all", "all"]
    rows = [paged.row(ids, Override(adapter=n) if n else Override()) for n in names]
    parts = [paged.step([(row, n) for row in rows]).logits.view(4, n, -1) for n in (11, 1, 8)]
    for name, got in zip(names, torch.cat(parts, 1), strict=True):
        assert (got - want[name or "plain"]).abs().max() <= 1e-4


def test_scale_zero_is_the_plain_net_and_scale_counts(
    adapted: tuple[Model, dict[str, torch.Tensor], list[int]],
) -> None:
    model, want, ids = adapted
    outs = {}
    for scale in (0.0, 0.5, 1.0):
        paged = Paged(model, 4)
        row = paged.row(ids, Override(adapter="all", scale=scale))
        outs[scale] = paged.step([(row, len(ids))]).logits
    assert (outs[0.0] - want["plain"]).abs().max() <= 1e-4
    assert (outs[0.5] - outs[1.0]).abs().max() > 0.1
    assert (outs[0.5] - outs[0.0]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type LORA is served"),
        ({"use_dora": True}, "use_dora=True is not served"),
        ({"bias": "all"}, "bias='all' is not served"),
    ],
)
def test_an_unserved_adapter_is_refused(
    change: dict[str, Any], says: str, tiny: Made, tmp_path: Path
) -> None:
    folder, base = tiny("llama")
    peft_on(base, tmp_path, 0).unload()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=says):
        load_model(folder, dtype="fp32", backend="cpu").load_adapter("x", tmp_path)


def test_an_adapter_of_another_net_is_refused(tiny: Made, tmp_path: Path) -> None:
    _, base = tiny("llama head_dim 16 of 32 / 4")
    peft_on(base, tmp_path, 0).unload()
    model = load_model(tiny("llama")[0], dtype="fp32", backend="cpu")
    with pytest.raises(ModelError, match="it was trained for another net"):
        model.load_adapter("x", tmp_path)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        model.load_adapter("x", tmp_path / "nowhere")
    with pytest.raises(ModelError, match="these do: tim-smollm2"):
        model.load_adapter("tim-smollm3")


def test_an_unknown_adapter_is_unserved_before_anything_runs(tiny: Made) -> None:
    model = load_model(tiny("llama")[0], dtype="fp32", backend="cpu")
    paged = Paged(model, 4)
    with pytest.raises(AssertionError, match="'x' is not loaded"):
        paged.step([(paged.row([5], Override(adapter="x")), 1)])
