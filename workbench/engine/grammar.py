"""Grammars as token masks: JSON schema, regular expressions and Lark grammars through llguidance.

Everything here implements the engine's `Matcher`: `fill` a mask row, `consume` what was sampled,
roll back, copy. Masks are int32 words, little end first, bit set = allowed; they are applied by
the engine's own sampling step and never by llguidance's tensor helpers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from time import perf_counter
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.int32]
Schema = Mapping[str, Any]
FEW, WORTH = 4, 5e-3  # masks that tell their pace; seconds that are worth waking threads for


class GrammarError(ValueError):
    """A grammar that cannot be compiled, or a token that it does not allow."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a grammar has to know of a tokenizer. `size` is V, the width of the logits."""

    tokens: Sequence[bytes]  # by id; special tokens have any bytes, they are never matched
    eos: frozenset[int]
    encode: Callable[[str], list[int]]
    special: frozenset[int] = frozenset()
    size: int = field(default=0)

    def __post_init__(self) -> None:
        if not self.eos:
            raise GrammarError("vocabulary: at least one end token is needed, none came")
        object.__setattr__(self, "size", max(self.size, len(self.tokens)))

    @property
    def words(self) -> int:
        """int32 words of a mask row."""
        return (self.size + 31) // 32

    @cached_property
    def compiled(self) -> llguidance.LLTokenizer:
        """llguidance's view of the vocabulary: some tenths of a second, once."""
        wrapper = llguidance.TokenizerWrapper(_Wrapped(self))
        return llguidance.LLTokenizer(wrapper, n_vocab=len(self.tokens), eos_token=sorted(self.eos))

    @cached_property
    def no_end(self) -> Mask:
        """A row that allows all but the end tokens."""
        return ~self.mask(sorted(self.eos))

    def mask(self, ids: Sequence[int]) -> Mask:
        """A row that allows `ids` alone."""
        row = np.zeros(self.words, dtype=np.int32)
        allow(row, ids)
        return row


class _Wrapped:
    """The attributes that llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = min(vocabulary.eos)
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = sorted(vocabulary.special | vocabulary.eos)
        self._encode = vocabulary.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8"))


def allow(row: Mask, ids: Sequence[int]) -> None:
    """Set the bits of `ids` in `row`."""
    words = row.view(np.uint32)
    for token in ids:
        words[token >> 5] |= np.uint32(1 << (token & 31))


def allowed(row: Mask, token: int) -> bool:
    return bool(row.view(np.uint32)[token >> 5] >> np.uint32(token & 31) & np.uint32(1))


class GrammarMatcher:
    """A compiled grammar following one stream of tokens."""

    def __init__(self, vocabulary: Vocabulary, grammar: str, what: str = "grammar") -> None:
        self._vocabulary = vocabulary
        self._what = what
        self._matcher = llguidance.LLMatcher(vocabulary.compiled, grammar, log_level=0)
        self._row: Mask = np.zeros((len(vocabulary.tokens) + 31) // 32, dtype=np.int32)
        self._ended = False
        if self._matcher.is_error():
            raise GrammarError(f"{what}: {self._matcher.get_error().strip()}")

    @property
    def accepting(self) -> bool:
        """The text so far is a whole sentence of the grammar."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Nothing but an end token is allowed."""
        return self._ended or bool(self._matcher.is_stopped() and self._matcher.is_accepting())

    def fill(self, row: Mask) -> None:
        row[:] = 0
        if self.finished:
            allow(row, sorted(self._vocabulary.eos))
            return
        self._matcher.unsafe_compute_mask_ptr(self._row.ctypes.data, self._row.nbytes)
        self._check()
        row[: self._row.size] = self._row

    @staticmethod
    def fill_many(matchers: "Sequence[GrammarMatcher]", rows: Sequence[Mask]) -> None:
        """`fill` of each; by llguidance's own threads where the first ones take so long that all
        of them one after the other would hold a step up."""
        waiting = list(zip(matchers, rows, strict=True))
        began, filled = perf_counter(), 0
        while waiting:
            matcher, row = waiting.pop()
            matcher.fill(row)
            filled += 1
            left = (perf_counter() - began) / filled * len(waiting)
            if filled >= FEW and left > WORTH:
                break
        live = [(matcher, row) for matcher, row in waiting if not matcher.finished]
        for matcher, row in waiting:
            if matcher.finished:
                matcher.fill(row)
        if not live:
            return
        masks = np.zeros((len(live), live[0][0]._row.size), dtype=np.int32)
        numbered = [(matcher._matcher, i) for i, (matcher, _) in enumerate(live)]
        _executor().unsafe_compute_mask_ptr(
            numbered, masks.ctypes.data, masks.strides[0], len(live)
        )
        for (matcher, row), mask in zip(live, masks, strict=True):
            matcher._check()
            row[:] = 0
            row[: mask.size] = mask

    def consume(self, token: int) -> None:
        if token in self._vocabulary.eos:
            if self._ended or not self.accepting:
                raise GrammarError(
                    f"{self._what}: the text is not whole yet, but an end token came"
                )
            self._ended = True
            return
        if not self.advance(token):
            raise GrammarError(
                f"{self._what}: token {token} {self._text(token)!r} is not allowed here"
            )

    def advance(self, token: int) -> bool:
        """`consume` of a token that is no end token; False where it is not allowed."""
        known = token < len(self._vocabulary.tokens) and not self._ended
        return known and bool(self._matcher.try_consume_tokens([token]))

    def rollback(self, n: int) -> None:
        if n and self._ended:
            self._ended = False
            n -= 1
        if n and not self._matcher.rollback(n):
            raise GrammarError(
                f"{self._what}: cannot take back {n} tokens: {self._matcher.get_error()}"
            )

    def copy(self) -> "GrammarMatcher":
        twin = object.__new__(GrammarMatcher)
        twin._vocabulary, twin._what = self._vocabulary, self._what
        twin._matcher, twin._row = self._matcher.deep_copy(), self._row.copy()
        twin._ended = self._ended
        return twin

    def _text(self, token: int) -> bytes:
        tokens = self._vocabulary.tokens
        return tokens[token] if 0 <= token < len(tokens) else b""

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"{self._what}: {self._matcher.get_error().strip()}")


@cache
def _executor() -> llguidance.LLExecutor:
    return llguidance.LLExecutor()


def regex(vocabulary: Vocabulary, pattern: str) -> GrammarMatcher:
    return GrammarMatcher(
        vocabulary, llguidance.LLMatcher.grammar_from_regex(pattern), f"regex {pattern!r}"
    )


def lark(vocabulary: Vocabulary, text: str) -> GrammarMatcher:
    """An EBNF grammar in Lark's syntax, `start` its first rule."""
    return GrammarMatcher(vocabulary, llguidance.LLMatcher.grammar_from_lark(text), "lark grammar")


def json_schema(
    vocabulary: Vocabulary, schema: Schema, *, depth: int | None = None
) -> GrammarMatcher:
    """JSON of `schema`, compact separators. `depth` unrolls recursive `$ref`s to that many
    levels."""
    grammar = compile_schema(schema if depth is None else unroll(schema, depth))
    return GrammarMatcher(vocabulary, grammar, "JSON schema")


def compile_schema(schema: Schema) -> str:
    """llguidance's form of a schema. Raises GrammarError with the JSON pointer of what is wrong."""
    wrong = _complaint(schema)
    if wrong:
        pointer, why = _locate(schema, schema, "#", wrong)
        raise GrammarError(f"JSON schema at {pointer}: {why}; correct the schema there")
    return _grammar(schema)


def _grammar(schema: Schema) -> str:
    return str(
        llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_flexible": False}
        )
    )


def _complaint(schema: object) -> str:
    if not isinstance(schema, Mapping):
        return f"an object is wanted, {json.dumps(schema, default=str)[:60]} came"
    try:
        return str(llguidance.LLMatcher.validate_grammar(_grammar(schema))).strip()
    except (ValueError, TypeError) as error:
        return str(error)


def _locate(root: Schema, part: Schema, pointer: str, wrong: str) -> tuple[str, str]:
    for key, child in _children(part):
        whole = child
        if isinstance(child, Mapping):
            whole = {**{k: root[k] for k in ("$defs", "definitions") if k in root}, **child}
        complaint = _complaint(whole)
        if complaint and isinstance(child, Mapping):
            return _locate(root, child, f"{pointer}/{key}", complaint)
        if complaint:
            return f"{pointer}/{key}", complaint
    return pointer, wrong


def _children(schema: Schema) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key in ("$defs", "definitions", "properties", "patternProperties"):
        if isinstance(schema.get(key), Mapping):
            found += [(f"{key}/{name}", child) for name, child in schema[key].items()]
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if isinstance(schema.get(key), list):
            found += [(f"{key}/{i}", child) for i, child in enumerate(schema[key])]
    found += [(k, schema[k]) for k in ("items", "additionalProperties") if k in schema]
    return [(key, child) for key, child in found if not isinstance(child, bool)]


def unroll(schema: Schema, depth: int) -> dict[str, Any]:
    """The schema without `$ref`s: each recursive one is followed `depth` times, then left out.

    Optional properties and alternatives that would go deeper are dropped, lists of them are empty.
    A bounded grammar keeps the compiler finite and tells a view the greatest depth.
    """
    definitions = {
        f"#/{home}/{name}": body
        for home in ("$defs", "definitions")
        for name, body in schema.get(home, {}).items()
    } | {"#": {k: v for k, v in schema.items() if k not in ("$defs", "definitions")}}
    flat = _expand(definitions["#"], definitions, {"#": 1}, depth)
    if flat is None:
        raise GrammarError(
            f"JSON schema: nothing is left of it at depth {depth}; allow more levels"
        )
    return flat


def _expand(
    part: Schema, definitions: Mapping[str, Schema], seen: Mapping[str, int], depth: int
) -> dict[str, Any] | None:
    if "$ref" in part:
        name = part["$ref"]
        if name not in definitions:
            raise GrammarError(
                f"JSON schema: $ref {name!r} points nowhere; known: {sorted(definitions)}"
            )
        if seen.get(name, 0) >= depth:
            return None
        return _expand(definitions[name], definitions, {**seen, name: seen.get(name, 0) + 1}, depth)
    out = dict(part)
    if "properties" in part:
        inner = {k: _expand(v, definitions, seen, depth) for k, v in part["properties"].items()}
        if any(inner.get(k, {}) is None for k in part.get("required", ())):
            return None
        out["properties"] = {k: v for k, v in inner.items() if v is not None}
    for key in ("anyOf", "oneOf"):
        if key in part:
            options = [_expand(v, definitions, seen, depth) for v in part[key]]
            out[key] = [v for v in options if v is not None]
            if not out[key]:
                return None
    if isinstance(part.get("items"), Mapping):
        item = _expand(part["items"], definitions, seen, depth)
        if item is None and part.get("minItems", 0) > 0:
            return None
        out |= {"items": item} if item is not None else {"items": {}, "maxItems": 0}
    return out
