"""What a branch is being run for. At most one job a branch; a branch without one is idle."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workbench.engine.protocols import (
    GREEDY,
    TOKEN,
    Decoded,
    Fed,
    Feedback,
    HiddenFeedback,
    Matcher,
    Monitor,
    Sampler,
    Token,
    Until,
    Want,
)
from workbench.engine.sequence import Branch
from workbench.ops.contract import SamplerRow
from workbench.words import Finish

Reply = asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Job:
    """Base of both kinds: someone awaits `reply`."""

    branch: Branch
    reply: Reply
    want: Want

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        return self.want.hidden

    def answer(self, value: Any) -> None:
        self.branch.job = None
        if not self.reply.done():
            self.reply.set_result(value)

    def fail(self, error: BaseException) -> None:
        self.branch.job = None
        if not self.reply.done():
            self.reply.set_exception(error)


@dataclass(slots=True, eq=False)
class Advance(Job):
    """Run everything that waits, to the logits behind it: open, feed, peek."""

    start: int = 0  # stream index of the first token put in
    logprobs: list[Tensor] = field(default_factory=list)
    hidden: dict[int, list[Tensor]] = field(default_factory=dict)  # layer -> [n, M] a chunk

    def finish(self) -> None:
        branch, want = self.branch, self.want
        self.answer(
            Fed(
                self.start,
                len(branch.tokens),
                torch.cat(self.logprobs) if want.logprobs and self.logprobs else None,
                {layer: torch.cat(parts) for layer, parts in self.hidden.items()},
                branch.logits if want.logits else None,
            )
        )


class TextTail:
    """Looks for stop texts in a growing text, reading each byte a bounded number of times."""

    __slots__ = ("_longest", "_stops", "_tail")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = [(stop, stop.encode()) for stop in stops]
        self._longest = max((len(raw) for _, raw in self._stops), default=0)
        self._tail = b""

    def push(self, text: bytes) -> str | None:
        """The first stop text that `text` completes, if any."""
        if not self._stops:
            return None
        window = self._tail + text
        self._tail = window[-(self._longest - 1) :] if self._longest > 1 else b""
        return next((stop for stop, raw in self._stops if raw in window), None)


class Seen:
    """Token ids of a stream, for the penalties: grown with it, never copied. Latents are left
    out."""

    __slots__ = ("_ids", "_n", "_read", "_vocabulary")

    def __init__(self, vocabulary: int) -> None:
        self._ids: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        self._n = self._read = 0
        self._vocabulary = vocabulary

    def upto(self, tokens: list[int]) -> Tensor:
        new = [token for token in tokens[self._read :] if token < self._vocabulary]
        self._read = len(tokens)
        while self._n + len(new) > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
        self._ids[self._n : self._n + len(new)] = new
        self._n += len(new)
        return torch.from_numpy(self._ids[: self._n])


@dataclass(slots=True, eq=False)
class Draft:
    """Tokens guessed to come behind stream index `start`, and what their check needs."""

    start: int  # stream length when the guess was made
    tokens: list[int] = field(default_factory=list)
    masks: list[npt.NDArray[np.int32]] = field(default_factory=list)  # of each draw, one more
    page: int = -1  # free, where those lie that find no room on the branch's own
    turn: int = 0  # how often it had been taken

    def cut(self, n: int) -> None:
        del self.tokens[n:]


@dataclass(slots=True, eq=False)
class Generate(Job):
    """Sample until something says stop."""

    start: int = 0  # stream index of the first sampled token
    until: Until = field(default_factory=Until)
    sampler: Sampler = GREEDY
    seed: int = 0  # of its random stream
    matcher: Matcher | None = None
    feedback: Feedback = TOKEN
    monitor: Monitor | None = None
    vocabulary: int = 0
    draft: Draft | None = None  # of the step in progress
    queue: "asyncio.Queue[Token | None] | None" = None  # of a stream; None ends it

    row: SamplerRow = field(default_factory=SamplerRow)
    bias: tuple[Tensor, Tensor] | None = None
    seen: Seen | None = None
    tail: TextTail = field(default_factory=lambda: TextTail(()))
    text: list[bytes] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    hidden: dict[int, list[Tensor]] = field(default_factory=dict)
    logits: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.sampler
        self.row = SamplerRow(
            s.repetition_penalty, s.presence_penalty, s.temperature, s.top_k, s.top_p, s.min_p
        )
        if s.bias:
            self.bias = (
                torch.tensor(list(s.bias), dtype=torch.int64),
                torch.tensor(list(s.bias.values()), dtype=torch.float32),
            )
        if s.repetition_penalty != 1.0 or s.presence_penalty != 0.0:
            self.seen = Seen(self.vocabulary)
        self.tail = TextTail(self.until.stop_text)

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        if isinstance(self.feedback, HiddenFeedback) and -1 not in self.want.hidden:
            return (*self.want.hidden, -1)
        return self.want.hidden

    def fail(self, error: BaseException) -> None:
        Job.fail(self, error)
        self._close()

    def _close(self) -> None:
        if self.queue is not None:
            self.queue.put_nowait(None)

    def finish(self, finish: Finish, why: str = "") -> None:
        Job.answer(
            self,
            Decoded(
                self.branch,
                self.start,
                tuple(self.tokens),
                b"".join(self.text).decode(errors="replace"),
                tuple(self.logprobs),
                tuple(self.entropies),
                finish,
                why,
                tuple(self.top),
                {layer: torch.stack(rows) for layer, rows in self.hidden.items()},
                torch.stack(self.logits) if self.logits else None,
            ),
        )
        self._close()
