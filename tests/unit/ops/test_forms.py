"""The forms that a weight may take, and how a backend is chosen."""

import gguf
import numpy as np
import pytest
import torch

from workbench.model.gguf_file import Blocks, grouped_q4
from workbench.ops import cpu as cpu_module
from workbench.ops.choose import choose
from workbench.ops.cpu import CpuOps
from workbench.ops.packing import GroupedQ4, Int4Linear, PrepackedLinear, can_prepack


def quantised(kind: str, rows: int = 48, columns: int = 96) -> tuple[Blocks, torch.Tensor]:
    """Blocks of a random weight, and the values that the gguf library reads from them."""
    weight = torch.randn(rows, columns, generator=torch.manual_seed(5)).numpy()
    which = gguf.GGMLQuantizationType[kind]
    raw = gguf.quants.quantize(weight, which)
    return Blocks(kind, (rows, columns), raw), torch.from_numpy(
        np.array(gguf.quants.dequantize(raw, which))
    )


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_the_files_own_groups_are_the_files_values(kind: str) -> None:
    blocks, want = quantised(kind)
    groups = grouped_q4(blocks)
    assert groups is not None
    assert torch.allclose(groups.dense(), want, atol=1e-6)
    assert grouped_q4(quantised("Q8_0")[0]) is None


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize("biased", [False, True])
def test_int4_multiplies_as_bf16_does(kind: str, tokens: int, biased: bool) -> None:
    if not can_prepack():
        pytest.skip("oneDNN has no bf16 on this CPU")
    blocks, dense = quantised(kind)
    groups = grouped_q4(blocks)
    assert groups is not None
    bias = torch.randn(48, generator=torch.manual_seed(6)) if biased else None
    x = torch.randn(tokens, 96, generator=torch.manual_seed(7)).bfloat16()
    want = torch.nn.functional.linear(x.float(), dense, bias)
    for linear in (Int4Linear(groups, bias), PrepackedLinear(dense, bias)):
        assert (linear.out_features, linear.in_features) == (48, 96)
        assert (linear(x).float() - want).abs().max() <= 0.02 * want.abs().max()


def test_stacked_groups_are_stacked_weights() -> None:
    parts = [grouped_q4(quantised(kind, rows)[0]) for kind, rows in (("Q4_0", 16), ("Q4_1", 32))]
    groups = [part for part in parts if part is not None]
    stacked = GroupedQ4.cat(groups)
    assert torch.equal(stacked.dense(), torch.cat([g.dense() for g in groups]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("before", "new"), [(0, 300), (77, 200)])
def test_blocks_of_a_long_prompt_equal_plain_attention(
    dtype: torch.dtype, before: int, new: int
) -> None:
    generator = torch.manual_seed(8)
    q = torch.randn(new, 6, 16, generator=generator).to(dtype)
    k, v = (torch.randn(2, before + new, 16, generator=generator).to(dtype) for _ in range(2))
    got = cpu_module._attend_in_blocks(q, k, v, 0.25).float()
    scores = torch.einsum("tgd,gnd->gtn", q.float(), k.float().repeat_interleave(3, 0)) * 0.25
    hidden = torch.ones(new, before + new).triu(before + 1).bool()
    weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1)
    want = torch.einsum("gtn,gnd->tgd", weights, v.float().repeat_interleave(3, 0))
    assert (got - want).abs().max() <= (1e-5 if dtype == torch.float32 else 0.03)


def test_auto_is_answered_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = choose()
    assert (chosen.name, chosen.device, chosen.reason) == (
        "cpu", "cpu", "ops: cpu (no CUDA device found)",
    )  # fmt: skip
    assert isinstance(chosen.make("as loaded"), CpuOps)
    assert choose("cpu").reason == "ops: cpu (asked for)"


def test_what_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for backend in ("cuda", "torch-cuda"):
        with pytest.raises(ValueError, match="wants a CUDA device, torch sees none"):
            choose(backend)
    with pytest.raises(ValueError, match="backend must be one of auto, cpu"):
        choose("cdua")
