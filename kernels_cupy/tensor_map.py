"""Tensor maps: what Hopper's copy engine must know of a pool to fetch boxes of it by itself."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels_cupy.errors import KernelError

Map = NDArray[np.void]  # one element of 128 bytes, on 64 bytes: a kernel's argument by value
_TYPES = {torch.float16: 6, torch.bfloat16: 9}  # CUtensorMapDataType
_SWIZZLE_128, _PROMOTE_256 = 3, 3


def box_rows(page_size: int, most: int = 128) -> int:
    """Slots that lie together and fill a tile of `most` evenly; 0 where pages do not allow it."""
    rows = min(page_size, most)
    return rows if rows % 8 == 0 and most % rows == 0 and page_size % rows == 0 else 0


def pool_map(pool: Tensor, rows: int) -> Map:
    """Boxes of 64 elements of one head in `rows` slots of `pool` [slots, H, D]."""
    slots, heads, dim = pool.shape
    if pool.device.type == "cpu":
        return _emulated(pool.data_ptr(), dim, heads, slots, rows)
    return _encoded(pool.data_ptr(), dim, heads, slots, rows, _TYPES[pool.dtype])


@cache
def _emulated(*facts: int) -> Map:
    raw = _aligned()
    raw.view(np.uint64)[: len(facts)] = facts
    return raw.view("V128")


@cache
def _encoded(pointer: int, dim: int, heads: int, slots: int, rows: int, kind: int) -> Map:
    raw = _aligned()
    u64, u32 = ctypes.c_uint64, ctypes.c_uint32
    code = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(raw.ctypes.data), kind, 3, ctypes.c_void_p(pointer),
        (u64 * 3)(dim, heads, slots), (u64 * 2)(2 * dim, 2 * heads * dim),
        (u32 * 3)(64, 1, rows), (u32 * 3)(1, 1, 1), 0, _SWIZZLE_128, _PROMOTE_256, 0,
    )  # fmt: skip
    if code:
        raise KernelError(
            f"a tensor map of [{slots}, {heads}, {dim}] in boxes of {rows} slots wanted, the "
            f"driver refused with code {code}; use a page size that is no multiple of 8"
        )
    return raw.view("V128")


def _aligned() -> NDArray[np.uint8]:
    spare = np.zeros(192, dtype=np.uint8)
    at = -spare.ctypes.data % 64
    return spare[at : at + 128]


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")
