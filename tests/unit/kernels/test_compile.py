"""Every declared instance compiles for every target, without a GPU, and no hot kernel spills."""

import pytest

from kernels_cupy import extend_attention, paged_attention
from kernels_cupy.compile import CUDA, Resources, closure, compile_cubin, digest, parse_resources
from kernels_cupy.errors import CompileError
from kernels_cupy.launch import Instance
from kernels_cupy.table import INSTANCES

pytest.importorskip("cupy")
REPORT: list[str] = []


def _name(x: Instance) -> str:
    return x.entry + "".join(f"-{k}{v}" for k, v in sorted(x.defines.items()))


@pytest.mark.parametrize("instance", INSTANCES, ids=_name)
def test_compiles_without_spills(instance: Instance) -> None:
    for arch in instance.archs:
        built = compile_cubin(instance.source, instance.defines, arch)
        used = built.resources[instance.entry]
        REPORT.append(f"{_name(instance)} {arch}: {used.registers} registers, {used.stack} B stack")
        assert "Potential Performance Loss" not in built.log, built.log
        if instance.hot:
            assert used.spill_stores == used.spill_loads == 0, f"{arch}: {used}"


@pytest.mark.parametrize(("arch", "most"), [("sm_80", 163), ("sm_90a", 227), ("sm_120", 99)])
def test_attention_fits_the_shared_memory(arch: str, most: int) -> None:
    for x in INSTANCES:
        size = x.defines
        if arch in x.archs and x.entry == "paged_attention":
            need = paged_attention.shared_bytes(size["HEAD_DIM"], size["ROWS"], size["STAGES"])
        elif arch in x.archs and x.entry == "extend_attention":
            need = extend_attention.shared_bytes(dict(size))
        else:
            continue
        assert need <= most << 10, f"{_name(x)} {arch}: {need} bytes"


def test_prints_what_each_kernel_uses(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + "\n".join(REPORT))


def test_key_covers_headers(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"paged_attention.cu", "common/ptx.cuh", "common/warp.cuh"} <= closure(
        "paged_attention"
    ).keys()
    before = digest("silu_mul")
    real = closure("silu_mul")
    changed = {**real, "common/ptx.cuh": real["common/ptx.cuh"] + "\n// changed"}
    monkeypatch.setattr("kernels_cupy.compile.closure", lambda name: changed)
    assert digest("silu_mul") != before


def test_error_names_the_line(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CUDA / "broken_for_a_test.cu"
    source.write_text('extern "C" __global__ void broken() {\n    int x = nothing;\n}\n')
    try:
        with pytest.raises(CompileError, match=r"broken_for_a_test\.cu:2: .*nothing"):
            compile_cubin("broken_for_a_test", {}, "sm_80")
    finally:
        source.unlink()


def test_reads_ptxas_report() -> None:
    log = (
        "ptxas info    : Compiling entry function 'k' for 'sm_80'\n"
        "ptxas info    : Function properties for k\n"
        "ptxas         .     256 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 0 barriers, 364 bytes cmem[0]\n"
    )
    assert parse_resources(log) == {"k": Resources(40, 256, 4, 8)}
