"""One step's overrides, sorted by where they act: rows with different nets share a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.forward import PLAIN, ForwardBatch

from .lora import Adapter, Pair

Scaled = tuple[Adapter, float]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One adapter for all of the step's tokens."""

    adapter: Adapter
    scale: float

    def add(self, y: Tensor, x: Tensor, layer: int, projection: str) -> Tensor:
        """y + scale * (x A^T) B^T; may write into y."""
        pair = self.adapter.layers[layer].get(projection)
        if pair is None:
            return y
        return torch.addmm(y, x @ pair.a, pair.b, alpha=self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Adapters side by side, so that one product serves tokens of each. Of a projection: A stacked,
    B stacked, and the shares [n + 1, ranks] of a token that has adapter i, or none (n)."""

    layers: tuple[Mapping[str, tuple[Pair, Tensor]], ...]

    @classmethod
    def of(cls, scaled: Sequence[Scaled]) -> "Joined":
        count = len(scaled[0][0].layers)
        names = {name for adapter, _ in scaled for layer in adapter.layers for name in layer}
        return cls(
            tuple(
                {name: made for name in names if (made := _join(scaled, layer, name)) is not None}
                for layer in range(count)
            )
        )


def _join(scaled: Sequence[Scaled], layer: int, name: str) -> tuple[Pair, Tensor] | None:
    parts = [(i, s, a.layers[layer].get(name)) for i, (a, s) in enumerate(scaled)]
    pairs = [(i, scale, pair) for i, scale, pair in parts if pair is not None]
    if not pairs:
        return None
    ranks = [pair.a.shape[1] for _, _, pair in pairs]
    shares = torch.zeros(len(scaled) + 1, sum(ranks), device=pairs[0][2].a.device)
    at = 0
    for (i, scale, _), rank in zip(pairs, ranks, strict=True):
        shares[i, at : at + rank] = scale
        at += rank
    a = torch.cat([pair.a for _, _, pair in pairs], 1)
    return Pair(a, torch.cat([pair.b for _, _, pair in pairs])), shares.to(a.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Several adapters, each for some of the tokens; `which` [T] names a token's, or none."""

    scaled: tuple[Scaled, ...]
    joined: Joined
    which: Tensor

    def add(self, y: Tensor, x: Tensor, layer: int, projection: str) -> Tensor:
        """y + scale * (x A^T) B^T with each token's own adapter; may write into y."""
        found = self.joined.layers[layer].get(projection)
        if found is None:
            return y
        pair, shares = found
        return torch.addmm(y, (x @ pair.a).mul_(shares[self.which]), pair.b)


@dataclass(slots=True, eq=False)
class StepOverrides:
    """What the decoder asks between projections and layers."""

    side: Side | Sides | None = None
    exits: dict[int, Tensor] = field(default_factory=dict)  # layers run -> packed tokens that stop
    steering: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    last: int = 0  # layers that any row needs

    def adapted(self, y: Tensor, x: Tensor, layer: int, projection: str) -> Tensor:
        return y if self.side is None else self.side.add(y, x, layer, projection)

    @property
    def net(self) -> tuple[object, ...]:
        """Equal for steps whose tokens have the same adapters to choose from."""
        if isinstance(self.side, Sides):
            return self.side.scaled
        return () if self.side is None else (self.side.adapter, self.side.scale, "all")

    @property
    def indexes(self) -> tuple[Tensor, ...]:
        return (self.side.which,) if isinstance(self.side, Sides) else ()

    def on(self, device: torch.device) -> "StepOverrides":
        """The same with its indexes on `device`."""
        return StepOverrides(
            self.over([index.to(device) for index in self.indexes]).side,
            {layer: tokens.to(device) for layer, tokens in self.exits.items()},
            {
                layer: [(tokens.to(device), vector) for tokens, vector in steers]
                for layer, steers in self.steering.items()
            },
            self.last,
        )

    def over(self, indexes: Sequence[Tensor]) -> "StepOverrides":
        """The adapters alone, chosen by `indexes` instead of their own."""
        side = self.side
        if isinstance(side, Sides):
            side = Sides(side.scaled, side.joined, indexes[0])
        return StepOverrides(side, last=self.last)


class Overrides:
    """Sorts steps' overrides for one net; keeps adapters that have been asked for together."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._joined: dict[tuple[Scaled, ...], Joined] = {}

    def resolve(self, batch: ForwardBatch, adapters: Mapping[str, Adapter]) -> StepOverrides:
        """By where they act, indexes on the CPU."""
        step = StepOverrides(last=self._layers)
        if all(override is PLAIN for override in batch.overrides):
            return step
        starts = batch.query_start.tolist()
        sides: dict[tuple[str, float], list[int]] = {}
        exits: dict[int, list[int]] = {}
        for row, override in enumerate(batch.overrides):
            tokens = range(starts[row], starts[row + 1])
            if override.adapter is not None and override.scale != 0.0:
                sides.setdefault((override.adapter, override.scale), []).extend(tokens)
            if override.exit_layer is not None and override.exit_layer < self._layers:
                exits.setdefault(override.exit_layer, []).extend(tokens)
            for steer in override.steering:
                listed = step.steering.setdefault(steer.layer, [])
                listed.append((torch.tensor(tokens), steer.vector))
        step.side = self._side(sides, adapters, batch.tokens)
        step.exits = {layer: torch.tensor(listed) for layer, listed in exits.items()}
        if sum(len(listed) for listed in exits.values()) == batch.tokens:
            step.last = max(step.exits)
        return step

    def _side(
        self,
        sides: Mapping[tuple[str, float], list[int]],
        adapters: Mapping[str, Adapter],
        tokens: int,
    ) -> Side | Sides | None:
        if not sides:
            return None
        names = sorted(sides)  # not the rows' order: steps of one choice are alike
        scaled = tuple((adapters[name], scale) for name, scale in names)
        if len(names) == 1 and len(sides[names[0]]) == tokens:
            return Side(*scaled[0])
        which = torch.full((tokens,), len(names))
        for i, name in enumerate(names):
            which[sides[name]] = i
        if scaled not in self._joined:
            self._joined[scaled] = Joined.of(scaled)
        return Sides(scaled, self._joined[scaled], which)


def why_not_captured(batch: ForwardBatch, step: StepOverrides) -> str | None:
    """What keeps a backend from replaying the step; None where nothing does: logits and nothing
    else are asked."""
    reasons = {
        "trees of drafts": batch.ancestors is not None and batch.tokens != batch.rows,
        "attached segments": bool(batch.attached),
        "early exits or steering": bool(step.exits or step.steering),
        "hidden states": bool(batch.hidden_layers),
        "vectors": batch.vectors is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
