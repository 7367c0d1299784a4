"""Who sees whom in packed rows (see `views`), and attention under it.

    key k is visible to query q  <=>  same document and k <= q < dead[k]

Dense masks serve any device. Compiled attention on CUDA takes block masks, made from the rule
itself, and skips what no query sees.
Axis letters: B rows, N tokens a row.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

Mask = Tensor | BlockMask
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def dense(document: Tensor, dead: Tensor) -> Tensor:
    """[B, 1, N, N] bool from [B, N] ints."""
    place = torch.arange(document.shape[1], device=document.device)
    same = document[:, :, None] == document[:, None, :]
    causal = place[None, :, None] >= place[None, None, :]
    alive = place[None, :, None] < dead[:, None, :]
    itself = place[:, None] == place[None, :]  # padding sees itself: no row may be empty
    return (same & causal & alive | itself)[:, None]


def rule(document: Tensor, dead: Tensor) -> Rule:
    """The same for one query and key, over tensors whose contents may change."""

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (document[b, q] == document[b, k]) & (q >= k) & (q < dead[b, k]) | (q == k)

    return seen


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """q [B, heads, N, D]; k, v [B, kv heads, N, D]."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    if isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    seen = flex_attention(q, k, v, block_mask=mask)
    assert isinstance(seen, Tensor)
    return seen
