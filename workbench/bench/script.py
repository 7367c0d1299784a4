"""A right text as a script: what is sampled, what a tool puts in, when a list leaves memory.

Benches follow scripts, so that every implementation works on the same tokens at the same moments
and only time differs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.engine.protocols import Matcher
from workbench.tasks.gold import Piece


@dataclass(frozen=True, slots=True)
class Say:
    """The model samples these tokens."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Put:
    """A tool's result."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Tokens [start, stop) of the text leave memory; index 0 is the first token of the text."""

    start: int
    stop: int


Act = Say | Put | Forget
Encode = Callable[[str], Sequence[int]]


def script(pieces: Iterable[Piece], encode: Encode) -> list[Act]:
    """The acts of a text at threshold 0, neighbours of one kind joined."""
    acts: list[Act] = []
    opened: list[int] = []
    closed: list[tuple[int, int]] = []
    at = 0
    for piece in pieces:
        ids = tuple(encode(piece.text))
        if piece.closes:
            closed.append((opened.pop(), at))
        kind = Put if piece.fed else Say
        last = acts[-1] if acts else None
        if isinstance(last, kind):
            acts[-1] = kind(last.ids + ids)
        else:
            acts.append(kind(ids))
        at += len(ids)
        if piece.opens:
            opened.append(at)
        if piece.owner_closed:
            acts.append(Forget(*closed.pop()))
    return acts


def uncalled(acts: Iterable[Act]) -> list[Act]:
    """The same text, its results sampled too: an inference of this length without any call."""
    out: list[Act] = []
    for act in acts:
        said = Say(act.ids) if isinstance(act, Put) else act
        last = out[-1] if out else None
        if isinstance(said, Say) and isinstance(last, Say):
            out[-1] = Say(last.ids + said.ids)
        else:
            out.append(said)
    return out


def unforgotten(acts: Iterable[Act]) -> list[Act]:
    """The same text, all of it kept."""
    return [act for act in acts if not isinstance(act, Forget)]


def sampled(acts: Iterable[Act]) -> int:
    return sum(len(act.ids) for act in acts if isinstance(act, Say))


def turn(prompt: str) -> str:
    """A prompt in the bare ChatML turns on which the adapters were trained."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def rounds(
    problem_pieces: Iterable[Piece], encode: Encode
) -> Iterator[tuple[list[int], list[int]]]:
    """A client's requests: (text so far, what is sampled then until the next call)."""
    history: list[int] = []
    for act in unforgotten(script(problem_pieces, encode)):
        assert not isinstance(act, Forget)
        if isinstance(act, Say):
            yield list(history), list(act.ids)
        history += act.ids


class Forced:
    """A matcher that allows one text alone."""

    def __init__(self, ids: Sequence[int], at: int = 0) -> None:
        self.ids, self.at = ids, at

    def fill(self, row: "np.ndarray[tuple[int, ...], np.dtype[np.int32]]") -> None:
        row[:] = 0
        token = self.ids[self.at]
        row.view(np.uint32)[token >> 5] = np.uint32(1 << (token & 31))

    def consume(self, token: int) -> None:
        if token != self.ids[self.at]:
            raise ValueError(f"token {self.ids[self.at]} is forced here, {token} came")
        self.at += 1

    @property
    def finished(self) -> bool:
        return self.at == len(self.ids)

    def rollback(self, n: int) -> None:
        self.at -= n

    def copy(self) -> Matcher:
        return Forced(self.ids, self.at)
