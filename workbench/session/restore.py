"""A killed run taken up again: its stream is fed as recorded, its prunes are done again where they
were."""

import json
from dataclasses import dataclass
from typing import Any

from workbench.engine.sequence import Branch
from workbench.events import (
    BranchOpened,
    Event,
    Pruned,
    RequestEnded,
    RequestOpened,
    TokenSampled,
    TokensFed,
)
from workbench.session.context import RunContext
from workbench.trace import Trace, TraceError
from workbench.words import Origin, PruneMode


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one origin, or (without tokens) spans that left memory at that moment."""

    origin: Origin
    tokens: tuple[int, ...]
    prune: tuple[tuple[int, int], ...] = ()
    mode: PruneMode = PruneMode.REENCODE


@dataclass(frozen=True, slots=True)
class Recording:
    """What a trace says of its last unfinished request: how it was asked, and its first branch."""

    strategy: str
    params: dict[str, Any]
    title: str
    seed: int
    prompt: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @classmethod
    def read(cls, trace: Trace) -> "Recording":
        """Raises TraceError where there is nothing to resume."""
        ended = {
            event.request for event in trace.events(RequestEnded) if event.finish != "cancelled"
        }
        opened = [event for event in trace.events(RequestOpened) if event.request not in ended]
        if not opened:
            raise TraceError(f"{trace!r}: an unfinished run is wanted, all of its runs have ended")
        request = opened[-1]
        branches = [e for e in trace.events(BranchOpened) if e.request == request.request]
        if not branches:
            raise TraceError(f"{trace!r}: the run had not opened a branch yet; start it anew")
        prompt, pieces = _stream(trace, branches[0].seq)
        return cls(
            request.strategy,
            json.loads(request.params),
            request.title,
            request.seed,
            prompt,
            pieces,
        )


def _stream(trace: Trace, seq: int) -> tuple[tuple[int, ...], tuple[Piece, ...]]:
    prompt: list[int] = []
    pieces: list[Piece] = []
    sampled: list[int] = []

    def flush() -> None:
        if sampled:
            pieces.append(Piece(Origin.SAMPLED, tuple(sampled)))
            sampled.clear()

    for event in trace.events(Event):
        match event:
            case TokenSampled() if event.seq == seq:
                sampled.append(event.token)
            case TokensFed() if event.seq == seq and event.origin == Origin.PROMPT:
                prompt += event.tokens
            case TokensFed() if event.seq == seq:
                flush()
                pieces.append(Piece(Origin(event.origin), event.tokens))
            case Pruned() if event.seq == seq:
                flush()
                pieces.append(
                    Piece(Origin.FED, (), ((event.start, event.stop),), PruneMode(event.mode))
                )
    flush()
    return tuple(prompt), tuple(pieces)


async def refeed(ctx: RunContext, branch: Branch, recording: Recording) -> None:
    """Bring `branch`, which holds the prompt, to where the recording stopped. Samples nothing."""
    for piece in recording.pieces:
        if piece.prune:
            await ctx.prune(branch, piece.prune, mode=piece.mode, cause="strategy")
        else:
            await ctx.feed(branch, piece.tokens, origin=piece.origin)
