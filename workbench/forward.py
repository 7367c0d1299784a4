"""The narrow waist: one step's work as a value, and who can carry it out.

The engine makes a `ForwardBatch` and knows nothing of the net; a `Forward` (the torch decoder over
`ops.cpu` or the CUDA ops, or the numba step) reads it and knows nothing of requests. Axis letters:
T tokens in the step, B rows (branches), W pages of the widest table, V vocabulary, M model width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from workbench.kv.layout import KVLayout

FEW = 8  # tokens in a step that cost little more than one; a backend may name its own `few_tokens`


class Abandoned(Exception):
    """Raised by a pulse between two layers: the step is given up, nothing of it counts."""


class StopFlag:
    """A pulse that lives in memory: a step that is one native call reads `word` between its layers,
    so that a stop reaches it while no Python runs. Any callable serves as a pulse; with this one a
    backend need not come back to Python after every layer. Set from any thread; cleared by whoever
    set it."""

    __slots__ = ("word",)

    def __init__(self) -> None:
        self.word = torch.zeros(1, dtype=torch.int64)

    def set(self) -> None:
        self.word[0] = 1

    def clear(self) -> None:
        self.word[0] = 0

    def __call__(self) -> None:
        if self.word[0]:
            raise Abandoned


@dataclass(frozen=True, slots=True, eq=False)
class Steering:
    """A vector added to the residual stream after `layer` (0-based) for every token of a row."""

    layer: int
    vector: Tensor  # [M]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Override:
    """What makes one branch's net differ from the model as loaded.

    Pages computed under different overrides are never shared: `same_net` is the test.
    """

    adapter: str | None = None  # name of a LoRA that the model has loaded
    scale: float = 1.0  # of that adapter
    exit_layer: int | None = None  # run layers [0, exit_layer), then the final norm and the head
    steering: tuple[Steering, ...] = ()

    def same_net(self, other: "Override") -> bool:
        return (
            self.adapter == other.adapter
            and (self.adapter is None or self.scale == other.scale)
            and self.exit_layer == other.exit_layer
            and self.steering == other.steering  # identity of the vectors
        )


PLAIN = Override()


@dataclass(frozen=True, slots=True)
class Segment:
    """KV entries of somebody else that a row may read (Hogwild!, 2504.06261 section 3).

    Entries `[start, stop)` of the branch whose block table is `pages`, its tokens of this very step
    included. A key stored at position p is read as if it stood at p + `shift`.
    """

    pages: Sequence[int]
    start: int
    stop: int
    shift: int


@dataclass(slots=True, eq=False)
class ForwardBatch:
    """One step, packed: row b owns tokens `query_start[b]:query_start[b + 1]`.

    K and V of every token are written to `slots` before anything is read, layer by layer. Token j
    of a row reads its row's entries 0 .. kv_lens[b] - (row's tokens) + j, through `block_tables`
    alone; entry e lies in slot `block_tables[b, e // page_size] * page_size + e % page_size`. With
    `attached`, the row reads those segments too, whole. With `ancestors`, a row whose tokens have
    any is a tree of drafts: a token reads all entries before the row's new tokens, and of these
    its ancestors alone. Index tensors live on the CPU; a backend
    moves them as it likes.
    """

    token_ids: Tensor  # [T] int64; ignored where `vector_rows` names the token
    positions: Tensor  # [T] int64, for RoPE; never derived from a counter
    slots: Tensor  # [T] int64
    query_start: Tensor  # [B + 1] int64
    kv_lens: Tensor  # [B] int64, entries of the row after this step's tokens are stored
    block_tables: Tensor  # [B, W] int64, unused places hold 0
    overrides: Sequence[Override] = ()  # per row; empty means PLAIN for all
    attached: Sequence[Sequence[Segment]] = ()  # per row; empty means none
    ancestors: Tensor | None = None
    """[T] int64: bit i of a token's is set when it reads the row's i-th new token, itself included;
    0 throughout a row that is no tree. At most 64 new tokens in a row that is one."""
    vectors: Tensor | None = None  # [N, M] inputs that replace embeddings
    vector_rows: Tensor | None = None  # [N] int64, packed token indexes
    logit_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """[R] packed token indexes whose logits are wanted."""
    hidden_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """[S] packed token indexes whose hidden states are wanted."""
    # l: the residual stream after layer l; -1: after the final norm
    hidden_layers: tuple[int, ...] = ()
    routing: bool = False  # report router choices (a net without experts reports none)
    drawn: Tensor | None = None
    """[T] int64 on the backend's device: token ids drawn there, in place of `token_ids`. Only for
    a backend that is `ahead`."""

    def tree(self, row: int) -> Tensor | None:
        """`ancestors` of the row's tokens where the row is a tree."""
        if self.ancestors is None:
            return None
        mine = self.ancestors[int(self.query_start[row]) : int(self.query_start[row + 1])]
        return mine if bool(mine.any()) else None

    @property
    def tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def rows(self) -> int:
        return int(self.kv_lens.shape[0])


@dataclass(slots=True, eq=False)
class Routing:
    """Router choices of one layer: experts [T, k] int64 (best first) and their weights [T, k]
    float32."""

    layer: int
    experts: Tensor
    weights: Tensor


@dataclass(slots=True, eq=False)
class ForwardOutput:
    """What a step gives back. Tensors are the caller's own; they stay valid."""

    logits: Tensor  # [R, V] float32
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [S, M] float32
    routing: Sequence[Routing] = ()


class Pool(Protocol):
    """KV memory of one backend. Slots and pages are plain integers; only the pool knows the
    layout."""

    layout: KVLayout

    def copy_pages(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Copy whole pages, all layers."""

    def move(self, src: Tensor, dst: Tensor, shift: int) -> None:
        """Copy the entries in slots `src` [n] to `dst` [n], all layers, turning K by `shift`
        positions (negative: towards the start). Source and destination may overlap; the result is
        as if all were read before any is written."""

    def save(self, pages: Sequence[int]) -> Any:
        """Contents of `pages` outside the pool, for `load`; the caller owns them."""

    def load(self, pages: Sequence[int], saved: Any) -> None:
        """Put contents that `save` gave into `pages` (same number of them)."""

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """K and V of `slots` [n] as float32 [n, H, D]. For tests, probes and views."""

    def poison(self, slots: Tensor) -> None:
        """Fill `slots` with NaN in every layer, so that any read of them shows. For tests."""


class NetFacts(Protocol):
    """What the engine has to know of a net."""

    @property
    def layers(self) -> int: ...
    @property
    def width(self) -> int: ...  # M
    @property
    def vocabulary(self) -> int: ...  # V
    @property
    def window(self) -> int: ...  # positions that the net was made for
    @property
    def experts(self) -> int: ...  # 0 for a dense net


class Forward(Protocol):
    """A net that can carry out a batch over a pool of its own kind.

    One whose calls return before the work is done, and that takes `ForwardBatch.drawn`, says so by
    an attribute `ahead` that is true.
    """

    name: str  # of the backend, as shown: "cpu fp32", "cpu int4", "cuda bf16", "numba q4" …

    @property
    def facts(self) -> NetFacts: ...

    def layout(self, pages: int, page_size: int) -> KVLayout:
        """The layout of a pool that this backend reads. Raises ValueError where it cannot serve
        it."""

    def new_pool(self, layout: KVLayout) -> Pool: ...

    def unserved(self, batch: ForwardBatch) -> str | None:
        """Why this backend cannot carry out `batch`; None when it can."""

    def embed(self, ids: Tensor) -> Tensor:
        """Rows [n, M] float32 of the embedding table, scaled as the net scales them: what `vectors`
        would have to hold in place of tokens `ids` [n]. For mixtures of embeddings."""

    def project(self, hidden: Tensor, normed: bool) -> Tensor:
        """Logits [n, V] float32 of residual states [n, M] through the final norm (left out when
        they are `normed` already) and the head, under PLAIN: the net's vocabulary read at any
        layer."""

    def __call__(
        self, batch: ForwardBatch, pool: Pool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        """Run the step. `pulse` is called between layers and may raise `Abandoned`; then only slots
        in `batch.slots` have been written, and no result exists."""
