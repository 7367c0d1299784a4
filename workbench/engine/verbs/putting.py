"""Growing a stream from outside: by tokens, or by vectors that stand for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from workbench.engine.checks import ids_of
from workbench.engine.errors import BadArgument
from workbench.engine.sequence import Branch
from workbench.words import Origin

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


def stream_ids(engine: "Engine", what: str | Sequence[int] | Tensor) -> list[int]:
    """Token ids of what is put in. A vector's is the vocabulary's size: the first id that no
    token has."""
    if not isinstance(what, Tensor):
        return ids_of(engine, what)
    width = engine.forward.facts.width
    if what.ndim != 2 or what.shape[1] != width:
        raise BadArgument(f"input vectors are [N, {width}], got {list(what.shape)}")
    return [engine.forward.facts.vocabulary] * what.shape[0]


def put(
    branch: Branch, what: str | Sequence[int] | Tensor, ids: Sequence[int], origin: Origin,
    positions: Sequence[int] | None = None,
) -> None:  # fmt: skip
    start = len(branch.tokens)
    if isinstance(what, Tensor):
        branch.pure = min(branch.pure, branch.length)
        branch.vectors.update({start + i: vector.detach().float() for i, vector in enumerate(what)})
    branch.append(ids, origin, positions)
