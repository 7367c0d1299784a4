"""GGUF's quantisations that are built otherwise than ours, taken apart: codes, what stands beside.

The K forms keep superblocks of 256 values (llama.cpp, k-quants): one half or two over all of it,
small multipliers for each 32 (Q4_K) or 16 (Q6_K).
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
SUPER = 256  # values of a superblock
Q4_K_BYTES, Q6_K_BYTES, Q5_0_BYTES = 144, 210, 22


def q4_k(rows: Bytes) -> tuple[Bytes, Bytes]:
    """Codes [out, blocks of 32, 32] and, beside them, d, -dmin (halves), scale, minimum (bytes):
    value = d * scale * code - dmin * minimum."""
    out = len(rows)
    parts = rows.reshape(out, -1, Q4_K_BYTES)
    heads = parts[..., :4].copy()
    heads[..., 3] ^= 0x80  # the minimum is added
    scales, minima = _six_bits(parts[..., 4:16])
    both = parts[..., 16:].reshape(out, -1, 4, 32)
    codes = np.stack([both & 15, both >> 4], axis=3).reshape(out, -1, 32)
    beside = np.concatenate(
        [np.repeat(heads[..., None, :], 8, 2), scales[..., None], minima[..., None]], -1
    )
    return codes, beside.reshape(out, -1, 6)


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of six bits from twelve bytes."""
    low, middle, high = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], -1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], -1)
    return scales, minima


def q6_k(rows: Bytes) -> tuple[Bytes, Bytes]:
    """Codes [out, blocks of 32, 32], 0 to 63, and beside them d (a half) and the signed multipliers
    of both sixteens: value = d * multiplier * (code - 32)."""
    out = len(rows)
    parts = rows.reshape(out, -1, Q6_K_BYTES)
    low = parts[..., :128].reshape(out, -1, 2, 2, 32)  # of each half: values below 64, above
    high = parts[..., 128:192].reshape(out, -1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    four = np.concatenate([low & 15, low >> 4], axis=3)  # [out, n, 2, 4, 32]
    codes = four | ((high >> shifts) & 3) << 4
    scales = parts[..., 192:208].reshape(out, -1, 8, 2)
    heads = np.repeat(parts[..., None, 208:], 8, 2)
    return codes.reshape(out, -1, 32), np.concatenate([heads, scales], -1).reshape(out, -1, 4)


def q5_0_as_q8_0(rows: Bytes) -> Bytes:
    """Q5_0's five-bit codes as Q8_0's bytes, under the same scale: the same values."""
    out = len(rows)
    parts = rows.reshape(out, -1, Q5_0_BYTES)
    fifth = np.unpackbits(np.ascontiguousarray(parts[..., 2:6]), axis=-1, bitorder="little")
    both = parts[..., 6:]
    codes = np.concatenate([both & 15, both >> 4], -1) | (fifth << 4)
    signed = codes - np.uint8(16)  # wraps: two's complement
    return np.concatenate([parts[..., :2], signed], -1).reshape(out, -1)
