"""What one choice says, out of the bytes of its tokens: text without stop texts, and tool calls.

A pure function of the token stream: the same pieces whatever a client's pace.
"""

import codecs
import json
from dataclasses import dataclass, field
from typing import Any

from workbench.api.tools import CLOSE, OPEN


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A whole tool call, the `index`-th of its choice; `arguments` is compact JSON."""

    index: int
    name: str
    arguments: str


Piece = Text | Called


@dataclass(slots=True)
class Speech:
    """`push` each token's bytes, `end` at the end. Text that may be the beginning of a stop text
    (or of a call, with `calls`) is held back until it is known."""

    stops: tuple[str, ...] = ()
    calls: bool = False
    text: str = ""  # said so far
    called: int = 0
    stopped: bool = False  # a stop text came
    _held: str = ""
    _in_call: bool = False
    _decoder: Any = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def push(self, token: bytes) -> list[Piece]:
        return self._take(self._decoder.decode(token))

    def end(self) -> list[Piece]:
        """What was held back. A call that never closed is dropped: it was cut off."""
        pieces = self._take(self._decoder.decode(b"", final=True))
        if not (self.stopped or self._in_call):
            pieces += self._say(self._held)
        self._held = ""
        return pieces

    def _take(self, text: str) -> list[Piece]:
        if self.stopped:
            return []
        self._held += text
        pieces: list[Piece] = []
        while self._in_call or self._begins_call(pieces):
            body, closed, rest = self._held.partition(CLOSE)
            if not closed:
                return pieces
            self._held, self._in_call = rest, False
            pieces += self._call(body)
        return pieces + self._plain()

    def _begins_call(self, pieces: list[Piece]) -> bool:
        if not self.calls or OPEN not in self._held:
            return False
        before, _, rest = self._held.partition(OPEN)
        if any(stop in before for stop in self.stops):
            return False
        pieces += self._say(before)
        self._held, self._in_call = rest, True
        return True

    def _plain(self) -> list[Piece]:
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            said, self._held = self._held[: min(found)], ""
            return self._say(said)
        keep = self._waiting()
        said = self._held[: len(self._held) - keep]
        self._held = self._held[len(said) :]
        return self._say(said)

    def _waiting(self) -> int:
        """How many of the last characters may belong to a stop text or an opening tag."""
        marks = (*self.stops, OPEN) if self.calls else self.stops
        longest = max((len(mark) for mark in marks), default=1)
        for count in range(min(longest - 1, len(self._held)), 0, -1):
            if any(mark.startswith(self._held[-count:]) for mark in marks):
                return count
        return 0

    def _say(self, text: str) -> list[Piece]:
        if self.called and not text.strip():
            return []  # the line breaks between calls
        self.text += text
        return [Text(text)] if text else []

    def _call(self, body: str) -> list[Piece]:
        try:
            call = json.loads(body)
            arguments = json.dumps(call["arguments"], separators=(",", ":"), ensure_ascii=False)
            name = str(call["name"])
        except (ValueError, TypeError, KeyError):
            return self._say(f"{OPEN}{body}{CLOSE}")  # a call that the grammar did not hold
        self.called += 1
        return [Called(self.called - 1, name, arguments)]
