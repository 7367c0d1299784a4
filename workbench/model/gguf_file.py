"""GGUF files: their facts and tokenizer converted once into the cache, their tensors read in place.

Opening one with the `gguf` library costs seconds, since it parses every token of the vocabulary. So
the first opening leaves an index in the cache (config and tokenizer in Hugging Face's form, and
where each tensor lies), with a checksum; later ones read that and map the file.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.ops.packing import Q4_GROUP, GroupedQ4

from .cache import cache_folder, write_whole
from .errors import ModelError
from .gguf_convert import config_of, tokenizer_of

INDEX_VERSION = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a tensor lies in the file."""

    kind: str  # "Q4_1", "F32", …
    shape: tuple[int, ...]  # as torch says it: [out, in]
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A tensor as the file keeps it: rows of quantised blocks, rows in Hugging Face's order."""

    kind: str
    shape: tuple[int, ...]
    rows: np.ndarray[Any, np.dtype[np.uint8]]  # [out, bytes of a row]


class GgufFile:
    """One GGUF file, opened through the index in the cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        index = _index(path)
        self.config: dict[str, Any] = index["config"]
        self.tokenizer: dict[str, Any] = index["tokenizer"]
        self.meta: dict[str, Any] = index["meta"]
        self.placed: Mapping[str, Placed] = {
            name: Placed(kind, tuple(shape), offset, size)
            for name, (kind, shape, offset, size) in index["tensors"].items()
        }
        self._memory = np.memmap(path, dtype=np.uint8, mode="r")

    def blocks(self, name: str) -> Blocks:
        """Raw rows of the tensor that the file calls `name`. Q and K keep llama.cpp's row order."""
        at = self.placed[name]
        raw = self._memory[at.offset : at.offset + at.bytes]
        return Blocks(at.kind, at.shape, raw.reshape(-1, at.bytes // int(np.prod(at.shape[:-1]))))

    def dense(self, blocks: Blocks) -> Tensor:
        """Float32 values of blocks."""
        from gguf import GGMLQuantizationType as Kinds
        from gguf import quants

        kind = Kinds[blocks.kind]
        rows = blocks.rows
        if kind in (Kinds.F32, Kinds.F16):
            rows = rows.view(np.float32 if kind == Kinds.F32 else np.float16)
        values = quants.dequantize(rows, kind)
        return torch.from_numpy(np.array(values, dtype=np.float32)).view(blocks.shape)


def grouped_q4(blocks: Blocks) -> GroupedQ4 | None:
    """The tensor in int4 groups of 32 where the file has such: Q4_1 and Q4_0 as they are."""
    if blocks.kind not in ("Q4_0", "Q4_1"):
        return None
    head = 4 if blocks.kind == "Q4_1" else 2  # bytes of scale (and minimum) before 16 of codes
    out = blocks.rows.shape[0]
    block = blocks.rows.reshape(out, -1, head + Q4_GROUP // 2)
    scales = np.ascontiguousarray(block[..., :head]).view(np.float16).astype(np.float32)
    packed = block[..., head:]
    codes = np.concatenate([packed & 15, packed >> 4], -1).reshape(out, -1)
    scale = torch.from_numpy(np.ascontiguousarray(scales[..., 0]))
    if blocks.kind == "Q4_0":  # value = (code - 8) * scale
        minimum = scale * -8
    else:
        minimum = torch.from_numpy(np.ascontiguousarray(scales[..., 1]))
    return GroupedQ4(torch.from_numpy(codes), scale, minimum)


def _index(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelError(f"wanted a GGUF file at {path} ({error}); check the name") from error
    identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{INDEX_VERSION}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:20]
    cached = cache_folder() / "gguf" / f"{path.stem}-{key}.json"
    found = _checked(cached)
    if found is None:
        found = _convert(path, stat.st_size)
        body = json.dumps(found).encode()
        try:
            write_whole(cached, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        except OSError as error:
            sys.stderr.write(
                f"workbench: the index of {path.name} is not kept ({type(error).__name__} at "
                f"{cached.parent}); it is made again each time\n"
            )
    return found


def _checked(cached: Path) -> dict[str, Any] | None:
    """The index, unless it is absent or its checksum fails (then it is made anew)."""
    try:
        digest, _, body = cached.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    index: dict[str, Any] = json.loads(body)
    return index


def _convert(path: Path, size: int) -> dict[str, Any]:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        meta = {name: part.contents() for name, part in reader.fields.items()}
        tensors = {
            t.name: (t.tensor_type.name, t.shape.tolist()[::-1], int(t.data_offset), int(t.n_bytes))
            for t in reader.tensors
        }
    except (ValueError, IndexError, KeyError, OSError, TypeError) as error:
        raise ModelError(
            f"{path} is no complete GGUF file ({type(error).__name__}: {error}); {size} bytes are "
            "here, fetch it again"
        ) from error
    for name, (_, _, offset, length) in tensors.items():
        if offset + length > size:
            raise ModelError(
                f"{path} is cut short: tensor {name} ends at byte {offset + length}, the file has "
                f"{size}; fetch it again"
            )
    vocabulary = meta.pop("tokenizer.ggml.tokens", [])
    merges = meta.pop("tokenizer.ggml.merges", [])
    types = meta.pop("tokenizer.ggml.token_type", [])
    scores = meta.pop("tokenizer.ggml.scores", [])
    config = config_of(meta, tensors, len(vocabulary))
    if "rope_freqs.weight" in tensors:  # how the format says Llama 3's scaling
        _, _, offset, length = tensors["rope_freqs.weight"]
        divisors = np.memmap(path, dtype=np.uint8, mode="r")[offset : offset + length]
        config["rope_parameters"]["divisors"] = divisors.view(np.float32).tolist()
    return {
        "config": config,
        "tokenizer": tokenizer_of(meta, vocabulary, merges, types, scores),
        "meta": meta,
        "tensors": tensors,
    }
