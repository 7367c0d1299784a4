"""What the verbs take and give: plain values, and the protocols that callers implement.

Axis letters: n tokens, V vocabulary, M model width. Indexes are stream indexes throughout.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from workbench.words import Finish

if TYPE_CHECKING:
    from workbench.engine.engine import Engine
    from workbench.engine.sequence import Branch


class Matcher(Protocol):
    """A grammar's state along one branch. The engine consumes what it samples and what a monitor
    injects while decoding under it; whoever feeds text between two decodes consumes that himself.

    A class whose masks are made faster together has a static `fill_many(matchers, rows)` besides.
    """

    def fill(self, row: npt.NDArray[np.int32]) -> None:
        """Write the mask of allowed tokens into `row` [ceil(V/32)]: bit set = allowed, little
        end first."""

    def consume(self, token: int) -> None:
        """Go on by `token`. Raises GrammarError when it is not allowed; the state is then
        unchanged."""

    @property
    def finished(self) -> bool:
        """Nothing but an end token is allowed. The decode then ends with `Finish.GRAMMAR` and
        samples no end token; a grammar that wants one in the stream allows it as an ordinary
        token."""

    def rollback(self, n: int) -> None:
        """Take back the last `n` consumed tokens."""

    def copy(self) -> "Matcher":
        """An independent state at the same place."""


@dataclass(frozen=True, slots=True)
class Until:
    """When a decode ends. Every condition is looked at after each sampled token; the token
    stays."""

    max_tokens: int | None = None
    stop_ids: frozenset[int] = frozenset()
    stop_text: tuple[str, ...] = ()  # looked for in the text sampled by this decode
    eos: bool = True  # the model's end tokens end it too
    predicate: "Callable[[Branch], bool] | None" = None


@dataclass(frozen=True, slots=True)
class Sampler:
    """How tokens are drawn. `seed` replaces the branch's own random stream; several branches
    decoded together under one seed still draw apart."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


GREEDY = Sampler()


@dataclass(frozen=True, slots=True)
class Want:
    """What to report beside the tokens. Layers: l is the residual stream after layer l, -1 the
    state after the final norm."""

    logprobs: bool = False  # feed: of each fed token, given what stood before it
    top: int = 0  # the n most probable next tokens
    logits: bool = False
    hidden: tuple[int, ...] = ()
    project: tuple[int, ...] = ()  # peek: layers whose state is read as a distribution over tokens
    among: frozenset[int] = frozenset()  # peek: probability that the next token is one of these

    @property
    def nothing(self) -> bool:
        return self == NOTHING


NOTHING = Want()


# ---- feedback: what stands for a sampled token in the next pass ----


@dataclass(frozen=True, slots=True)
class TokenFeedback:
    """The embedding of the sampled token: ordinary decoding."""


@dataclass(frozen=True, slots=True)
class HiddenFeedback:
    """The state after the final norm is the next input (Coconut, 2412.06769). The stream records
    the token drawn beside each latent; `Branch.vectors` holds the latent itself."""


@dataclass(frozen=True, slots=True)
class Soft:
    """A mixture of embeddings is the next input. `weigh` maps probabilities [V] to weights [V]; the
    stream records the token drawn beside it, `Branch.vectors` the mixture."""

    weigh: Callable[[Tensor], Tensor]


Feedback = TokenFeedback | HiddenFeedback | Soft
TOKEN = TokenFeedback()
HIDDEN = HiddenFeedback()


# ---- monitor ----


@dataclass(frozen=True, slots=True)
class Stop:
    """End this branch's decode after the token just sampled."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Inject:
    """Put `tokens` behind the token just sampled; decoding goes on after them."""

    tokens: tuple[int, ...]


Verdict = Stop | Inject
Monitor = Callable[["Branch", int], Verdict | None]


# ---- replies ----


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """Stream tokens [start, stop) were put in."""

    start: int
    stop: int
    logprobs: Tensor | None = None  # [n] float32; NaN where nothing stood before the token
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [n, M]
    logits: Tensor | None = None  # [V], after the last


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What one branch's decode sampled. `text` is its bytes, undecodable ones replaced."""

    branch: "Branch"
    start: int
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    finish: Finish
    why: str = ""  # the stop text or the monitor's reason
    top: tuple[tuple[tuple[int, float], ...], ...] = ()  # per token, with Want.top
    hidden: Mapping[int, Tensor] = field(
        default_factory=dict
    )  # layer -> [n, M], that gave the token
    logits: Tensor | None = None  # [n, V]


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token of a stream."""

    index: int
    token: int
    text: bytes
    logprob: float
    entropy: float
    finish: Finish | None = None  # of the last one


@dataclass(frozen=True, slots=True, eq=False)
class Peek:
    """The next token's distribution, nothing added to the branch."""

    entropy: float
    top: tuple[tuple[int, float], ...]  # (token, logprob), best first
    among: float  # probability of the wanted set, 0 when none was wanted
    logits: Tensor | None = None  # [V]
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [M]
    project: Mapping[int, tuple[tuple[int, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PruneReport:
    removed: int  # resident tokens that left
    reencoded: int  # survivors behind the first hole that had K/V and are run again
    rotated: int
    pages_freed: int  # net
    kept: int  # tokens of the spans that stayed, since they lie on pinned pages
    length: int  # resident tokens afterwards


# ---- scoring ----


@dataclass(frozen=True, slots=True)
class Score:
    value: float
    tokens: int = 0  # that the scorer read


class Scorer(Protocol):
    """Judges a branch's stream. Equal streams get equal scores: the engine asks once."""

    @property
    def name(self) -> str: ...

    def __call__(self, engine: "Engine", branch: "Branch") -> Awaitable[Score]: ...


@dataclass(frozen=True, slots=True)
class Program:
    """A scorer that is an ordinary function."""

    name: str
    judge: "Callable[[Branch], float]"

    async def __call__(self, engine: "Engine", branch: "Branch") -> Score:
        return Score(float(self.judge(branch)))


CommandHandler = Callable[[Any], Awaitable[Mapping[str, Any]]]
"""Obeys a command that the engine leaves to the session: returns its outcome, or raises Refused."""
