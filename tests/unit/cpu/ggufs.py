"""Rows of quantised blocks as GGUF files hold them: by the library's quantiser, or random blocks
where it has none."""

from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, quants

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
# superblocks of 256 values: bytes, and where the halves lie in them
SUPER = {"Q4_K": (144, (0, 2)), "Q6_K": (210, (208,))}


def rows(kind: str, out: int, inward: int, seed: int = 1, size_of: float = 1.0) -> Bytes:
    """Random rows, values of about `size_of`."""
    rng = np.random.default_rng(seed)
    if kind not in SUPER:
        values = (rng.standard_normal((out, inward)) * size_of).astype(np.float32)
        return quants.quantize(values, GGMLQuantizationType[kind])
    size, halves = SUPER[kind]
    blocks = rng.integers(0, 256, (out, inward // 256, size), dtype=np.uint8)
    for at in halves:
        scales = rng.standard_normal(blocks.shape[:2]) * (3e-3 if kind == "Q4_K" else 7e-4)
        put_half(blocks, at, scales * size_of)
    return blocks.reshape(out, -1)


def extremes(kind: str) -> list[Bytes]:
    """Sixteen rows of 256 values, with every code and multiplier at a limit."""
    if kind not in SUPER:
        sign = np.where(np.arange(256) % 3, 1, -1).astype(np.float32)
        largest = {"Q8_0": 127, "Q5_0": 15}.get(kind, 1)
        values = np.tile(sign * largest, (16, 1)).astype(np.float32)
        return [quants.quantize(values, GGMLQuantizationType[kind])]
    size, halves = SUPER[kind]
    found = []
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        blocks = np.full((16, 1, size), 0xFF if byte else 0, np.uint8)
        if kind == "Q6_K":
            blocks[..., 192:208] = byte
        for at in halves:
            put_half(blocks, at, np.ones(blocks.shape[:2]))
        found.append(blocks.reshape(16, -1))
    return found


def put_half(blocks: Bytes, at: int, values: Any) -> None:
    blocks[..., at : at + 2] = values.astype("<f2")[..., None].view(np.uint8)
