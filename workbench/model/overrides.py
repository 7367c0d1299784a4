"""One step's overrides, sorted by where they act: rows with different nets share a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from workbench.forward import PLAIN, ForwardBatch

from .lora import Adapter


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """An adapter for some of the step's tokens."""

    adapter: Adapter
    scale: float
    tokens: Tensor | None  # packed indexes; None: all

    def add(self, y: Tensor, x: Tensor, layer: int, projection: str) -> Tensor:
        """y + scale * (x A^T) B^T on this side's tokens; may write into y."""
        pair = self.adapter.layers[layer].get(projection)
        if pair is None:
            return y
        if self.tokens is None:
            return torch.addmm(y, x @ pair.a, pair.b, alpha=self.scale)
        side = (x[self.tokens] @ pair.a) @ pair.b
        return y.index_add_(0, self.tokens, side.mul_(self.scale).to(y.dtype))


@dataclass(slots=True, eq=False)
class StepOverrides:
    """What the decoder asks between projections and layers."""

    sides: list[Side] = field(default_factory=list)
    exits: dict[int, Tensor] = field(default_factory=dict)  # layers run -> packed tokens that stop
    steering: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    last: int = 0  # layers that any row needs

    def adapted(self, y: Tensor, x: Tensor, layer: int, projection: str) -> Tensor:
        for side in self.sides:
            y = side.add(y, x, layer, projection)
        return y

    def on(self, device: torch.device) -> "StepOverrides":
        """The same with its indexes on `device`."""
        return StepOverrides(
            [
                replace(s, tokens=None if s.tokens is None else s.tokens.to(device))
                for s in self.sides
            ],
            {layer: tokens.to(device) for layer, tokens in self.exits.items()},
            {
                layer: [(tokens.to(device), vector) for tokens, vector in steers]
                for layer, steers in self.steering.items()
            },
            self.last,
        )

    def over(self, indexes: Sequence[Tensor]) -> "StepOverrides":
        """The sides alone, reading `indexes` instead of their own."""
        given = iter(indexes)
        sides = [s if s.tokens is None else replace(s, tokens=next(given)) for s in self.sides]
        return StepOverrides(sides, last=self.last)


def resolve(batch: ForwardBatch, adapters: Mapping[str, Adapter], layers: int) -> StepOverrides:
    """Sorted by where they act, indexes on the CPU."""
    step = StepOverrides(last=layers)
    if all(override is PLAIN for override in batch.overrides):
        return step
    starts = batch.query_start.tolist()
    sides: dict[tuple[str, float], list[int]] = {}
    exits: dict[int, list[int]] = {}
    for row, override in enumerate(batch.overrides):
        tokens = range(starts[row], starts[row + 1])
        if override.adapter is not None and override.scale != 0.0:
            sides.setdefault((override.adapter, override.scale), []).extend(tokens)
        if override.exit_layer is not None and override.exit_layer < layers:
            exits.setdefault(override.exit_layer, []).extend(tokens)
        for steer in override.steering:
            step.steering.setdefault(steer.layer, []).append((torch.tensor(tokens), steer.vector))
    for (name, scale), listed in sides.items():
        whole = len(listed) == batch.tokens
        step.sides.append(Side(adapters[name], scale, None if whole else torch.tensor(listed)))
    step.exits = {layer: torch.tensor(listed) for layer, listed in exits.items()}
    if sum(len(listed) for listed in exits.values()) == batch.tokens:
        step.last = max(step.exits)
    return step


def why_not_captured(batch: ForwardBatch, step: StepOverrides) -> str | None:
    """What keeps a backend from replaying the step; None where nothing does: one new token a row,
    logits of each, nothing else asked."""
    reasons = {
        "rows of several tokens": batch.tokens != batch.rows,
        "logits of some tokens only": batch.logit_rows.tolist() != list(range(batch.tokens)),
        "attached segments": bool(batch.attached),
        "early exits or steering": bool(step.exits or step.steering),
        "hidden states": bool(batch.hidden_layers),
        "vectors": batch.vectors is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
