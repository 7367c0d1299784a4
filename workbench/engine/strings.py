"""Which tokens may stand inside a JSON string, by an automaton over their bytes."""

from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.engine.grammar import Mask, Vocabulary

_NORMAL, _ESCAPE, _HEX4, _SURROGATE, _HEX3, _HEX2, _HEX1 = range(7)
_TAIL1, _TAIL2, _TAIL3, _AFTER_E0, _AFTER_ED, _AFTER_F0, _AFTER_F4, _DEAD = range(7, 15)


@cache
def _automaton() -> NDArray[np.uint8]:
    """next[state, byte] over the inside of a JSON string: escapes, and UTF-8 without its bad
    forms."""
    table: NDArray[np.uint8] = np.full((15, 256), _DEAD, dtype=np.uint8)
    table[_NORMAL, 0x20:0x80] = _NORMAL
    table[_NORMAL, ord('"')] = _DEAD
    table[_NORMAL, ord("\\")] = _ESCAPE
    table[_NORMAL, 0xC2:0xE0] = _TAIL1
    table[_NORMAL, 0xE0:0xF0] = _TAIL2
    table[_NORMAL, 0xF0:0xF5] = _TAIL3
    for lead, state in ((0xE0, _AFTER_E0), (0xED, _AFTER_ED), (0xF0, _AFTER_F0), (0xF4, _AFTER_F4)):
        table[_NORMAL, lead] = state
    table[_TAIL1, 0x80:0xC0] = _NORMAL
    table[_TAIL2, 0x80:0xC0] = _TAIL1
    table[_TAIL3, 0x80:0xC0] = _TAIL2
    table[_AFTER_E0, 0xA0:0xC0] = _TAIL1
    table[_AFTER_ED, 0x80:0xA0] = _TAIL1
    table[_AFTER_F0, 0x90:0xC0] = _TAIL2
    table[_AFTER_F4, 0x80:0x90] = _TAIL2
    table[_ESCAPE, list(b'"\\/bfnrt')] = _NORMAL
    table[_ESCAPE, ord("u")] = _HEX4
    digits = list(b"0123456789abcdefABCDEF")
    for state, after in ((_HEX4, _HEX3), (_HEX3, _HEX2), (_HEX2, _HEX1), (_HEX1, _NORMAL)):
        table[state, digits] = after
    table[_HEX4, list(b"dD")] = _SURROGATE  # no halves of a pair: they cannot be written as UTF-8
    table[_SURROGATE, list(b"01234567")] = _HEX2
    return table


@lru_cache(maxsize=8)
def strings_of(vocabulary: Vocabulary) -> "Strings":
    """The vocabulary's own, shared by all grammars over it."""
    return Strings(vocabulary)


class Strings:
    """Which tokens may continue the inside of a JSON string, by state of the automaton."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._masks: dict[int, Mask] = {}
        self._after: dict[int, NDArray[np.uint8]] = {}

    def mask(self, state: int) -> Mask:
        if not self._masks:
            for one in range(_DEAD):  # all at once: none holds a step up later
                self._run(one)
        return self._masks[state]

    def after(self, state: int, token: int) -> int | None:
        """State behind `token`; None where it cannot stand."""
        self.mask(state)
        ends = self._after[state]
        if not 0 <= token < ends.size or ends[token] == _DEAD:
            return None
        return int(ends[token])

    def _run(self, state: int) -> None:
        size = self._vocabulary.size
        text, length = self._bytes
        ends: NDArray[np.uint8] = np.full(size, state, dtype=np.uint8)
        table = _automaton()
        live = np.flatnonzero(length)
        for column in range(text.shape[1]):
            ends[live] = table[ends[live], text[live, column]]
            live = live[(length[live] > column + 1) & (ends[live] != _DEAD)]
        ends[length == 0] = _DEAD
        self._after[state] = ends
        bits = np.zeros(self._vocabulary.words * 32, dtype=bool)
        bits[:size] = ends != _DEAD
        self._masks[state] = np.packbits(bits, bitorder="little").view(np.int32)

    @cached_property
    def _bytes(self) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        vocabulary = self._vocabulary
        skip = vocabulary.special | vocabulary.eos
        kept = [b"" if i in skip else token for i, token in enumerate(vocabulary.tokens)]
        length = np.zeros(vocabulary.size, dtype=np.int64)
        length[: len(kept)] = [len(token) for token in kept]
        text = np.zeros((vocabulary.size, int(length.max(initial=1))), dtype=np.uint8)
        for i, token in enumerate(kept):
            text[i, : len(token)] = np.frombuffer(token, dtype=np.uint8)
        return text, length
