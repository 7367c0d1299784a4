"""Drawing the next token of each row: the same arithmetic whatever else is in the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import Sampled, SamplerRow

HEAD = (
    256  # most draws are decided among the likeliest: the whole vocabulary is sorted for the rest
)


def sample(
    logits: Tensor,
    rows: Sequence[SamplerRow],
    mask: Tensor | None,
    seen: Sequence[Tensor],
    bias: Sequence[tuple[Tensor, Tensor] | None],
    uniforms: Tensor,
    top_n: int,
) -> Sampled:
    """`ops.contract.Ops.sample`."""
    logits = _biased(logits, rows, seen, bias)
    if mask is not None:
        logits = _masked(logits, mask)
    logprobs = torch.log_softmax(logits, -1)  # of the masked, unscaled distribution
    # what is masked has probability 0: the clamp keeps 0 * -inf out
    entropy = -(logprobs.exp() * logprobs.clamp_min(-1e30)).sum(-1)
    token = logits.argmax(-1)
    for r, row in enumerate(rows):
        if row.temperature > 0:
            token[r] = _draw(logits[r], row, float(uniforms[r]))
    chosen = logprobs.gather(1, token[:, None])[:, 0]
    top = logprobs.topk(min(top_n, logits.shape[1]), -1)
    return Sampled(token, chosen, entropy, top.indices, top.values)


def _biased(
    logits: Tensor,
    rows: Sequence[SamplerRow],
    seen: Sequence[Tensor],
    bias: Sequence[tuple[Tensor, Tensor] | None],
) -> Tensor:
    """Penalties over seen ids and added biases, on a copy where there are any."""
    copied = False
    for r, row in enumerate(rows):
        penalised = row.repetition_penalty != 1.0 or row.presence_penalty != 0.0
        added = bias[r] if r < len(bias) else None
        if not penalised and added is None:
            continue
        if not copied:
            logits, copied = logits.clone(), True
        if penalised and len(seen[r]):
            ids = torch.unique(seen[r].to(logits.device))
            values = logits[r, ids]
            penalty = row.repetition_penalty
            values = torch.where(values > 0, values / penalty, values * penalty)
            logits[r, ids] = values - row.presence_penalty
        if added is not None:
            ids, amounts = (x.to(logits.device) for x in added)
            logits[r].index_add_(0, ids, amounts.to(logits.dtype))
    return logits


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    octets = mask.to(logits.device).contiguous().view(torch.uint8)  # the low ones first
    bits = (octets[..., None] >> torch.arange(8, dtype=torch.uint8, device=logits.device)) & 1
    allowed = bits.view(mask.shape[0], -1)[:, : logits.shape[1]].bool()
    empty = (~allowed.any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(
            f"sample: the mask of row {empty[0]} allows no token; nothing can be drawn"
        )
    return torch.where(allowed, logits, -torch.inf)


def _draw(logits: Tensor, row: SamplerRow, uniform: float) -> int:
    """Inverse of the cumulated distribution, most likely first, equal ones by id."""
    scaled = logits.double() / row.temperature
    total = float(torch.logsumexp(scaled, 0))
    for count in (max(HEAD, row.top_k + 1), scaled.shape[0]):
        values, ids = _largest(scaled, count)
        k = row.top_k
        whole = count >= scaled.shape[0] or (k > 0 and bool(values[k - 1] > values[-1]))
        if not whole and k > 0:
            continue  # equals go on behind the head: which of them are kept is not decided there
        place = _place(values, row, uniform, None if whole else total)
        if place is not None:
            return int(ids[place])
    raise AssertionError("the whole distribution always decides")


def _largest(scaled: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest, equal ones by id (topk leaves their order open)."""
    if count >= scaled.shape[0]:
        return scaled.sort(descending=True, stable=True)
    values, ids = scaled.topk(count, sorted=False)
    ids, order = ids.sort()
    values, order = values[order].sort(descending=True, stable=True)
    return values, ids[order]


def _place(values: Tensor, row: SamplerRow, uniform: float, total: float | None) -> int | None:
    """Place among descending `values` that `uniform` falls on. With `total`, the log of the whole
    distribution's sum, they are its head only: None where the rest could change the draw."""
    live = int((values > -torch.inf).sum())
    if row.top_k > 0:
        live = min(live, row.top_k)
    values = values[:live]
    share = torch.exp(values - total) if total is not None else torch.softmax(values, 0)
    if total is not None:
        # equal values may go on behind the head, in an order that the head does not know
        decided = int((values > values[-1]).sum())
        share = share[:decided]
    kept: int | None = None if total is not None else len(share)
    if row.top_p < 1.0:
        # a token stays while what lies before it has not reached top_p; the first always stays
        reached = torch.searchsorted(share.cumsum(0), row.top_p, right=False)
        n = int(reached) + 1
        if n <= len(share):
            kept = n
        elif total is not None:
            return None
    if row.min_p > 0.0 and len(share):
        n = max(1, int((share >= row.min_p * share[0]).sum()))
        if n < len(share) or kept is not None:
            kept = min(n, kept) if kept is not None else n
        else:
            return None
    cumulated = share[:kept].cumsum(0)
    mass = float(cumulated[-1]) if kept is not None and len(cumulated) else 1.0
    place = int(torch.searchsorted(cumulated, uniform * mass, right=True))
    if place < len(cumulated):
        return place
    decided_by_rounding = kept is not None and len(cumulated) > 0
    return len(cumulated) - 1 if decided_by_rounding else None
