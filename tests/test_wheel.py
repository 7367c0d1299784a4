"""The wheel has what a user needs and nothing of the workshop."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Files of a wheel built from this checkout, without isolation: hatchling is installed."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    told = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    [wheel] = out.glob("reasoning_workbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def under(names: set[str], folder: str, suffix: str) -> set[str]:
    return {name for name in names if name.startswith(folder) and name.endswith(suffix)}


def test_the_bundles_are_in_it(names: set[str]) -> None:
    """A blob-loaded module cannot import its neighbours: without these no widget opens."""
    assert {
        "widgets/static/composite.js",
        "widgets/static/outline.js",
        "widgets/static/page.js",
        "widgets/static/structure.js",
        "widgets/static/style.css",
    } <= names


def test_kernels_adapters_and_types_are_in_it(names: set[str]) -> None:
    for source in (ROOT / "kernels_cupy" / "cuda").rglob("*.cu*"):
        assert str(source.relative_to(ROOT)) in names
    assert under(names, "workbench/", "adapter_model.safetensors")
    assert under(names, "workbench/", "adapter_config.json")
    for package in ("workbench", "widgets", "kernels_cupy"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names


def test_the_workshop_is_not_in_it(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {"workbench", "widgets", "kernels_cupy"}
    assert not [name for name in names if "__pycache__" in name]


def test_the_console_script_is_declared(names: set[str]) -> None:
    assert under(names, "reasoning_workbench", "entry_points.txt")
