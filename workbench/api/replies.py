"""Facts of a run as the pieces of a reply: what each choice says, token by token."""

import codecs
import dataclasses
import itertools
import math
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from workbench.api.body import ChatRequest
from workbench.api.speech import Called, Piece, Speech, Text
from workbench.events import (
    BranchDropped,
    BranchOpened,
    Event,
    NodeClosed,
    NodeOpened,
    NodeTitled,
    Pruned,
    TokenSampled,
    TokensFed,
    ToolCalled,
    ToolReturned,
)
from workbench.session import Result
from workbench.words import Finish, Origin, SeqId

SPOKEN = (BranchOpened, BranchDropped, TokenSampled, TokensFed)
TREE = (NodeOpened, NodeTitled, NodeClosed, ToolCalled, ToolReturned, Pruned)
CUT = frozenset((Finish.LENGTH, Finish.BUDGET))

TokenBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Delta:
    """One change of one choice. `event` is a tree event, beside it."""

    index: int
    delta: dict[str, Any]
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    event: dict[str, Any] | None = None


@dataclass(slots=True)
class Choice:
    index: int
    speech: Speech
    pending: list[dict[str, Any]] = field(default_factory=list)  # logprobs of text held back
    finish: str | None = None


@dataclass(slots=True)
class Usage:
    prompt: int = 0
    cached: int = 0
    completion: int = 0

    @property
    def json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Teller:
    """Base of both: counts the prompt and knows which branch is which choice."""

    def __init__(self, asked: ChatRequest, token_bytes: TokenBytes, eos: frozenset[int]) -> None:
        self.asked, self.token_bytes, self.eos = asked, token_bytes, eos
        self.usage = Usage()
        self.choices: dict[SeqId, Choice] = {}
        self.sampled = 0  # that earlier replies of this run have told

    def begin(self) -> Iterator[Delta]:
        """A reply begins, the first or a later one."""
        self.usage = Usage()
        if self.choices:
            yield Delta(0, {"role": "assistant", "content": ""})

    def pause(self, call: str, name: str, arguments: str, sampled: int) -> Iterator[Delta]:
        """The reply ends with a call of the client's tool; the run goes on in another one."""
        self.usage.completion = sampled - self.sampled
        self.sampled = sampled
        yield Delta(0, {"tool_calls": [call_json(0, name, arguments, call)]})
        yield Delta(0, {}, finish="tool_calls")

    def hear(self, event: Event) -> Iterator[Delta]:
        if isinstance(event, BranchOpened):
            if event.parent is None:
                self.usage.cached += event.reused
            index = len(self.choices)
            self.choices[event.seq] = Choice(index, self._speech())
            if index < self.asked.n:
                yield Delta(index, {"role": "assistant", "content": ""})
        elif isinstance(event, TokensFed) and event.origin is Origin.PROMPT:
            if self.choices[event.seq].index == 0:
                self.usage.prompt += len(event.tokens)
        elif isinstance(event, TokenSampled | TokensFed | BranchDropped):
            yield from self.said(event, self.choices[event.seq])
        elif self.asked.extension.events:
            yield Delta(0, {}, event=event_json(event))

    def _speech(self) -> Speech:
        raise NotImplementedError

    def said(self, event: Event, choice: Choice) -> Iterator[Delta]:
        raise NotImplementedError

    def end(self, result: Result) -> Iterator[Delta]:
        """What is left to say once the run has ended."""
        raise NotImplementedError


class ChatTeller(Teller):
    """Of `chat.Chat`: each branch is a choice and says its own text."""

    def _speech(self) -> Speech:
        tools = self.asked.tools
        stops = () if tools.offered and tools.choice == "required" else self.asked.stop
        return Speech(stops, tools.offered)

    def said(self, event: Event, choice: Choice) -> Iterator[Delta]:
        if isinstance(event, BranchDropped):
            if choice.finish is None:
                yield from self._close(choice, event.reason)
        elif isinstance(event, TokenSampled) and event.token not in self.eos:
            if self.asked.logprobs:
                choice.pending.append(self._logprob(event))
            yield from self._pieces(choice, choice.speech.push(self.token_bytes(event.token)))

    def _close(self, choice: Choice, reason: str) -> Iterator[Delta]:
        yield from self._pieces(choice, choice.speech.end())
        choice.finish = "stop"
        if reason in CUT:
            choice.finish = "length"
        elif choice.speech.called:
            choice.finish = "tool_calls"
        left = [] if choice.speech.stopped or choice.speech.called else choice.pending
        yield Delta(choice.index, {}, left, choice.finish)

    def _pieces(self, choice: Choice, pieces: list[Piece]) -> Iterator[Delta]:
        for piece in pieces:
            match piece:
                case Text(text):
                    yield Delta(choice.index, {"content": text}, choice.pending)
                case Called(place, name, arguments):
                    yield Delta(choice.index, {"tool_calls": [call_json(place, name, arguments)]})
            choice.pending = []

    def _logprob(self, event: TokenSampled) -> dict[str, Any]:
        top = zip(event.top_ids, event.top_logprobs, strict=True)
        best = itertools.islice(top, self.asked.top_logprobs)
        return self._token(event.token, event.logprob) | {
            "top_logprobs": [self._token(token, logprob) for token, logprob in best]
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self.token_bytes(token)
        return {
            "token": raw.decode("utf-8", "replace"),
            "logprob": logprob if math.isfinite(logprob) else -9999.0,  # as OpenAI writes "never"
            "bytes": list(raw),
        }

    def end(self, result: Result) -> Iterator[Delta]:
        self.usage.completion = result.summary["tokens"]["sampled"]
        for choice in self.choices.values():
            if choice.finish is None:
                yield from self._close(choice, result.finish)


class TreeTeller(Teller):
    """Of a strategy: its text is `reasoning_content`, the answer `content`, which comes last."""

    def __init__(self, asked: ChatRequest, token_bytes: TokenBytes, eos: frozenset[int]) -> None:
        super().__init__(asked, token_bytes, eos)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def _speech(self) -> Speech:
        return Speech()

    def said(self, event: Event, choice: Choice) -> Iterator[Delta]:
        match event:
            case TokenSampled(token=token) if choice.index == 0:
                tokens: tuple[int, ...] = (token,)
            case TokensFed(tokens=fed) if choice.index == 0:
                self.usage.prompt += len(fed)
                tokens = fed
            case _:
                return
        raw = b"".join(self.token_bytes(token) for token in tokens if token not in self.eos)
        if text := self._decoder.decode(raw):
            yield Delta(0, {"reasoning_content": text})

    def end(self, result: Result) -> Iterator[Delta]:
        self.usage.completion = result.summary["tokens"]["sampled"] - self.sampled
        if not self.choices:
            yield Delta(0, {"role": "assistant", "content": ""})
        if text := self._decoder.decode(b"", final=True):
            yield Delta(0, {"reasoning_content": text})
        ended = {"type": "run_ended", **result.summary} if self.asked.extension.events else None
        yield Delta(0, {"content": result.answer})
        yield Delta(0, {}, finish="length" if result.finish in CUT else "stop", event=ended)


def call_json(index: int, name: str, arguments: str, call: str | None = None) -> dict[str, Any]:
    return {
        "index": index,
        "id": call or f"call_{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def event_json(event: Event) -> dict[str, Any]:
    """A fact as JSON: its name in snake case as `type`, then its fields."""
    name = re.sub(r"(?<!^)([A-Z])", r"_\1", type(event).__name__).lower()
    values = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    return {"type": name} | {
        key: value.name.lower() if isinstance(value, IntEnum) else value
        for key, value in values.items()
    }
