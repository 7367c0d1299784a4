"""Random steps over a poisoned pool: what a kernel must not read is NaN, pages lie in random
order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.forward import ForwardBatch, Segment


@dataclass(frozen=True, slots=True)
class Step:
    """`rows` are (new tokens, entries after them)."""

    rows: tuple[tuple[int, int], ...]
    heads: int
    kv_heads: int
    dim: int
    page: int
    dtype: torch.dtype = torch.bfloat16
    window: int | None = None
    prefix: int = 0  # whole pages of entries that all rows share
    attached: tuple[tuple[int, int, int, int], ...] = ()  # reader, other row, stop, shift
    trees: tuple[int, ...] = ()  # rows whose new tokens are a random tree


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    batch: ForwardBatch
    keys: Tensor  # [slots, H, D], NaN where no row owns the slot
    values: Tensor
    q: Tensor
    inv_freq: Tensor


def make(case: Step, seed: int, device: str = "cpu") -> Made:
    g = torch.Generator().manual_seed(seed)
    size, lens = case.page, [n for _, n in case.rows]
    shared = case.prefix // size
    need = [-(-n // size) for n in lens]
    total = sum(need) + 3
    order = torch.randperm(total, generator=g).tolist()
    common, order = order[:shared], order[shared:]
    width = max([*need, 1]) + 1
    tables = torch.zeros(len(lens), width, dtype=torch.int64)
    for row, n in enumerate(need):
        own = n - min(n, shared)
        pages, order = common[:n] + order[:own], order[own:]
        tables[row, :n] = torch.tensor(pages, dtype=torch.int64)
    keys = torch.full((total * size, case.kv_heads, case.dim), torch.nan)
    values = keys.clone()
    for row, n in enumerate(lens):
        e = torch.arange(n)
        slots = tables[row][e // size] * size + e % size
        keys[slots] = torch.randn(n, case.kv_heads, case.dim, generator=g)
        values[slots] = torch.randn(n, case.kv_heads, case.dim, generator=g)
    starts = torch.tensor([0, *torch.tensor([m for m, _ in case.rows]).cumsum(0).tolist()])
    tokens = int(starts[-1])
    attached: list[list[Segment]] = [[] for _ in lens]
    for reader, other, stop, shift in case.attached:
        pages = tables[other][: need[other]].tolist()
        attached[reader].append(Segment(pages, min(3, stop), stop, shift))
    batch = ForwardBatch(
        token_ids=torch.zeros(tokens, dtype=torch.int64),
        positions=torch.arange(tokens),
        slots=torch.zeros(tokens, dtype=torch.int64),
        query_start=starts,
        kv_lens=torch.tensor(lens),
        block_tables=tables,
        attached=attached if case.attached else (),
        ancestors=_ancestors(case, g) if case.trees else None,
    )
    q = torch.randn(tokens, case.heads, case.dim, generator=g) * 2
    inv_freq = 10000.0 ** (-torch.arange(0, case.dim, 2).float() / case.dim)
    put = [x.to(device, case.dtype) for x in (keys, values, q)]
    return Made(batch, put[0], put[1], put[2], inv_freq.to(device))


def _ancestors(case: Step, g: torch.Generator) -> Tensor:
    """Each token of a tree hangs on an earlier one, or on what lies before the tree."""
    masks: list[int] = []
    for row, (new, _) in enumerate(case.rows):
        mine: list[int] = []
        for i in range(new):
            parent = int(torch.randint(-1, i, (1,), generator=g)) if i else -1
            mine.append(1 << i | (mine[parent] if parent >= 0 else 0))
        masks += mine if row in case.trees else [0] * new
    return torch.tensor([m - (1 << 64) if m >> 63 else m for m in masks])
