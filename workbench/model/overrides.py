"""One step's overrides, sorted by where they act: rows with different nets share a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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


def resolve(
    batch: ForwardBatch, adapters: Mapping[str, Adapter], layers: int, device: torch.device
) -> StepOverrides:
    step = StepOverrides(last=layers)
    if all(override is PLAIN for override in batch.overrides):
        return step
    starts = batch.query_start.tolist()
    sides: dict[tuple[str, float], list[Tensor]] = {}
    exits: dict[int, list[Tensor]] = {}
    for row, override in enumerate(batch.overrides):
        tokens = torch.arange(starts[row], starts[row + 1], device=device)
        if override.adapter is not None and override.scale != 0.0:
            sides.setdefault((override.adapter, override.scale), []).append(tokens)
        if override.exit_layer is not None and override.exit_layer < layers:
            exits.setdefault(override.exit_layer, []).append(tokens)
        for steer in override.steering:
            step.steering.setdefault(steer.layer, []).append((tokens, steer.vector))
    for (name, scale), lists in sides.items():
        tokens = torch.cat(lists)
        whole = len(tokens) == batch.tokens
        step.sides.append(Side(adapters[name], scale, None if whole else tokens))
    step.exits = {layer: torch.cat(lists) for layer, lists in exits.items()}
    if sum(len(tokens) for tokens in step.exits.values()) == batch.tokens:
        step.last = max(step.exits)
    return step
