"""Whole nets on the CUDA ops, paged and in chunks, against transformers in float32."""

from pathlib import Path

import pytest
import torch

from tests.unit.model import nets
from workbench.model.load import load_model

pytestmark = pytest.mark.gpu
WIDE = {"hidden_size": 256, "intermediate_size": 384, "vocab_size": nets.VOCABULARY}
NETS = {
    "llama": ("Llama", {**WIDE, "head_dim": 64}),
    "llama, three heads a KV head": (
        "Llama", {
            **WIDE, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
        },
    ),
    "qwen3": ("Qwen3", {**WIDE, "head_dim": 128}),
    "mistral, sliding": ("Mistral", {**WIDE, "head_dim": 64, "sliding_window": 77}),
    "qwen3 moe": (
        "Qwen3Moe",
        {
            **WIDE, **nets.SPARSE, "head_dim": 64, "moe_intermediate_size": 128,
            "norm_topk_prob": True,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_agrees_with_transformers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunked prompt, then single tokens: as near to float32 as torch's own bfloat16."""
    monkeypatch.setitem(nets.NETS, name, NETS[name])
    oracle = nets.make(name, tmp_path)
    ids = nets.tokens(230)
    with torch.no_grad():
        want = oracle(torch.tensor([ids])).logits[0].float()
    chunks = (100, 1, 33, 7, *([1] * 9), 50, *([1] * 30))
    error, agree = {}, {}
    for backend in ("torch-cuda", "cuda"):
        model = load_model(tmp_path, dtype="bf16", backend=backend)
        got = nets.Paged(model, 16).all_logits(ids, chunks).cpu()
        error[backend] = float((got - want).norm() / want.norm())
        agree[backend] = float((got.argmax(-1) == want.argmax(-1)).float().mean())
    print(f"{name}: error {error}, top-1 {agree}")
    assert error["cuda"] <= 1.3 * error["torch-cuda"] + 1e-3
    assert agree["cuda"] >= agree["torch-cuda"] - 0.02


def test_rows_of_all_kinds_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, chunk and decode side by side give what each gives alone."""
    monkeypatch.setitem(nets.NETS, "llama", NETS["llama"])
    nets.make("llama", tmp_path)
    model = load_model(tmp_path, dtype="bf16", backend="cuda")
    alone, together = nets.Paged(model, 16), nets.Paged(model, 16, seed=1)
    streams = [nets.tokens(n, seed=n) for n in (90, 40, 41)]
    want = torch.cat(
        [
            alone.all_logits(s, (len(s) - n, n))[-n:]
            for s, n in zip(streams, (60, 1, 5), strict=True)
        ]
    )
    rows = [together.row(s) for s in streams]
    together.step([(rows[0], 30), (rows[1], 39), (rows[2], 36)])
    got = together.step([(rows[0], 60), (rows[1], 1), (rows[2], 5)]).logits
    assert float((got - want).norm() / want.norm()) < 1e-2
