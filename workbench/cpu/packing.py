"""Matrices into tiles: the file's own quantised blocks laid side by side, or floats quantised on
request.

The values stay the file's to the bit; only their places change (see `dots` for the layout).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.cpu import kquants
from workbench.cpu.dots import COLS, FORMS, Q4_0, Q4_1, Q4_K, Q6_K, Q8_0, ROWS, Form

Bytes = NDArray[np.uint8]
# GGUF's names; Q5_0's codes fit q8_0's bytes under the same scale
KINDS = {"Q4_1": Q4_1, "Q4_0": Q4_0, "Q8_0": Q8_0, "Q5_0": Q8_0, "Q4_K": Q4_K, "Q6_K": Q6_K}


def tiles_from(rows: Bytes, kind: str) -> Bytes:
    """A file's rows of GGUF's `kind` [out, bytes of a row] as tiles, every value as it was."""
    form = KINDS[kind]
    rows = _whole_tiles(rows)
    if kind == "Q4_K":
        return _interleave(*kquants.q4_k(rows), form)
    if kind == "Q6_K":
        return _interleave(*kquants.q6_k(rows), form)
    return tiles_of(kquants.q5_0_as_q8_0(rows) if kind == "Q5_0" else rows, form)


def tiles_of(rows: Bytes, form: Form) -> Bytes:
    """Rows of q4_1, q4_0 or q8_0 [out, bytes of a row] as tiles [ceil(out / 16), blocks,
    form.block]."""
    head = form.halves  # bytes of scale (and minimum) before the codes
    rows = _whole_tiles(rows)
    blocks = rows.reshape(len(rows), -1, head + COLS * form.bits // 8)
    scales, codes = blocks[..., :head], blocks[..., head:]
    if form.bits == 4:
        codes = np.concatenate([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1)
    else:
        codes = codes ^ np.uint8(128)  # signed to unsigned, offset 128
    return _interleave(codes, scales, form)


def _whole_tiles(rows: Bytes) -> Bytes:
    missing = -len(rows) % ROWS
    if not missing:
        return rows
    return np.concatenate([rows, np.zeros((missing, rows.shape[1]), np.uint8)])


def _interleave(codes: Bytes, beside: Bytes, form: Form) -> Bytes:
    """codes [out, blocks, 32] and what stands beside them [out, blocks, halves and fine bytes]
    into tiles."""
    tiles, blocks = codes.shape[0] // ROWS, codes.shape[1]
    quads = codes.reshape(tiles, ROWS, blocks, COLS // 4, 4).transpose(0, 2, 3, 1, 4)
    packed = np.empty((tiles, blocks, form.block), np.uint8)
    if form.bits != 8:
        high = quads >> np.uint8(4)
        low = quads & np.uint8(15)
        packed[:, :, : ROWS * COLS // 2] = _flat(low[:, :, 0::2] | (low[:, :, 1::2] << np.uint8(4)))
        if form.bits == 6:
            four = high.reshape(tiles, blocks, 2, 4, ROWS, 4)
            shifts = np.array([0, 2, 4, 6], np.uint8)[:, None, None]
            packed[:, :, ROWS * COLS // 2 : form.quants] = _flat(
                np.bitwise_or.reduce(four << shifts, axis=3)
            )
    else:
        packed[:, :, : form.quants] = _flat(quads)
    rows = beside.reshape(tiles, ROWS, blocks, -1).transpose(0, 2, 3, 1)  # [tiles, blocks, n, 16]
    halves = rows[:, :, : form.halves].reshape(tiles, blocks, -1, 2, ROWS).transpose(0, 1, 2, 4, 3)
    packed[:, :, form.quants : form.quants + ROWS * form.halves] = _flat(halves)
    packed[:, :, form.quants + ROWS * form.halves :] = _flat(rows[:, :, form.halves :])
    return packed


def _flat(parts: Bytes) -> Bytes:
    """[tiles, blocks, …] with what a block holds in one line."""
    return parts.reshape(*parts.shape[:2], -1)


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
    codes = _codes(tiles, form).reshape(count * ROWS, blocks, COLS)
    behind = form.quants + ROWS * form.halves

    def beside(part: Bytes, kind: str) -> NDArray[np.float32]:
        """[n, out, blocks, 1] of numbers that stand by row."""
        values = np.ascontiguousarray(part).view(kind).astype(np.float32)
        values = values.reshape(count, blocks, -1, ROWS).transpose(2, 0, 3, 1)
        return values.reshape(-1, count * ROWS, blocks, 1)

    scales = beside(tiles[:, :, form.quants : behind], "<f2")
    scale = scales[0]
    if form.fine and form.minima:
        scales = scales * beside(tiles[:, :, behind:], "u1")
        scale = scales[0]
    elif form.fine:
        fine = beside(tiles[:, :, behind:], "i1") * scale
        scale = np.concatenate([np.repeat(part, COLS // 2, -1) for part in fine], -1)
    values = (codes.astype(np.float32) - form.offset) * scale
    if form.minima:
        values = values + scales[1]
    found: NDArray[np.float32] = values.reshape(count * ROWS, -1)[:out]
    return found


def _codes(tiles: Bytes, form: Form) -> Bytes:
    """Unsigned codes [tiles, 16, blocks, 8, 4]."""
    count, blocks = tiles.shape[:2]
    if form.bits == 8:
        quads = tiles[:, :, : form.quants].reshape(count, blocks, -1, ROWS, 4)
    else:
        both = tiles[:, :, : ROWS * COLS // 2].reshape(count, blocks, -1, ROWS, 4)
        quads = np.stack([both & 15, both >> 4], axis=3).reshape(count, blocks, -1, ROWS, 4)
    if form.bits == 6:
        high = tiles[:, :, ROWS * COLS // 2 : form.quants].reshape(count, blocks, 2, 1, ROWS, 4)
        shifts = np.array([0, 2, 4, 6], np.uint8)[:, None, None]
        two = (high >> shifts) & np.uint8(3)
        quads = quads | (two << np.uint8(4)).reshape(count, blocks, -1, ROWS, 4)
    return quads.transpose(0, 3, 1, 2, 4)


def form_named(name: str) -> Form:
    for form in FORMS:
        if form.name == name:
            return form
    raise ValueError(f"weights {name!r}: wanted one of {', '.join(f.name for f in FORMS)}")


def bf16(values: Any) -> NDArray[np.uint16]:
    """Floats rounded to nearest even bfloat16, as bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
