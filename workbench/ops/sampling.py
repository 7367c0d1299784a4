"""Drawing the next token of each row: the same arithmetic whatever else is in the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import Sampled, SamplerRow


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
    probabilities = logprobs.exp()
    entropy = torch.special.entr(probabilities).sum(-1)
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
    bits = torch.arange(32, dtype=torch.int32, device=logits.device)
    allowed = (mask.to(logits.device)[..., None] >> bits) & 1  # [R, words, 32]
    allowed = allowed.view(mask.shape[0], -1)[:, : logits.shape[1]].bool()
    empty = (~allowed.any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(
            f"sample: the mask of row {empty[0]} allows no token; nothing can be drawn"
        )
    return logits.masked_fill(~allowed, -torch.inf)


def _draw(logits: Tensor, row: SamplerRow, uniform: float) -> int:
    """Inverse of the cumulated distribution, most likely first, equal ones by id."""
    scaled = logits.double() / row.temperature
    values, ids = scaled.sort(descending=True, stable=True)
    keep = values > -torch.inf
    if row.top_k > 0:
        keep[row.top_k :] = False
    probabilities = torch.softmax(values.masked_fill(~keep, -torch.inf), 0)
    if row.top_p < 1.0:
        # a token stays while what lies before it has not reached top_p; the first always stays
        keep &= (probabilities.cumsum(0) - probabilities) < row.top_p
        keep[0] = True
        probabilities = torch.softmax(values.masked_fill(~keep, -torch.inf), 0)
    if row.min_p > 0.0:
        keep &= probabilities >= row.min_p * probabilities[0]
        probabilities = torch.softmax(values.masked_fill(~keep, -torch.inf), 0)
    cumulated = probabilities.cumsum(0)
    place = int(torch.searchsorted(cumulated, uniform * float(cumulated[-1]), right=True))
    last = int(keep.nonzero()[-1])
    return int(ids[min(place, last)])
