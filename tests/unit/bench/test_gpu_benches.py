"""What the GPU's benches add up and count, on numbers known beforehand and on a small CPU net."""

import pytest
import torch

from workbench.bench import pressure
from workbench.bench.pressure import CYCLE, PROMPT, TOKENS, Curve, Measured
from workbench.bench.profile import whose
from workbench.bench.random_net import CONFIGS, RandomCheckpoint, random_model
from workbench.model.config import shape_of
from workbench.model.load import parameters
from workbench.words import PruneMode


def linear(a: float, b: float) -> Curve:
    return Curve([(0, a), (1000, a + 1000 * b)])


def test_a_curve_is_linear_between_and_beyond() -> None:
    curve = Curve()
    for point in ((100.0, 3.0), (0.0, 1.0), (200.0, 7.0)):
        curve.add(*point)
    assert [curve(x) for x in (50, 100, 150, 300)] == [2.0, 3.0, 5.0, 11.0]
    assert Curve([(5, 2.0)])(99) == 2.0


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_way_adds_up_every_step_and_prune(share: float) -> None:
    """Against a plain simulation of one request, token by token."""
    mode = PruneMode.REENCODE if share else None
    step, prune = linear(0.004, 1e-6), linear(0.02, 1e-6)
    found = Measured(step, {(share, PruneMode.REENCODE): prune}, [])
    decode = pruned = 0.0
    resident, peak = PROMPT, 0
    for n in range(1, TOKENS + 1):
        decode += step(resident)
        resident += 1
        peak = max(peak, resident)
        if share and n % CYCLE == 0:
            after = resident - round(share * CYCLE)
            pruned += prune(resident) - step(after)
            resident = after
    got = pressure.way(found, share, mode)
    assert got.decode_s == pytest.approx(decode)
    assert got.prune_s == pytest.approx(pruned)
    assert got.peak == peak


def test_a_batch_of_requests_prunes_as_told() -> None:
    """The engine's own verbs, on a small net: what stays is what the arithmetic says."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pressure, "BATCH", 2)
        patch.setattr(pressure, "random_model", lambda _: small())
        patch.setattr(torch.cuda, "synchronize", lambda: None)
        batch = pressure.Batch("small", 1200)
        batch.read(CYCLE)
        for mode in PruneMode.REENCODE, PruneMode.ROTATE:
            before = batch.context
            assert batch.prune(0.75, mode) > 0
            assert batch.context == before - 384 + 1
            batch.read(CYCLE - 1)
        batch.ours.engine.audit()
        batch.ours.close()


def small() -> object:
    return random_model("tiny-moe", layers=1, backend="cpu", dtype="fp32")


@pytest.mark.parametrize("name", ["qwen3-8b", "qwen3-30b-a3b", "tiny-moe"])
def test_random_tensors_have_the_shapes_of_the_config(name: str) -> None:
    """Every parameter of one layer and the outer ones, counted."""
    config = {**CONFIGS[name], "num_hidden_layers": 1}
    shape = shape_of(config)
    checkpoint = RandomCheckpoint(name, config, "cpu", torch.bfloat16)
    at = "model.layers.0."
    mlp = [f"{at}mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    if shape.moe:
        one = [f"{at}mlp.experts.{{}}.{part}_proj.weight" for part in ("gate", "up", "down")]
        mlp = [key.format(e) for e in range(shape.moe.count) for key in one]
        mlp.append(f"{at}mlp.gate.weight")
    keys = [
        *mlp, *(f"{at}self_attn.{p}_proj.weight" for p in "qkvo"), "lm_head.weight",
        f"{at}self_attn.q_norm.weight", f"{at}self_attn.k_norm.weight", "model.norm.weight",
        f"{at}input_layernorm.weight", f"{at}post_attention_layernorm.weight",
        "model.embed_tokens.weight",
    ]  # fmt: skip
    count = sum(torch.Size(checkpoint.shape(key)).numel() for key in keys)
    assert count == parameters(shape)


def test_kernels_are_told_apart() -> None:
    own = frozenset({"paged_attention", "sample"})
    assert whose("paged_attention", own) == "ours"
    assert whose("void sample<1>(float const*)", own) == "ours"
    assert whose("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", own) == "cuBLAS"
    assert whose("void cutlass::Kernel2<cutlass_80_tensorop>(Params)", own) == "cuBLAS"
    assert whose("void at::native::vectorized_elementwise_kernel<4, F>(int)", own) == "torch"
    assert whose("Memcpy HtoD (Pinned -> Device)", own) == "copies"
