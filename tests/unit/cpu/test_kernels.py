"""Each kernel alone, for every instruction set: its values against numpy, its machine code by
sight."""

import re
from functools import cache
from itertools import product
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from tests.unit.cpu import ggufs
from tests.unit.cpu.native import Native, module_of, optimise
from workbench.cpu import attend, dots, isa, memory, packing, rows, step
from workbench.cpu.isa import Isa

F = np.float32
OFFERED = [pytest.param(one, id=one.name) for one in isa.offered()]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@cache
def quantiser(one: Isa) -> Native:
    return Native(rows.QUANTISE, one)


def panel_of(values: np.ndarray[Any, Any], one: Isa) -> tuple[Any, Any]:
    """A panel of rows [M, K], and the values that it stands for."""
    m, k = values.shape
    panel = np.zeros(k // 32 * dots.RECORD * m, np.uint8)
    quantise = quantiser(one)
    for row in range(m):
        quantise(values[row], k // 32, panel, row, m)
    record = panel.reshape(k // 32, dots.RECORD * m)
    codes = record[:, : 32 * m].reshape(-1, m, 2, 16).view(np.int8)
    scales = np.ascontiguousarray(record[:, 32 * m : 40 * m]).view(F)
    halves = scales.reshape(-1, 2, m).transpose(0, 2, 1)  # [blocks, m, 2]
    return panel, (codes * halves[..., None]).transpose(1, 0, 2, 3).reshape(m, k)


@pytest.mark.parametrize("one", OFFERED)
def test_quantise(one: Isa) -> None:
    values = rng().standard_normal((3, 96)).astype(F)
    values[1, 32:64] = 0
    _, got = panel_of(values, one)
    step = np.abs(values).reshape(3, -1, 16).max(-1, keepdims=True) / 127
    error = np.abs(got - values).reshape(3, -1, 16)
    assert (error <= step * 0.5001).all()
    values[2, 40] = np.nan
    _, got = panel_of(values, one)
    assert np.isnan(got[2, 32:48]).all()
    assert not np.isnan(np.delete(got[2], slice(32, 48))).any()


@pytest.mark.parametrize("kind", packing.KINDS)
@pytest.mark.parametrize("one", OFFERED)
def test_products(one: Isa, kind: str) -> None:
    form = packing.KINDS[kind]
    file = ggufs.rows(kind, 32, 256)
    tiles = packing.tiles_from(file, kind)
    dense = quants.dequantize(file, GGMLQuantizationType[kind])
    bias = rng(2).standard_normal(16).astype(F)
    alone = None
    for m in (1, 2, 3, 8):
        panel, values = panel_of(rng(3).standard_normal((m, 256)).astype(F), one)
        out = np.full((m, 16), np.nan, F)
        kernel = Native(dots.product(form, m), one)
        kernel(tiles[1], 8, panel, bias, out, 64, 0)
        np.testing.assert_allclose(out, values @ dense[16:].T + bias, atol=3e-5)
        alone = out[0].copy() if alone is None else alone
        assert np.array_equal(out[0], alone)  # the first row is the same in every panel
        kernel(tiles[1], 8, panel, np.zeros(16, F), out, 64, 1)
        np.testing.assert_allclose(out, 2 * (values @ dense[16:].T) + bias, atol=6e-5)
    row = np.zeros(256, F)
    Native(rows.embed(form), one)(tiles, 8, 21, row)
    assert np.array_equal(row, dense[21])


@pytest.mark.parametrize("one", OFFERED)
def test_extreme_products(one: Isa) -> None:
    """Every code and activation at its limit: no sum may saturate."""
    sign = np.where(np.arange(256) % 3, 1, -1).astype(F)
    for kind, form in packing.KINDS.items():
        product = Native(dots.product(form, 1), one)
        for file in ggufs.extremes(kind):
            dense = quants.dequantize(file, GGMLQuantizationType[kind])
            for x in (np.full(256, 5, F), np.full(256, -5, F), sign * 5):
                panel, values = panel_of(x[None], one)
                out = np.zeros((1, 16), F)
                tiles = packing.tiles_from(file, kind)
                product(tiles, 8, panel, np.zeros(16, F), out, 64, 0)
                np.testing.assert_allclose(out, values @ dense.T, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("one", OFFERED)
def test_norm_rope_silu(one: Isa) -> None:
    x, w = rng().standard_normal((2, 96)).astype(F) * 3
    out = np.zeros(96, F)
    Native(rows.RMS_NORM, one)(x, w, out, 96, 1 / 96, 1e-5)
    np.testing.assert_allclose(out, x / np.sqrt((x * x).mean() + 1e-5) * w, rtol=1e-5)
    angle = rng(1).standard_normal(24).astype(F)
    cos, sin, head = np.cos(angle), np.sin(angle), x[:48]
    turned = np.zeros(48, F)
    Native(rows.ROPE, one)(head, turned, 24, cos, sin, 0.5)
    left, right = head[:24], head[24:]
    want = np.concatenate([left * cos - right * sin, right * cos + left * sin]) / 2
    np.testing.assert_allclose(turned, want, atol=1e-6)
    gate = (rng(2).standard_normal((3, 16)) * 30).astype(F)
    up, out = rng(3).standard_normal((3, 16)).astype(F), np.zeros((3, 16), F)
    Native(rows.SILU_MUL, one)(gate, up, out, 64, 3)
    wide = gate.astype(np.float64)
    np.testing.assert_allclose(out, wide / (1 + np.exp(-wide)) * up, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("one", OFFERED)
def test_router_and_clip(one: Isa) -> None:
    x, router = rng().standard_normal(96).astype(F), rng(1).standard_normal((5, 96)).astype(F)
    out = np.full(6, 7, F)
    Native(rows.ROUTE, one)(x, router, 96, 5, out)
    np.testing.assert_allclose(out, [*(router @ x), 7], atol=1e-5)
    x[3] = np.nan
    want = np.clip(x, -0.5, 0.5)
    Native(rows.CLIP, one)(x, 96, 0.5)
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("slots", [16, 5])
@pytest.mark.parametrize("one", OFFERED)
def test_attention(one: Isa, slots: int, half: bool) -> None:
    """Store, scores, softmax and values over pages in disorder, all other slots NaN."""
    dim, heads, kv, first, stop = 48, 3, 2, 7, 41
    kind = np.float16 if half else F
    pages = -(-stop // slots)
    table = rng(1).permutation(pages + 2)[:pages].astype(np.int64)
    k_pool = np.full((pages + 2) * kv * dim * slots + 64, np.nan, kind)
    v_pool = k_pool.copy()
    k, v = rng(2).standard_normal((2, kv, stop, dim)).astype(F)
    head_bytes = dim * slots * k_pool.itemsize
    page_bytes = kv * head_bytes
    put = Native(attend.store_kv(half), one)
    for h, e in product(range(kv), range(first, stop)):
        at = int(table[e // slots]) * page_bytes + h * head_bytes
        put(
            k[h, e], v[h, e], k_pool.ctypes.data + at, v_pool.ctypes.data + at, e % slots, slots,
            dim,
        )  # fmt: skip
    q = rng(3).standard_normal((kv, heads, dim)).astype(F)
    n, p = stop - first, np.full((kv, heads, 64), np.nan, F)
    Native(attend.scores(heads, half), one)(
        q, heads * dim * 4, k_pool, v_pool, head_bytes, kv, page_bytes, table, slots, first, stop,
        dim, p, 256, heads * 256,
    )  # fmt: skip
    k, v = k[:, first:].astype(kind).astype(F), v[:, first:].astype(kind).astype(F)
    wanted = q @ k.transpose(0, 2, 1)
    np.testing.assert_allclose(p[..., :n], wanted, atol=1e-5)
    softmax = Native(attend.SOFTMAX, one)
    scale = np.array([[softmax(row, n) for row in head] for head in p], F)
    out = np.zeros((kv, heads, dim), F)
    Native(attend.values(heads, half), one)(
        p, 256, heads * 256, v_pool, head_bytes, kv, page_bytes, table, slots, first, stop, dim,
        out, heads * dim * 4,
    )  # fmt: skip
    weights = np.exp(wanted - wanted.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(out * scale[..., None], want, atol=1e-5)


@pytest.mark.parametrize("one", [i for i in isa.TABLE if i.arch == "x86"], ids=lambda i: i.name)
@pytest.mark.parametrize("form", dots.FORMS, ids=lambda f: f.name)
def test_x86_products_use_the_intended_instructions(one: Isa, form: dots.Form) -> None:
    """Compiled for the set, whether or not this CPU has it."""
    text = assembly(dots.product(form, 1), one, "x86_64-unknown-linux-gnu", one.features)
    assert one.evidence in text
    assert ("vpdpbusd" in text) == (one.dot == "vpdpbusd")
    assert ("zmm" in text) == (one.width == 64)
    assert "vfmadd" in text
    assert "vcvtph2ps" in text
    count = text.count(one.evidence)
    assert count == 8 * (64 // one.width), f"{count} products a block of 16 rows x 32 columns"


@pytest.mark.parametrize("form", dots.FORMS, ids=lambda f: f.name)
def test_arm_products_use_sdot(form: dots.Form) -> None:
    one = isa.named("armdot")
    text = assembly(dots.product(form, 1), one, "aarch64-unknown-linux-gnu", one.features)
    assert text.count("sdot") == 8 * 4
    assert "fmla" in text or "fmadd" in text


def test_every_kernel_of_the_step_compiles_for_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at here, run where somebody has one: vectors throughout, no foreign instruction."""
    monkeypatch.setattr(memory, "machine", lambda: "arm")
    one, triple = isa.named("armdot"), "aarch64-unknown-linux-gnu"
    for name, kernel in step.kernels(half=True).items():
        text = assembly(kernel, one, triple, one.features)
        if name != "barrier":
            assert re.search(r"\bq\d|\.4s", text), name
        if name in ("scores", "values", "rms_norm", "route", "axpy"):
            assert "fmla" in text, name
        if name in ("scores", "values", "store_kv"):
            assert "fcvtl" in text or "fcvtn" in text, name


@pytest.mark.parametrize("form", dots.FORMS, ids=lambda f: f.name)
def test_plain_products_are_vectors(form: dots.Form) -> None:
    text = assembly(dots.product(form, 1), isa.named("plain"), "x86_64-unknown-linux-gnu", "")
    assert "pmullw" in text or "pmaddwd" in text
    assert "imul" not in text.replace("imulq", "")  # addresses alone are multiplied one by one


def assembly(kernel: Any, one: Isa, triple: str, features: str) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu="generic" if triple.startswith("aarch64") else "x86-64", features=features, opt=3
    )
    return machine.emit_assembly(optimise(module_of(kernel, one), machine))


def test_the_table_is_chosen_from_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    best, reason = isa.choose()
    assert best is isa.offered()[0]
    assert "fastest" in reason
    assert isa.choose("plain")[0].name == "plain"
    monkeypatch.setenv("WORKBENCH_CPU_ISA", "plain")
    assert isa.choose()[1] == "plain: asked for"
    other = "armdot" if isa.machine() == "x86" else "avx2"
    with pytest.raises(ValueError, match=f"{other}: this CPU lacks"):
        isa.choose(other)
    with pytest.raises(ValueError, match="the table has avx512vnni"):
        isa.named("mmx")


def test_a_cpu_without_vectors_takes_the_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    isa.offered.cache_clear()
    monkeypatch.setattr(isa.llvm, "get_host_cpu_features", dict)
    try:
        one, reason = isa.choose()
        assert one.name == "plain"
        assert reason.startswith("plain: this CPU reports none of the faster sets (")
        with pytest.raises(ValueError, match="this CPU lacks"):
            isa.choose("avx2" if isa.machine() == "x86" else "armdot")
    finally:
        isa.offered.cache_clear()
