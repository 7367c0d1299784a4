"""GGUF files of every kind that the step keeps, mixed as quantisers mix them, against torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from tests.unit.cpu import ggufs
from tests.unit.cpu.oracle import Oracle
from tests.unit.model.nets import Paged, tokens
from workbench.model import ModelError, load_model

pytestmark = pytest.mark.usefixtures("own_cache")
WIDTH, LAYERS, VOCABULARY = 256, 2, 103
SPARSE = 4  # experts, two a token
IDS = tokens(30)
Kind = Callable[[str], str]


def q4_k_m(name: str) -> str:
    """As llama.cpp's Q4_K_M has them: some values and downs finer, the outer ones too."""
    finer = name.startswith(("token_embd", "output.")) or name in (
        "blk.0.attn_v.weight", "blk.1.ffn_down.weight",
    )  # fmt: skip
    return "Q6_K" if finer else "Q4_K"


def one(kind: str) -> Kind:
    return lambda _: kind


def write(path: Path, kind: Kind, experts: int = 0) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"t{n}" for n in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges([])
    for seed, (name, shape) in enumerate(tensors(experts)):
        rng = np.random.default_rng(seed)
        if len(shape) == 1 or "gate_inp" in name:
            values = (rng.standard_normal(shape) * 0.3 + (len(shape) == 1)).astype(np.float32)
            writer.add_tensor(name, values)
            continue
        rows = ggufs.rows(kind(name), int(np.prod(shape[:-1])), shape[-1], seed, 1.5 * WIDTH**-0.5)
        writer.add_tensor(
            name, rows.reshape(*shape[:-1], -1), raw_dtype=gguf.GGMLQuantizationType[kind(name)]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(experts: int) -> list[tuple[str, tuple[int, ...]]]:
    square, ffn = (WIDTH, WIDTH), ("ffn_gate", "ffn_up", "ffn_down")
    found: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (VOCABULARY, WIDTH)), ("output.weight", (VOCABULARY, WIDTH)),
        ("output_norm.weight", (WIDTH,)),
    ]  # fmt: skip
    for layer in range(LAYERS):
        parts: dict[str, tuple[int, ...]] = {
            "attn_q": square, "attn_k": (64, WIDTH), "attn_v": (64, WIDTH), "attn_output": square,
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,),
        }  # fmt: skip
        if experts:
            parts |= {f"{part}_exps": (experts, *square) for part in ffn}
            parts["ffn_gate_inp"] = (experts, WIDTH)
        else:
            parts |= dict.fromkeys(ffn, square)
        found += [(f"blk.{layer}.{part}.weight", shape) for part, shape in parts.items()]
    return found


def rms(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).square().mean().sqrt() / want.std())


@pytest.mark.parametrize(
    ("kind", "forms"),
    [
        (q4_k_m, "q4_k, q6_k"), (one("Q6_K"), "q6_k"), (one("Q4_K"), "q4_k"),
        (one("Q4_0"), "q4_0"), (one("Q5_0"), "q8_0"), (one("Q8_0"), "q8_0"),
    ],
    ids=["Q4_K_M", "Q6_K", "Q4_K", "Q4_0", "Q5_0", "Q8_0"],
)  # fmt: skip
@pytest.mark.parametrize("experts", [0, SPARSE])
def test_a_file_is_kept_as_it_is(kind: Kind, forms: str, experts: int, tmp_path: Path) -> None:
    write(tmp_path / "net.gguf", kind, experts)
    model = load_model(tmp_path / "net.gguf")
    assert model.name.startswith("numba")
    assert model.reasons[1].startswith(f"weights: {forms}, as in the file")
    exact = load_model(tmp_path / "net.gguf", backend="cpu", dtype="fp32")
    got = Paged(model, 16).all_logits(IDS, [30])
    assert rms(got, Oracle(model.net.net).logits(IDS)) < 0.03
    # activations are int8 here, and a near tie of experts may turn
    assert rms(got, Paged(exact, 16).all_logits(IDS, [30])) < (0.16 if experts else 0.08)
    assert torch.equal(Paged(model, 7).all_logits(IDS, [9, 1, 20]), got)
    assert torch.equal(model.embed(torch.tensor(IDS)), exact.embed(torch.tensor(IDS)))


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (
            lambda name: "Q5_1" if name == "blk.1.ffn_up.weight" else "Q4_0",
            "up_proj.weight is Q5_1",
        ),
        (one("Q5_1"), "q_proj.weight is Q5_1"),
        (one("F16"), "q_proj.weight is not quantised"),
    ],
    ids=["one tensor", "all", "halves"],
)
def test_another_kind_takes_the_slower_path_or_int8(kind: Any, word: str, tmp_path: Path) -> None:
    write(tmp_path / "net.gguf", kind)
    slower = load_model(tmp_path / "net.gguf")
    assert slower.name.startswith("cpu")
    assert "backend: not numba" in slower.reasons[0]
    assert word in slower.reasons[0]
    with pytest.raises(ModelError, match=f"{word}, the step keeps .* ask for weights 'q8' or"):
        load_model(tmp_path / "net.gguf", backend="numba")
    packed = load_model(tmp_path / "net.gguf", weights="q8")
    assert packed.name == "numba q8"
    want = Paged(slower, 16).all_logits(IDS, [30])
    got = Paged(packed, 16).all_logits(IDS, [30])
    assert rms(got, want) < 0.08


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "net.gguf", one("Q4_0"))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "net.gguf" / "cache"))  # below a file
    model = load_model(tmp_path / "net.gguf")
    assert model.name == "numba q4"
    assert "not kept" in model.reasons[1]
