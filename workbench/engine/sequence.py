"""A branch: one stream of tokens, and how much of it lies in memory.

Two lists tell everything. `tokens` is the stream and only grows (an edit replaces its tail).
`resident` names the stream indexes in working memory, in order; its place in that list is a
token's *entry*. The K/V of the first `stored` entries lie in the pool; the rest is work for the
next passes, whether it is a prompt, a sampled token, a tool's reply or survivors behind a hole.
So every verb only edits these lists, and one kind of step serves them all.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from workbench.forward import PLAIN, Override
from workbench.kv.prefix import Node
from workbench.words import Origin, Phase, RequestId, SeqId

if TYPE_CHECKING:
    from workbench.engine.jobs import Job
    from workbench.engine.lookup import Grams

ALL = 1 << 62  # more entries than any branch will have


@dataclass(frozen=True, slots=True)
class Removal:
    """Stream tokens [start, stop) left memory when the stream was `at` tokens long."""

    at: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Reading:
    """An attachment: this branch reads `branch` from stream index `start` on."""

    branch: "Branch"
    start: int


class Branch:
    """Handle of one stream. Strategies read it; only the engine writes it."""

    __slots__ = (
        "chain", "children", "encoded", "gone", "grams", "hidden", "island", "job", "logits", "net",
        "origins", "override", "pages", "parent", "positions", "pure", "reading", "removals",
        "request", "resident", "saved", "seed", "seq", "share", "split", "stored", "table",
        "tokens", "vectors",
    )  # fmt: skip

    def __init__(
        self, seq: SeqId, request: RequestId, *, seed: int, parent: SeqId | None = None,
        override: Override = PLAIN, net: int = 0, share: bool = True,
    ) -> None:  # fmt: skip
        self.seq = seq
        self.request = request
        self.parent = parent
        self.override = override
        self.net = net  # number of the override among those the engine has seen
        self.seed = seed  # of its random stream
        self.share = share  # its pages may be shared through the prefix cache
        self.children = 0  # forks made of it

        self.tokens: list[int] = []
        self.origins: list[tuple[int, Origin]] = []  # runs: (first stream index, origin)
        self.vectors: dict[int, Tensor] = {}  # stream index -> input in place of the embedding [M]
        self.resident: list[int] = []
        self.stored = 0
        self.encoded = 0  # stream tokens before this index have been run once
        self.positions: list[int] | None = None  # per entry; None: entry e stands at position e
        self.removals: list[Removal] = []
        self.pure = ALL  # entries before this follow from their tokens alone
        self.island: tuple[int, int] | None = None  # stored entries behind a gap being filled

        self.pages: list[int] = []
        self.table: npt.NDArray[np.int64] = np.zeros(16, np.int64)  # `pages`, with room to grow
        self.split = ALL  # entries from here on begin on a page of their own (attach)
        self.chain: Node | None = None  # prefix-cache node of its last page there
        self.saved: Any = None  # pages' contents while swapped out

        self.reading: tuple[Reading, ...] = ()
        self.logits: Tensor | None = None  # [V], after the last entry; None: not computed
        self.hidden: dict[int, Tensor] = {}  # layer -> [M], of the last entry, as far as asked for
        self.job: Job | None = None
        self.grams: Grams | None = None  # of its text, where drafts are made of it
        self.gone: str | None = None  # why it was dropped

    def __repr__(self) -> str:
        state = self.gone or f"{self.stored} of {self.length} stored, {len(self.pages)} pages"
        return f"Branch(s{self.seq}, {len(self.tokens)} tokens, {state})"

    @property
    def length(self) -> int:
        """Tokens in working memory, those that still have to be run included."""
        return len(self.resident)

    @property
    def pending(self) -> int:
        """Tokens in working memory without K/V."""
        return len(self.resident) - self.stored

    @property
    def seen(self) -> int:
        """Tokens that its next one attends to, those of others included."""
        if not self.reading:
            return len(self.resident)
        others = (r.branch.length - r.branch.entry(r.start) for r in self.reading)
        return len(self.resident) + sum(others)

    @property
    def purely_resident(self) -> bool:
        """Its memory can be recomputed from tokens."""
        return self.pure >= self.stored and self.island is None

    @property
    def next_position(self) -> int:
        if self.positions is None:
            return len(self.resident)
        return self.positions[-1] + 1 if self.positions else 0

    def entry(self, index: int) -> int:
        """Entry of the first resident token at or behind stream `index`."""
        return bisect_left(self.resident, index)

    def append(
        self, ids: Sequence[int], origin: Origin, positions: Sequence[int] | None = None
    ) -> None:
        """Grow stream and working memory; the tokens wait for their pass."""
        start = len(self.tokens)
        if not self.origins or self.origins[-1][1] is not origin:
            self.origins.append((start, origin))
        if positions is not None and self.positions is None:
            self.positions = list(range(len(self.resident)))
        if self.positions is not None:
            first = self.next_position
            self.positions.extend(
                range(first, first + len(ids)) if positions is None else positions
            )
            if positions is not None:
                self.pure = min(self.pure, len(self.resident))
        self.logits = None
        if len(ids) == 1:
            self.tokens.append(ids[0])
            self.resident.append(start)
            return
        self.tokens.extend(ids)
        self.resident.extend(range(start, start + len(ids)))

    def first_vector(self) -> int:
        """Entry of the first resident vector; ALL when there is none."""
        entries = (self.entry(i) for i in sorted(self.vectors))
        there = (e for e in entries if e < len(self.resident) and self.resident[e] in self.vectors)
        return next(there, ALL) if self.vectors else ALL

    def origin_of(self, index: int) -> Origin:
        for start, origin in reversed(self.origins):
            if start <= index:
                return origin
        return Origin.PROMPT

    def phase_of(self, index: int) -> Phase:
        """What running stream token `index` would be."""
        if index < self.encoded:
            return Phase.REENCODE
        origin = self.origin_of(index)
        if origin is Origin.SAMPLED:
            return Phase.DECODE
        return Phase.PREFILL if origin is Origin.PROMPT else Phase.EXTEND

    def place(self, entry: int, page_size: int) -> int:
        """Slot of `entry` counted along its own pages."""
        return entry if entry < self.split else entry + self.pad(page_size)

    def pad(self, page_size: int) -> int:
        """Slots left unused so that the entries behind the split begin on a page of their own."""
        return 0 if self.split == ALL else -self.split % page_size

    def pages_for(self, entries: int, page_size: int) -> int:
        """Pages that hold the first `entries` entries."""
        if entries > self.split:
            entries += self.pad(page_size)
        return -(-entries // page_size)

    def put_page(self, place: int, page: int) -> None:
        """Set or append the page at `place` of the block table."""
        if place == len(self.pages):
            self.pages.append(page)
            if place == len(self.table):
                self.table = np.concatenate([self.table, np.zeros_like(self.table)])
        else:
            self.pages[place] = page
        self.table[place] = page
