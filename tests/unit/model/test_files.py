"""Files as they come: sharded, quantised, incomplete, of a kind that is not served."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.model.conftest import Made
from tests.unit.model.nets import Paged, make, oracle, tokens
from workbench.model import ModelError, load_model
from workbench.model.checkpoint import GgufCheckpoint, open_checkpoint
from workbench.model.config import shape_of

IDS = tokens(12)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tiny: Made, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be harmed."""
    harmed = tmp_path / "net"
    shutil.copytree(tiny("llama")[0], harmed)
    return harmed


def load(path: Path) -> Any:
    return load_model(path, dtype="fp32", backend="cpu")


# ---- Hugging Face folders ----


def test_sharded_files_are_one_checkpoint(tmp_path: Path) -> None:
    theirs = make("qwen3 moe", tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    got = Paged(load(tmp_path), 4).all_logits(IDS, [len(IDS)])
    assert (got - oracle(theirs, IDS)).abs().max() <= 1e-4


def test_a_config_of_the_older_kind_means_the_same(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    newer = {**config, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }}  # fmt: skip
    rope = dict(newer["rope_parameters"])
    older = {k: v for k, v in config.items() if k != "rope_parameters"}
    older |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    assert shape_of(newer) == shape_of(older)
    assert shape_of(older).rope.theta == 5e5


def change_config(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "MambaForCausalLM is not served.*LlamaForCausalLM",
        ),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not served"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "RoPE scaling 'longrope'.*yarn"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"num_key_value_heads": 3}, "multiple of kv_heads, got 4 and 3"),
        ({"hidden_size": None}, "config.json of LlamaForCausalLM"),
        ({"num_hidden_layers": 4}, r"lacks the tensor model\.layers\.3\."),
        (
            {"vocab_size": 98},
            r"embed_tokens.weight must be \[98, 32\] by the config, got \[97, 32\]",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    change: dict[str, Any], says: str, folder: Path
) -> None:
    change_config(folder, **change)
    with pytest.raises(ModelError, match=says):
        load(folder)


def test_a_missing_field_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks 'intermediate_size'"):
        load(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_safetensors_file_cut_short_is_refused(share: float, folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"no complete safetensors file.*fetch it again"):
        load(folder)


def test_a_wrong_shape_and_a_missing_tensor_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    kept = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**kept, name: torch.zeros(48, 31)}, path)
    with pytest.raises(ModelError, match=rf"{name} must be \[48, 32\].*got \[48, 31\]"):
        load(folder)
    save_file({k: v for k, v in kept.items() if k != name}, path)
    with pytest.raises(ModelError, match=f"lacks the tensor {name}"):
        load(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"wanted .*tokenizer\.json"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"wanted .*model\.safetensors"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="no readable JSON"):
        load(folder)
    with pytest.raises(ModelError, match=r"nothing is there"):
        load(tmp_path / "nowhere")


def test_an_index_that_places_what_is_not_there_is_refused(tmp_path: Path) -> None:
    make("llama", tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    first, other = sorted(set(found["weight_map"].values()))[:2]
    name = next(k for k, v in found["weight_map"].items() if v == first)
    found["weight_map"][name] = other
    index.write_text(json.dumps(found))
    with pytest.raises(ModelError, match=f"places {name} in {other}, which lacks it"):
        load(tmp_path)
    (tmp_path / first).unlink()
    found["weight_map"][name] = first
    index.write_text(json.dumps(found))
    with pytest.raises(ModelError, match=f"wanted .*{first}"):
        load(tmp_path)


# ---- GGUF ----

Q = gguf.GGMLQuantizationType
SERVED = [kind for kind in Q if kind in gguf.quants._type_traits]  # all that the library reads


def write_gguf(
    path: Path,
    theirs: Any,
    kind: Any = Q.F32,
    arch: str = "llama",
    left_out: str = "",
    extra: tuple[str, Any, Any] | None = None,
) -> None:
    """What llama.cpp's converter makes of a net: its names, its order of Q and K rows."""
    config = theirs.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if head_dim := getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
    if count := getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        writer.add_expert_count(count)
        writer.add_expert_used_count(config.num_experts_per_tok)
        ffn = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
        writer.add_expert_feed_forward_length(ffn)
    if config.rope_parameters["rope_type"] == "llama3":
        plain = 10000.0 ** -(np.arange(0, 8, 2) / 8)
        scaled = theirs.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["t", *(f"{n}" for n in range(10)), *(f"t{n}" for n in range(86))])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges(["t 1"])
    if extra is not None:
        writer.add_tensor(extra[0], extra[1], raw_dtype=extra[2])
    which = getattr(gguf.MODEL_ARCH, arch.upper(), gguf.MODEL_ARCH.LLAMA)
    names = gguf.get_tensor_name_map(which, config.num_hidden_layers)
    for name, tensor in theirs.state_dict().items():
        stem, _, last = name.rpartition(".")
        new = f"{names.get_name(stem)}.{last}"
        if "mlp.experts" in name or "mlp.gate." in name:
            write_experts(writer, name, tensor.float().numpy())
            continue
        if new == left_out:
            continue
        values = tensor.float().numpy()
        if arch == "llama":
            for part, heads in (
                ("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads),
            ):  # fmt: skip
                if part in name:
                    shape = values.shape
                    values = values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
                    values = values.swapaxes(1, 2).reshape(shape)
        if values.ndim == 2 and kind != Q.F32 and "embed" not in name:
            writer.add_tensor(new, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(new, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_experts(writer: Any, name: str, values: Any) -> None:
    at = f"blk.{name.split('.')[2]}"
    if "gate_up_proj" in name:
        half = values.shape[1] // 2
        writer.add_tensor(f"{at}.ffn_gate_exps.weight", np.ascontiguousarray(values[:, :half]))
        writer.add_tensor(f"{at}.ffn_up_exps.weight", np.ascontiguousarray(values[:, half:]))
    elif "down_proj" in name:
        writer.add_tensor(f"{at}.ffn_down_exps.weight", values)
    else:
        writer.add_tensor(f"{at}.ffn_gate_inp.weight", values)


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("llama", "llama"), ("llama rope llama3", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"),
        ("qwen3 moe", "qwen3moe"), ("mixtral", "llama"), ("olmoe", "olmoe"),
    ],
)  # fmt: skip
def test_a_gguf_file_is_the_checkpoint_that_it_was_made_of(
    name: str, arch: str, tiny: Made, tmp_path: Path
) -> None:
    _, theirs = tiny(name)
    write_gguf(tmp_path / "net.gguf", theirs, arch=arch)
    for _ in range(2):  # once converted, once from the cache
        got = Paged(load(tmp_path / "net.gguf"), 4).all_logits(IDS, [len(IDS)])
        assert (got - oracle(theirs, IDS)).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.F16, Q.BF16])
def test_quantised_logits_are_those_of_the_dequantised_net(
    kind: Any, tiny: Made, tmp_path: Path
) -> None:
    theirs = tiny("llama ffn 64")[1]
    write_gguf(tmp_path / "net.gguf", theirs, kind)
    rounded = copy.deepcopy(theirs)
    with torch.no_grad():
        for key, parameter in rounded.named_parameters():
            if parameter.dim() == 2 and "embed" not in key:
                raw = gguf.quants.quantize(parameter.numpy(), kind)
                parameter.copy_(torch.from_numpy(np.array(gguf.quants.dequantize(raw, kind))))
    got = Paged(load(tmp_path / "net.gguf"), 4).all_logits(IDS, [len(IDS)])
    assert (got - oracle(rounded, IDS)).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", SERVED, ids=[kind.name for kind in SERVED])
def test_every_type_that_the_library_reads_is_read(kind: Any, tiny: Made, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 256, (8, 2 * size), dtype=np.uint8)
    path = tmp_path / "net.gguf"
    name = "blk.0.ffn_up.weight"
    write_gguf(path, tiny("llama")[1], left_out=name, extra=(name, raw, kind))
    got = GgufCheckpoint(path).tensor("model.layers.0.mlp.up_proj.weight")
    want = torch.from_numpy(np.array(gguf.quants.dequantize(raw, kind), dtype=np.float32))
    assert got.shape == (8, 2 * block)
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))


def test_int4_wants_a_file_that_has_it(tiny: Made, tmp_path: Path) -> None:
    write_gguf(tmp_path / "net.gguf", tiny("llama")[1])
    with pytest.raises(ModelError, match="'int4' want a GGUF file with Q4_0 or Q4_1 tensors"):
        load_model(tmp_path / "net.gguf", weights="int4", backend="cpu")
    with pytest.raises(ModelError, match="want backend cpu and dtype bf16"):
        load_model(tmp_path / "net.gguf", weights="int4", dtype="fp32", backend="cpu")
    with pytest.raises(ModelError, match="weights must be auto or one of"):
        load_model(tmp_path / "net.gguf", weights="int3", backend="cpu")
    with pytest.raises(ModelError, match="dtype must be one of auto"):
        load_model(tmp_path / "net.gguf", dtype="fp8", backend="cpu")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_a_gguf_file_cut_short_is_refused(share: float, tiny: Made, tmp_path: Path) -> None:
    path = tmp_path / "net.gguf"
    write_gguf(path, tiny("llama")[1])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"(no complete GGUF file|is cut short).*fetch it again"):
        load(path)


def test_a_gguf_file_of_another_kind_is_refused(tiny: Made, tmp_path: Path) -> None:
    path = tmp_path / "net.gguf"
    write_gguf(path, tiny("llama")[1], arch="madeup")
    with pytest.raises(
        ModelError, match="GGUF architecture 'madeup' is not served; these are: llama"
    ):
        load(path)
    path.unlink()
    write_gguf(path, tiny("llama")[1], left_out="blk.2.ffn_gate.weight")
    with pytest.raises(ModelError, match=r"lacks the tensor blk\.2\.ffn_gate\.weight"):
        load(path)


def test_a_flipped_index_in_the_cache_is_made_anew(tiny: Made, tmp_path: Path) -> None:
    path = tmp_path / "net.gguf"
    write_gguf(path, tiny("llama")[1])
    first = open_checkpoint(path).config
    (index,) = (tmp_path / "cache" / "gguf").iterdir()
    data = bytearray(index.read_bytes())
    data[-10] ^= 1
    index.write_bytes(data)
    assert open_checkpoint(path).config == first
    assert index.read_bytes() != bytes(data)
