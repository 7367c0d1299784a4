"""Tokens drafted from a branch's own text run beside the one that waits, in one pass.

Prompt-lookup decoding (Saxena 2023; the check is that of speculative decoding, 2211.17192, with
draws that are functions of the branch's own stream): what came last behind the newest three tokens,
or two, or one, is guessed to come again, token by token, as long as guesses like these have mostly
been right; where a grammar allows a single token, it is that one. Each place is drawn as it would
be alone: same sampler, mask and random number. Draws count while they are the drafted ones, so
tokens, pages and facts are those of decoding one by one; what was computed behind the first that
differs lies in slots where nothing is stored. A backend whose rows depend on the batch's form gives
logits that are near, not equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from workbench.engine.batch import Row
from workbench.engine.jobs import Draft, Generate
from workbench.engine.protocols import TOKEN, Matcher
from workbench.engine.sequence import ALL, Branch
from workbench.forward import FEW
from workbench.words import Phase

if TYPE_CHECKING:
    from workbench.engine.engine import Engine

FEWEST = 3
LEAST, LEAST_ON_DEVICE = 0.4, 0.05  # chance of a guess, and all before it, that is worth a row
Mask = npt.NDArray[np.int32]
LONGEST = 3  # tokens that a guess goes by: of longer ones, the last time says less
BITS = 21  # of a token in a key
TOKEN_BITS = (1 << BITS) - 1
STREAK = 3  # times in a row that the same came, told apart up to here
RECENT = 1 << 16  # tokens of a stream that are read when it is first looked at


def _counts(of: int) -> list[int]:
    return [of] * (LONGEST * (STREAK + 1))


@dataclass(slots=True)
class Grams:
    """What came last behind each one, two and three tokens of a stream, and how often it was the
    same when they were said again: by how many they are, and how often in a row."""

    read: int = 0  # tokens of the stream
    after: dict[int, int] = field(default_factory=dict)  # key -> streak and token
    right: list[int] = field(default_factory=lambda: _counts(1))
    tried: list[int] = field(default_factory=lambda: _counts(2))

    def catch_up(self, tokens: Sequence[int]) -> None:
        after, right, tried = self.after, self.right, self.tried
        for i in range(min(self.read, len(tokens)), len(tokens)):
            token = tokens[i]
            for n, key in enumerate(_keys(tokens[max(0, i - LONGEST) : i])):
                found = after.get(key)
                after[key] = token
                if found is None:
                    continue
                streak = found >> BITS
                kind = n * (STREAK + 1) + streak
                tried[kind] += 1
                if found & TOKEN_BITS == token:
                    right[kind] += 1
                    after[key] = token | min(streak + 1, STREAK) << BITS
        self.read = len(tokens)

    def next(self, context: Sequence[int], mask: Mask | None) -> tuple[int, float] | None:
        """The guess by the longest context whose guess the mask allows, and how often guesses of
        its kind were right."""
        keys = _keys(context)
        for n in range(len(keys) - 1, -1, -1):
            found = self.after.get(keys[n])
            if found is None:
                continue
            token = found & TOKEN_BITS
            if mask is None or mask[token >> 5] >> (token & 31) & 1:
                kind = n * (STREAK + 1) + (found >> BITS)
                return token, self.right[kind] / self.tried[kind]
        return None


def _keys(context: Sequence[int]) -> list[int]:
    """Of its last token, its last two, ..."""
    key, keys = 0, []
    for n, token in enumerate(reversed(context)):
        key |= token + 1 << BITS * n
        keys.append(key)
    return keys


class Lookup:
    """Drafts for the rows of a step, `most` tokens each at most, and what became of them."""

    def __init__(self, engine: "Engine", most: int) -> None:
        self.most = most
        self.drafted = self.kept = 0
        self._engine = engine
        self._few = int(getattr(engine.forward, "few_tokens", FEW))
        # where a token more costs a quarter of a step, it should be right more often than not
        self._least = LEAST if self._few <= FEW else LEAST_ON_DEVICE

    def each(self, rows: int) -> int:
        """Tokens that each of so many rows may draft."""
        most = min(self.most, self._few // max(rows, 1) - 1)
        # on a device, one or two are worth less than a pass begun ahead
        return most if most >= min(self.most, FEWEST if self._few > FEW else 1) else 0

    def draft(self, rows: Sequence[Row]) -> bool:
        """Let rows that decode draft. Pages that all rows write to are in place. False: none
        does."""
        engine = self._engine
        each = self.each(len(rows))
        if not each or engine.record_routing:
            return False
        drafting = [row for row in rows if _usual(row, engine.memory.page_size)]
        for row in drafting:
            job = row.branch.job
            assert isinstance(job, Generate)
            row.draft = job.draft = self._draft(job, min(each, self._left(job)))
        drafting = [row for row in drafting if row.draft is not None]
        self._find_room(drafting)
        return any(row.draft is not None for row in drafting)

    def _left(self, job: Generate) -> int:
        """Tokens that may come behind the next."""
        engine, most = self._engine, job.until.max_tokens
        left = [engine.limit - job.branch.seen - 1]
        if most is not None:
            left.append(most - len(job.tokens) - 1)
        if engine.control.tokens_left is not None:
            left.append(engine.control.tokens_left - 1)
        return min(left)

    def _draft(self, job: Generate, most: int) -> Draft | None:
        if most < 1:
            return None
        branch = job.branch
        if branch.grams is None:
            branch.grams = Grams(max(0, len(branch.tokens) - RECENT))
        branch.grams.catch_up(branch.tokens)
        ends = self._engine.eos if job.until.eos else frozenset()
        draft = Draft(len(branch.tokens))
        if job.matcher is None:
            _freely(job, branch.grams, draft, most, ends, self._least)
        else:
            _within_grammar(job, job.matcher, branch.grams, draft, most, ends, self._least)
        return draft if draft.tokens else None

    def _find_room(self, rows: Sequence[Row]) -> None:
        """Where drafts will lie: behind what is stored, on the branch's last page or on one that
        is free. Nobody gives way for them."""
        memory = self._engine.memory
        size, promised = memory.page_size, {}
        free = memory.pages.peek(len(rows))
        for row in rows:
            branch, draft = row.branch, row.draft
            assert draft is not None
            room = size * len(branch.pages) - row.stop
            if len(draft.tokens) > room and free:
                draft.page = promised[branch.seq] = free.pop(0)
                draft.turn = memory.pages.turns[draft.page]
                room += size
            draft.cut(room)
            if not draft.tokens:
                self._forget(row)
        memory.promised = promised

    def _forget(self, row: Row) -> None:
        row.draft = None
        if isinstance(row.branch.job, Generate):
            row.branch.job.draft = None

    def drop(self, rows: Sequence[Row]) -> None:
        """The step's drafts are done with."""
        for row in rows:
            if row.draft is not None:
                self._forget(row)
                self._engine.memory.promised = {}

    def count(self, row: Row, kept: int) -> None:
        assert row.draft is not None
        request = self._engine.requests[row.branch.request]
        request.drafted += len(row.draft.tokens)
        request.kept += kept
        self.drafted += len(row.draft.tokens)
        self.kept += kept

    def goes_on(self, row: Row, n: int) -> bool:
        """The draw that was settled last was the n-th drafted token, and nothing says that the
        branch should not run it now."""
        engine, branch, draft = self._engine, row.branch, row.draft
        control, job = engine.control, row.branch.job
        return (
            draft is not None
            and n <= len(draft.tokens)
            and isinstance(job, Generate)
            and job.draft is draft
            and len(branch.tokens) == draft.start + n
            and branch.tokens[-1] == draft.tokens[n - 1]
            and branch.pending == 1
            and len(branch.resident) == row.stop + n
            and not (engine.inbox or control.paused or control.tokens_left == 0)
            and self._lies(branch, draft, row.stop + n)
        )

    def _lies(self, branch: Branch, draft: Draft, stop: int) -> bool:
        """The page that the pass wrote the last of `stop` entries to is the branch's, or will
        be."""
        memory = self._engine.memory
        if (stop - 1) // memory.page_size < len(branch.pages):
            return True
        pages, page = memory.pages, draft.page
        return not (pages.refcount[page] or pages.kept[page]) and pages.turns[page] == draft.turn

    def keep(self, row: Row, n: int, logits: Sequence[Tensor], counts: list[int]) -> None:
        """The n-th drafted token is stored: book it as a step of its own would."""
        engine, branch = self._engine, row.branch
        stop = row.stop + n
        engine.memory.write(branch, stop)
        engine.memory.commit(branch, stop)
        branch.encoded = max(branch.encoded, branch.resident[stop - 1] + 1)
        branch.logits = logits[row.logits[0] + n]
        engine.requests[branch.request].computed += 1
        counts[Phase.DECODE] += 1


def _freely(
    job: Generate, grams: Grams, draft: Draft, most: int, ends: frozenset[int], least: float
) -> None:
    context = job.branch.tokens[-LONGEST:]
    chance = 1.0
    while len(draft.tokens) < most:
        guess = grams.next(context[-LONGEST:], None)
        if guess is None:
            return
        token, share = guess
        chance *= share
        if chance < least or token >= job.vocabulary or token in ends:
            return
        context.append(token)
        draft.tokens.append(token)


def _within_grammar(
    job: Generate, matcher: Matcher, grams: Grams, draft: Draft, most: int, ends: frozenset[int],
    least: float,
) -> None:  # fmt: skip
    """Draft what the grammar allows; the masks that were filled on the way are the draws' own."""
    context = job.branch.tokens[-LONGEST:]
    consumed = 0
    chance = 1.0
    try:
        while True:
            mask = np.empty(-(-job.vocabulary // 32), np.int32)
            matcher.fill(mask)
            draft.masks.append(mask)
            if len(draft.tokens) == most:
                return
            token = _only(mask)
            if token is None:
                guess = grams.next(context[-LONGEST:], mask)
                if guess is None:
                    return
                token, share = guess
                chance *= share
            if chance < least or token in ends:
                return
            matcher.consume(token)
            consumed += 1
            if matcher.finished:  # nothing is drawn behind it
                return
            context.append(token)
            draft.tokens.append(token)
    finally:
        matcher.rollback(consumed)


def _only(mask: Mask) -> int | None:
    """The one token that the mask allows."""
    if np.count_nonzero(mask) != 1:
        return None
    word = int(mask.nonzero()[0][0])
    bits = int(mask[word]) & 0xFFFFFFFF
    return None if bits & bits - 1 else word * 32 + bits.bit_length() - 1


def _usual(row: Row, page_size: int) -> bool:
    """It runs one sampled token, at the end of what its branch has, and wants its logits."""
    branch, job = row.branch, row.branch.job
    return (
        isinstance(job, Generate)
        and row.stop - row.start == 1
        and row.stop == len(branch.resident)
        and job.feedback is TOKEN
        and job.seen is None
        and not job.hidden_layers
        and branch.positions is None
        and branch.split == ALL
        and not branch.reading
        and branch.island is None
        and len(branch.pages) == -(-row.stop // page_size)
    )
