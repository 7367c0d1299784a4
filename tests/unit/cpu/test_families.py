"""Checkpoints of every family through the door: transformers' logits, routers as ops.cpu has them,
and what is said where the step does not serve."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, quants

from tests.unit.model.nets import BASE, LLAMA3, Paged, oracle, save_tokenizer, tokens
from workbench.forward import Override, Segment, Steering
from workbench.model import ModelError, load_model

pytestmark = pytest.mark.usefixtures("own_cache")
SPARSE = {"num_experts": 8, "num_experts_per_tok": 3}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3 moe": (
        "Qwen3Moe", {**SPARSE, "head_dim": 16, "moe_intermediate_size": 32, "norm_topk_prob": True,
                     "mlp_only_layers": [1]},
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": ("Olmoe", {**SPARSE, "norm_topk_prob": False, "clip_qkv": 1.0}),
}  # fmt: skip
IDS = tokens(40)
Q8_0 = GGMLQuantizationType.Q8_0


def make(name: str, folder: Path, **more: Any) -> Any:
    """A random checkpoint in `folder` whose weights int8 holds exactly; transformers' net."""
    family, facts = NETS[name]
    sizes = {"hidden_size": 64, "intermediate_size": 96, **more}
    config = getattr(transformers, f"{family}Config")(**{**BASE, **sizes, **facts})
    torch.manual_seed(len(name))
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
                continue
            parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5)
            rows = quants.quantize(parameter.numpy().reshape(-1, parameter.shape[-1]), Q8_0)
            parameter.copy_(torch.from_numpy(quants.dequantize(rows, Q8_0)).view(parameter.shape))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


Made = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made: dict[str, tuple[Path, Any]] = {}

    def get(name: str) -> tuple[Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
            made[name] = folder, make(name, folder)
        return made[name]

    return get


def rms(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).square().mean().sqrt() / want.std())


@pytest.mark.parametrize("name", NETS)
def test_logits_are_those_of_transformers(name: str, tiny: Made) -> None:
    folder, theirs = tiny(name)
    model = load_model(folder, weights="q8")
    assert model.name == "numba q8"
    assert "q8_0, packed to q8, asked for" in model.reasons[1]
    got = Paged(model, 16).all_logits(IDS, [17, 1, 22])
    # activations are int8 here: small nets round coarsely, and a near tie of experts may turn
    assert rms(got, oracle(theirs, IDS)) < (0.16 if model.shape.moe else 0.08)


@pytest.mark.parametrize("name", ["qwen3 moe", "mixtral", "olmoe"])
def test_routers_choose_as_in_torch(name: str, tiny: Made) -> None:
    folder, _ = tiny(name)
    ours, torchs = load_model(folder, weights="q8"), load_model(folder, backend="cpu", dtype="fp32")
    got, want = (
        paged.step([(paged.row(IDS), len(IDS))], routing=True).routing
        for paged in (Paged(ours, 16), Paged(torchs, 16))
    )
    assert [r.layer for r in got] == [r.layer for r in want]
    alike = torch.ones(len(IDS), dtype=torch.bool)  # so far: another expert changes what follows
    for one, other in zip(got, want, strict=True):
        assert one.experts.dtype == other.experts.dtype
        assert one.weights.dtype == other.weights.dtype
        same = (one.experts == other.experts).all(-1)
        assert same.float().mean() > 0.7
        alike &= same
        assert alike.float().mean() > 0.5
        torch.testing.assert_close(one.weights[alike], other.weights[alike], atol=0.05, rtol=0)


def test_what_torch_serves_is_served(tiny: Made) -> None:
    """So no run has to leave the laptop engine half-way."""
    folder, _ = tiny("qwen3")
    ours, torchs = load_model(folder, weights="q8"), load_model(folder, backend="cpu")
    wide = torch.zeros(2, 64)
    for override, extra in (
        (Override(exit_layer=2), {}), (Override(exit_layer=9), {}), (Override("no such"), {}),
        (Override(steering=(Steering(1, wide[0]),)), {}),
        (Override(), {"vectors": wide, "vector_rows": torch.tensor([0, 3])}),
        (Override(), {"hidden_rows": torch.tensor([1]), "hidden_layers": (-1, 0)}),
        (Override(), {"attached": [[Segment([5], 0, 3, -2)]]}), (Override(), {"routing": True}),
        (Override(), {"ancestors": torch.tensor([1, 3, 5, 9])}),
    ):  # fmt: skip
        paged = [Paged(model, 16) for model in (ours, torchs)]
        batches = [one.batch([(one.row(IDS[:4], override), 4)], **extra) for one in paged]
        why = [m.unserved(batch) for m, batch in zip((ours, torchs), batches, strict=True)]
        assert why[0] == why[1]


def test_a_float_checkpoint_is_packed_on_request_only(tiny: Made) -> None:
    folder, _ = tiny("llama")
    plain = load_model(folder)
    assert plain.name.startswith("cpu")
    assert "not numba" in plain.reasons[0]
    assert "is not quantised" in plain.reasons[0]
    assert "ask for weights 'q8' or 'q4'" in plain.reasons[0]
    with pytest.raises(ModelError, match=r"is not quantised.*ask for weights 'q8' or 'q4'"):
        load_model(folder, backend="numba")
    with pytest.raises(ModelError, match="want backend numba or auto, got 'cpu'"):
        load_model(folder, backend="cpu", weights="q8")
    with pytest.raises(ModelError, match="dtype auto; got 'bf16'"):
        load_model(folder, dtype="bf16", weights="q4")


def test_a_checkpoint_that_changes_is_packed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("llama", tmp_path / "net")
    load_model(tmp_path / "net", weights="q4")
    load_model(tmp_path / "net", weights="q4")
    assert capsys.readouterr().err.count("packing net once") == 1
    file = tmp_path / "net" / "model.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    with file.open("r+b") as place:  # the folder itself stays as it was
        place.write(whole)
    model = load_model(tmp_path / "net", weights="q4")
    assert "made of the checkpoint before it changed; packing net once" in capsys.readouterr().err
    assert len(list((tmp_path / "cache" / "packed").iterdir())) == 1
    assert "q4_1, q8_0, packed to q4, asked for" in model.reasons[1]


@pytest.mark.parametrize("asked", [{"backend": "numba"}, {"weights": "q8"}])
def test_a_net_that_is_not_served_runs_in_torch_and_says_so(
    asked: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("llama", tmp_path, hidden_size=32)  # heads of 8
    model = load_model(tmp_path, **asked)
    assert model.name.startswith("cpu")
    said = "torch in place of numba, slower (head_dim must be a multiple of 16, got 8)"
    assert said in model.reasons[0]
    assert said in capsys.readouterr().err


def test_an_unknown_instruction_set_is_named(tiny: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CPU_ISA", "mmx")
    with pytest.raises(ModelError, match="instruction set 'mmx': the table has"):
        load_model(tiny("llama")[0], weights="q8")


def test_without_numba_there_is_torch(tiny: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "workbench.cpu", None)
    model = load_model(tiny("llama")[0], weights="q8")
    assert model.name.startswith("cpu")
    assert "numba is not here" in model.reasons[0]
