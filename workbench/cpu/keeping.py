"""Packed weights kept as a file, to be read once and not packed again.

A line of JSON (version, what it was made of, what lies where, a checksum), padded to a page, then
the bytes. A reader that finds the file cut short, changed or of another version says so and packs
anew.
"""

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.cpu.weights import PackedNet, Part, Placed, Source, Weights, aligned, pack
from workbench.model.shape import ModelShape

VERSION = 2
# bytes up to which a file is copied: from huge pages SmolLM2 decodes 14 % faster than from a map
COPIED = 1 << 30
PAGE = mmap.ALLOCATIONGRANULARITY


def packed(
    source: Source, shape: ModelShape, weights: Weights, folder: Path, say: Callable[[str], None]
) -> tuple[PackedNet, str]:
    """The packed net from `folder`, or packed now and kept there; and how it came about."""
    place = hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()[:16]
    path = folder / f"{source.path.stem}-{weights}-{place}.packed"
    of = _identity(source.path, shape)
    found, reason = read(path, shape, of)
    if found is not None:
        return found, f"packed weights from {path.name} in the cache, {reason}"
    say(f"cpu: {reason}; packing {source.path.name} once")
    net = pack(source, shape, weights, say)
    try:
        write(net, path, of)
    except OSError as error:
        return net, f"packed now, not kept ({type(error).__name__} at {folder})"
    return net, f"packed now, kept at {path}"


def _identity(path: Path, shape: ModelShape) -> str:
    """A checkpoint as it is now: its files' names, sizes and times of change, and its facts."""
    files = sorted(path.glob("*.safetensors*")) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files]
    parts = [f"{name}|{stat.st_size}|{stat.st_mtime_ns}" for name, stat in stats]
    return hashlib.sha256("|".join((*parts, repr(shape))).encode()).hexdigest()


def write(net: PackedNet, path: Path, of: str) -> None:
    """Keep `net`, packed from the checkpoint of identity `of`."""
    head = {
        "version": VERSION,
        "of": of,
        "weights": net.weights,
        "bytes": len(net.memory),
        "sha256": hashlib.sha256(net.memory.data).hexdigest(),
        "matrices": {name: asdict(at) for name, at in net.matrices.items()},
        "vectors": net.vectors,
    }
    line = json.dumps(head).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(line + b" " * (-(len(line) + 1) % PAGE) + b"\n")
            net.memory.tofile(file)
        os.replace(beside, path)
    except OSError:
        os.unlink(beside)
        raise


def read(
    path: Path, shape: ModelShape, of: str, copied: int = COPIED
) -> tuple[PackedNet | None, str]:
    """A packed net and how it was read, or None and what is wrong with the file. Files of more
    than `copied` bytes are mapped."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline())
            if head["version"] != VERSION:
                return None, f"{path.name} is of version {head['version']}, not {VERSION}"
            if head["of"] != of:
                return None, f"{path.name} was made of the checkpoint before it changed"
            size, start = int(head["bytes"]), file.tell()
            if os.fstat(file.fileno()).st_size != start + size:
                return None, f"{path.name} is cut short"
            memory = _mapped(path, start, size) if size > copied else _copied(file, size)
        if hashlib.sha256(memory.data).hexdigest() != head["sha256"]:
            return None, f"{path.name} is damaged"
        matrices = {name: _placed(at) for name, at in head["matrices"].items()}
        vectors = {name: (at[0], at[1]) for name, at in head["vectors"].items()}
    except FileNotFoundError:
        return None, "no packed weights in the cache"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{path.name} cannot be read ({type(error).__name__})"
    how = "mapped" if size > copied else "read into huge pages"
    return PackedNet(shape, head["weights"], memory, matrices, vectors), how


def _mapped(path: Path, start: int, size: int) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r", offset=start, shape=(size,))


def _copied(file: Any, size: int) -> NDArray[np.uint8]:
    memory = aligned(size)
    if file.readinto(memory) != size:
        raise OSError("cut short while it was read")
    return memory


def _placed(at: dict[str, Any]) -> Placed:
    return Placed(**{**at, "parts": tuple(Part(**part) for part in at["parts"])})
