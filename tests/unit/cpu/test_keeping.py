"""What is kept on disk: packed weights and compiled steps, whole, damaged, or where nothing can
be kept."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from tests.unit.cpu import ggufs, nets
from tests.unit.model.nets import Paged
from workbench.cpu import NumbaForward, build, dots, isa, keeping, packing, weights
from workbench.cpu.weights import Unpackable
from workbench.model.shape import Moe


@pytest.mark.parametrize("kind", packing.KINDS)
def test_packing_keeps_the_files_values(kind: str) -> None:
    rows = ggufs.rows(kind, 40, 512)
    tiles = packing.tiles_from(rows, kind)
    assert tiles.shape == (3, 16, packing.KINDS[kind].block)  # 40 rows are padded to 48
    got = packing.dense(tiles, packing.KINDS[kind], 40)
    assert np.array_equal(got, quants.dequantize(rows, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("form", [dots.Q8_0, dots.Q4_1])
def test_floats_are_packed_as_well_as_the_format_allows(form: dots.Form) -> None:
    values = np.random.default_rng(1).standard_normal((32, 64)).astype(np.float32)
    values[3, :32], values[4] = 0.25, 0
    kind = GGMLQuantizationType[form.name.upper()]
    ours = quants.dequantize(packing.quantised(values, form), kind)
    theirs = quants.dequantize(quants.quantize(values, kind), kind)
    assert np.abs(ours - values).mean() <= np.abs(theirs - values).mean() * 1.01


def test_bf16_rounds_as_torch_does() -> None:
    values = torch.randn(1000, generator=torch.manual_seed(0))
    want = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(packing.bf16(values.numpy()), want)


class Kept(nets.RandomSource):
    """A checkpoint whose file exists, quantised as told."""

    def __init__(self, path: Path, kinds: dict[str, str] | None = None) -> None:
        super().__init__(nets.SHAPES["llama"])
        self.path, self.kinds = path, kinds or {}
        path.write_bytes(b"weights")

    def blocks(self, name: str) -> SimpleNamespace | None:
        kind = next((k for part, k in self.kinds.items() if part in name), None)
        if kind is None:
            return None
        rows = quants.quantize(self.tensor(name).numpy(), GGMLQuantizationType[kind])
        return SimpleNamespace(kind=kind, rows=rows)


def test_packed_weights_are_found_again(tmp_path: Path) -> None:
    source, said = Kept(tmp_path / "net.gguf", {"embed": "Q8_0", "lm_head": "Q8_0", "": "Q4_1"}), []
    made, how = keeping.packed(source, source.of, "file", tmp_path, said.append)
    assert how.startswith("packed now, kept at")
    again, how = keeping.packed(source, source.of, "file", tmp_path, said.append)
    assert how.startswith("packed weights from")
    assert np.array_equal(made.memory, again.memory)
    assert made.matrices == again.matrices
    assert len(said) == 1
    of = keeping._identity(source.path, source.of)
    mapped, how = keeping.read(next(tmp_path.glob("*.packed")), source.of, of, copied=0)
    assert mapped is not None
    assert how == "mapped"
    assert mapped.address(0) % weights.ALIGN == 0
    ids = nets.tokens(20)
    want = Paged(NumbaForward(made), 16).all_logits(ids, [20])
    assert torch.equal(Paged(NumbaForward(mapped), 16).all_logits(ids, [20]), want)


def test_damage_is_noticed_and_mended(tmp_path: Path) -> None:
    source = Kept(tmp_path / "net.gguf", {"": "Q8_0"})

    def again() -> tuple[str, str]:
        said: list[str] = []
        _, how = keeping.packed(source, source.of, "file", tmp_path, said.append)
        return said[0] if said else "", how

    again()
    path = next(tmp_path.glob("*.packed"))
    whole = path.read_bytes()
    for spoilt, word in (
        (whole[:-1000], "cut short"),
        (whole[:-5] + b"\0\1\2\3\4", "damaged"),
        (whole.replace(b'"version": 2', b'"version": 9', 1), "version 9, not 2"),
        (b"nonsense", "cannot be read"),
    ):
        path.write_bytes(spoilt)
        said, how = again()
        assert word in said
        assert how.startswith("packed now")
        assert path.read_bytes() == whole


def test_what_cannot_be_packed_says_what_to_ask_for(tmp_path: Path) -> None:
    def pack(kinds: dict[str, str], kind: weights.Weights = "file", **facts: object) -> None:
        source = Kept(tmp_path / "net.gguf", kinds)
        source.of = nets.shape(**facts)
        weights.pack(source, source.of, kind, lambda line: None)

    with pytest.raises(Unpackable, match=r"not quantised.*ask for weights 'q8' or 'q4'"):
        pack({})
    with pytest.raises(Unpackable, match="is Q5_1, the step keeps Q4_1, Q4_0, Q8_0"):
        pack({"": "Q5_1"})
    with pytest.raises(Unpackable, match="width must be a multiple of 32, got 48"):
        pack({}, "q8", width=48)
    with pytest.raises(Unpackable, match="ffn of an expert must be a multiple of 32, got 48"):
        pack({}, "q8", moe=Moe(4, 2, 48, True, (True,) * 3))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    source = Kept(tmp_path / "net.gguf", {"": "Q8_0"})
    nowhere = tmp_path / "net.gguf" / "cache"  # below a file
    net, how = keeping.packed(source, source.of, "file", nowhere, lambda line: None)
    assert how.startswith("packed now, not kept")
    assert net.memory.size


def test_a_broken_step_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, half = isa.choose()[0], True
    built = build.build(one, half)
    assert built.path is not None
    code = built.path.read_bytes()[32:]
    compiled: list[str] = []

    def emit(*_: object) -> bytes:
        compiled.append("once more")
        return code

    monkeypatch.setattr(build, "emit_object", emit)
    said: list[str] = []
    assert build._fetch(one, half, said.append, tmp_path).note.startswith("compiled")
    assert "no compiled step in the cache; compiling" in said[0]
    assert build._fetch(one, half, said.append, tmp_path).note == "from the cache"
    path = next(tmp_path.glob("*.o"))
    path.write_bytes(path.read_bytes()[:-1])
    build._fetch(one, half, said.append, tmp_path)
    assert "is damaged; compiling" in said[2]
    unwritable = path / "below"
    assert "not kept: " in build._fetch(one, half, said.append, unwritable).note
    assert len(compiled) == 3


def test_the_key_knows_the_set_the_pages_and_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {build.key_of(one, half) for one in isa.TABLE for half in (True, False)}
    assert len(keys) == 2 * len(isa.TABLE)
    before = build.key_of(isa.TABLE[0], True)
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"other source")
    assert build.key_of(isa.TABLE[0], True) != before
