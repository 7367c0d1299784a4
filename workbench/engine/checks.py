"""What a wish must satisfy before it changes anything."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from workbench.engine.errors import (
    BadArgument,
    BranchBusy,
    BranchGone,
    PoolTooSmall,
    RequestCancelled,
    Unserved,
    WindowFull,
)
from workbench.engine.sequence import Branch
from workbench.forward import PLAIN, ForwardBatch, Override, Segment, Steering
from workbench.words import Finish

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


def alive(engine: "Engine", branch: Branch) -> Branch:
    """Raise when the branch cannot be asked for anything."""
    if engine.requests[branch.request].finish is Finish.CANCELLED:
        raise RequestCancelled(f"request {branch.request} was cancelled; start a new one")
    if branch.gone is not None:
        raise BranchGone(f"{branch!r} is gone; fork or open another branch")
    return branch


def idle(engine: "Engine", branch: Branch) -> Branch:
    alive(engine, branch)
    if branch.job is not None:
        raise BranchBusy(f"{branch!r} is running already; await that verb first")
    return branch


def ids_of(engine: "Engine", what: str | Sequence[int]) -> list[int]:
    ids = engine.tokenize(what) if isinstance(what, str) else [int(token) for token in what]
    size = engine.forward.facts.vocabulary
    for token in ids:
        if not 0 <= token < size:
            raise BadArgument(f"token ids lie in [0, {size}), got {token}")
    return ids


def check_room(engine: "Engine", branch: Branch, n: int) -> None:
    """Raise WindowFull or PoolTooSmall when the branch cannot hold `n` more tokens."""
    if branch.length + n > engine.limit:
        raise WindowFull(
            f"{branch!r} holds {branch.length} tokens and {n} more were wanted; the window is "
            f"{engine.limit}: prune, or allow a larger window"
        )
    need = branch.pages_for(branch.length + n, engine.memory.page_size)
    if need > engine.memory.pages.pages:
        raise PoolTooSmall(
            f"{branch.length + n} tokens need {need} pages of {engine.memory.page_size}; the pool "
            f"has {engine.memory.pages.pages}: give the pool more pages, or prune"
        )


def require(
    engine: "Engine", *, override: Override = PLAIN, layers: Sequence[int] = (),
    vectors: bool = False, attached: bool = False,
) -> None:  # fmt: skip
    """Raise Unserved when the backend can't carry out such a row, BadArgument for an impossible
    one. Plain rows are not asked about."""
    if override is PLAIN and not (layers or vectors or attached):
        return
    if override in engine.served and not (layers or vectors or attached):
        return
    depth = engine.forward.facts.layers
    for layer in layers:
        if not -1 <= layer < (override.exit_layer or depth):
            raise BadArgument(f"layers lie in [-1, {override.exit_layer or depth}), got {layer}")
    if override.exit_layer is not None and not 1 <= override.exit_layer <= depth:
        raise BadArgument(f"exit_layer must lie in [1, {depth}], got {override.exit_layer}")
    for steering in override.steering:
        _check_steering(engine, steering)
    one = torch.zeros(1, dtype=torch.int64)
    batch = ForwardBatch(one, one, one, torch.tensor([0, 1]), one + 1, one[None], logit_rows=one)
    if not override.same_net(PLAIN):
        batch.overrides = [override]
    if layers:
        batch.hidden_rows, batch.hidden_layers = one, tuple(layers)
    if vectors:
        batch.vectors = torch.zeros(1, engine.forward.facts.width)
        batch.vector_rows = one
    if attached:
        batch.attached = [[Segment([0], 0, 1, -1)]]
    why = engine.forward.unserved(batch)
    if why:
        raise Unserved(why)
    if not (layers or vectors or attached):
        engine.served.add(override)


def _check_steering(engine: "Engine", steering: Steering) -> None:
    width, depth = engine.forward.facts.width, engine.forward.facts.layers
    if not 0 <= steering.layer < depth or tuple(steering.vector.shape) != (width,):
        raise BadArgument(
            f"steering wants a vector [{width}] after a layer in [0, {depth}), got "
            f"{list(steering.vector.shape)} after {steering.layer}"
        )
