"""Matrices into tiles: the file's own quantised blocks laid side by side, or floats quantised on
request.

The values stay the file's to the bit; only their places change (see `dots` for the layout).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.cpu.dots import COLS, FORMS, Q4_0, Q4_1, Q8_0, ROWS, Form

Bytes = NDArray[np.uint8]
KINDS = {"Q4_1": Q4_1, "Q4_0": Q4_0, "Q8_0": Q8_0}  # GGUF's names


def tiles_of(rows: Bytes, form: Form) -> Bytes:
    """A file's rows [out, bytes of a row] as tiles [ceil(out / 16), blocks, form.block]."""
    head = 4 if form.minima else 2  # bytes of scale (and minimum) before the codes
    out = -(-rows.shape[0] // ROWS) * ROWS
    if out != rows.shape[0]:
        rows = np.concatenate([rows, np.zeros((out - rows.shape[0], rows.shape[1]), np.uint8)])
    blocks = rows.reshape(out, -1, head + COLS * form.bits // 8)
    scales, codes = blocks[..., :head], blocks[..., head:]
    if form.bits == 4:
        codes = np.concatenate([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1)
    else:
        codes = codes ^ np.uint8(128)  # signed to unsigned, offset 128
    return _interleave(codes, scales, form)


def _interleave(codes: Bytes, scales: Bytes, form: Form) -> Bytes:
    """codes [out, blocks, 32] and scale bytes [out, blocks, 2 or 4] into tiles."""
    tiles, blocks = codes.shape[0] // ROWS, codes.shape[1]
    quads = codes.reshape(tiles, ROWS, blocks, COLS // 4, 4).transpose(0, 2, 3, 1, 4)
    if form.bits == 4:
        quads = quads[:, :, 0::2] | (quads[:, :, 1::2] << np.uint8(4))
    packed = np.empty((tiles, blocks, form.block), np.uint8)
    packed[:, :, : form.quants] = quads.reshape(tiles, blocks, form.quants)
    beside = scales.reshape(tiles, ROWS, blocks, -1, 2).transpose(0, 2, 3, 1, 4)
    packed[:, :, form.quants :] = beside.reshape(tiles, blocks, -1)
    return packed


def quantised(values: NDArray[np.float32], form: Form) -> Bytes:
    """Floats [out, in] as a file's rows: nearest codes under each block's own scale."""
    blocks = values.reshape(values.shape[0], -1, COLS)
    if form is Q8_0:
        scale = np.abs(blocks).max(-1) / 127
        codes = np.rint(_divided(blocks, scale.astype(np.float16))).clip(-127, 127)
        return _rows([scale], codes.astype(np.int8).view(np.uint8))
    if form is not Q4_1:
        raise ValueError(f"floats are packed as q8_0 or q4_1, not {form.name}")
    low = blocks.min(-1)
    scale = (blocks.max(-1) - low) / 15
    least = low.astype(np.float16).astype(np.float32)
    codes = np.rint(_divided(blocks - least[..., None], scale.astype(np.float16))).clip(0, 15)
    codes = codes.astype(np.uint8)
    return _rows([scale, low], codes[..., :16] | (codes[..., 16:] << 4))


def _divided(blocks: NDArray[np.float32], scale: NDArray[np.float16]) -> NDArray[np.float32]:
    by = scale.astype(np.float32)[..., None]
    return np.divide(blocks, by, out=np.zeros_like(blocks), where=by != 0)


def _rows(heads: list[NDArray[np.float32]], codes: Bytes) -> Bytes:
    halves = [head.astype("<f2")[..., None].view(np.uint8) for head in heads]
    return np.concatenate([*halves, codes], axis=-1).reshape(codes.shape[0], -1)


def dense(tiles: Bytes, form: Form, out: int) -> NDArray[np.float32]:
    """The values [out, in] of packed tiles: the oracle's side."""
    count, blocks = tiles.shape[:2]
    quads = tiles[:, :, : form.quants].reshape(count, blocks, -1, ROWS, 4)
    if form.bits == 4:
        quads = np.stack([quads & 15, quads >> 4], axis=3).reshape(count, blocks, -1, ROWS, 4)
    codes = quads.transpose(0, 3, 1, 2, 4).reshape(count * ROWS, blocks, COLS)
    scales = np.ascontiguousarray(tiles[:, :, form.quants :]).view("<f2").astype(np.float32)
    scales = scales.reshape(count, blocks, -1, ROWS).transpose(2, 0, 3, 1)
    scales = scales.reshape(-1, count * ROWS, blocks, 1)
    values = (codes.astype(np.float32) - form.offset) * scales[0]
    if form.minima:
        values = values + scales[1]
    found: NDArray[np.float32] = values.reshape(count * ROWS, -1)[:out]
    return found


def form_named(name: str) -> Form:
    for form in FORMS:
        if form.name == name:
            return form
    raise ValueError(f"weights {name!r}: wanted one of {', '.join(f.name for f in FORMS)}")


def bf16(values: Any) -> NDArray[np.uint16]:
    """Floats rounded to nearest even bfloat16, as bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
