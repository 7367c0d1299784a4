"""Slow twins of the kernels, written from the definitions alone: float64, loops over tokens and
entries.
"""

import torch
from torch import Tensor

from workbench.forward import ForwardBatch


def rotate(x: Tensor, positions: Tensor, inv_freq: Tensor, scale: float = 1.0) -> Tensor:
    """x [T, heads, D] turned to positions [T], pairs (i, i + D/2)."""
    angle = positions.double()[:, None] * inv_freq.double().to(positions.device)
    cos, sin = (f(angle)[:, None] * scale for f in (torch.cos, torch.sin))
    low, high = x.double().chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    batch: ForwardBatch,
    page_size: int,
    scale: float,
    window: int | None,
    inv_freq: Tensor,
) -> Tensor:
    """q [T, Q, D] over keys and values [slots, H, D], token by token."""
    q, keys, values = q.double(), keys.double(), values.double()
    out = torch.zeros_like(q)
    group = q.shape[1] // keys.shape[1]
    for row in range(batch.rows):
        start, stop = int(batch.query_start[row]), int(batch.query_start[row + 1])
        for token in range(start, stop):
            limit = int(batch.kv_lens[row]) - (stop - token) + 1
            first = max(0, limit - window) if window else 0
            entries = torch.arange(first, limit)
            if (tree := batch.tree(row)) is not None:
                before, mine = int(batch.kv_lens[row]) - (stop - start), int(tree[token - start])
                read = [before + i for i in range(stop - start) if mine >> i & 1]
                entries = torch.tensor([*range(before), *read])
            slots = _slots(batch.block_tables[row], entries, page_size).to(q.device)
            k, v = [keys[slots]], [values[slots]]
            for s in batch.attached[row] if batch.attached else ():
                slots = _slots(torch.tensor(s.pages), torch.arange(s.start, s.stop), page_size)
                slots = slots.to(q.device)
                shift = torch.full((len(slots),), s.shift, device=q.device)
                k.append(rotate(keys[slots], shift, inv_freq))
                v.append(values[slots])
            k_all = torch.cat(k).repeat_interleave(group, 1)  # [n, Q, D]
            v_all = torch.cat(v).repeat_interleave(group, 1)
            p = torch.einsum("hd,nhd->hn", q[token], k_all).mul(scale).softmax(-1)
            out[token] = torch.einsum("hn,nhd->hd", p, v_all)
    return out


def _slots(table: Tensor, entries: Tensor, page_size: int) -> Tensor:
    return table[entries // page_size] * page_size + entries % page_size


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def silu_mul(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.double().chunk(2, -1)
    return gate / (1 + torch.exp(-gate)) * up


def distance(got: Tensor, want: Tensor) -> float:
    """Largest ||got - want|| / ||want|| over the rows; NaN when anything is not finite."""
    got, want = got.double().cpu(), want.double().cpu()
    if not torch.isfinite(got).all():
        return float("nan")
    got, want = got.reshape(got.shape[0], -1), want.reshape(want.shape[0], -1)
    if got.shape[0] == 0:
        return 0.0
    return float(((got - want).norm(dim=1) / want.norm(dim=1).clamp_min(1e-6)).max())


def route(logits: Tensor, k: int, normalise: bool) -> tuple[Tensor, Tensor]:
    """The k largest by (probability descending, id ascending)."""
    p = logits.double().softmax(-1)
    experts = torch.stack(
        [
            torch.tensor(sorted(range(len(row)), key=lambda e: (-row[e], e))[:k])
            for row in p.tolist()
        ]
    )
    weights = p.cpu().gather(1, experts)
    return experts, weights / weights.sum(1, keepdim=True) if normalise else weights


def expert_mlp(
    x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for t in range(x.shape[0]):
        for e, w in zip(experts[t].tolist(), weights[t].tolist(), strict=True):
            inner = silu_mul(gate_up[e].double() @ x[t].double())
            out[t] += w * (down[e].double() @ inner)
    return out
