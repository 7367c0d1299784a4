"""Where conversions and fetched models live, and how files get there: whole or not at all."""

import hashlib
import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """`$WORKBENCH_CACHE`, or `~/.cache/reasoning-workbench`."""
    named = os.environ.get("WORKBENCH_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "reasoning-workbench"


def write_whole(path: Path, data: bytes) -> None:
    """Write beside and rename: a reader sees the old file, or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
