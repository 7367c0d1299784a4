"""Random numbers by counter: Philox4x32-10 (Salmon et al., SC 2011), in plain integers.

A draw depends on its key and its counter alone, so a branch's numbers never depend on its
neighbours, on the batch or on what was drawn before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF


def philox(counter: int, key: int) -> tuple[int, int, int, int]:
    """Four 32-bit words for a 128-bit counter under a 64-bit key."""
    c0, c1, c2, c3 = (counter >> s & _M32 for s in (0, 32, 64, 96))
    k0, k1 = key & _M32, key >> 32 & _M32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & _M32, p0 >> 32 ^ c3 ^ k1, p0 & _M32
        k0, k1 = k0 + 0x9E3779B9 & _M32, k1 + 0xBB67AE85 & _M32
    return c0, c1, c2, c3


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 53 random bits: the draw of `index` under `seed`."""
    a, b, _, _ = philox(index, seed & _M64)
    return (a << 21 ^ b >> 11) * 2.0**-53


def uniforms(seeds: Sequence[int], indexes: Sequence[int]) -> NDArray[np.float64]:
    """`uniform` of many pairs at once."""
    keys = np.array([seed & _M64 for seed in seeds], dtype=np.uint64)
    counters = np.array(indexes, dtype=np.uint64)
    low, shift = np.uint64(_M32), np.uint64(32)
    c0, c1 = counters & low, counters >> shift
    c2 = c3 = np.zeros_like(c0)
    k0, k1 = keys & low, keys >> shift
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = p1 >> shift ^ c1 ^ k0, p1 & low, p0 >> shift ^ c3 ^ k1, p0 & low
        k0, k1 = k0 + np.uint64(0x9E3779B9) & low, k1 + np.uint64(0xBB67AE85) & low
    bits = c0 << np.uint64(21) ^ c1 >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def child_seed(seed: int, ordinal: int) -> int:
    """Seed of a stream that comes from `seed`: the `ordinal`-th fork, branch or row."""
    a, b, _, _ = philox(1 << 64 | ordinal, seed & _M64)  # counters apart from every draw
    return a << 32 | b
