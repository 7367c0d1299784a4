"""The pass after this one, launched while this one's tokens are on their way to the host.

A guess: each branch that draws now runs its token in the next step. That pass is launched with the
tokens where they were drawn, before anybody has read them; masks are filled, events told and the
next step planned meanwhile. The next step takes the results of a guess that turns out to be what
it wants to run, row by row; of rows that have ended, nothing is taken. Nothing else follows from a
guess: tokens, pages and events are the steps' own. What a wrong one wrote lies in slots where
nothing was stored. For backends that draw where they compute (`Forward.ahead`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from workbench.engine.batch import Packed
from workbench.engine.jobs import Generate
from workbench.engine.protocols import TokenFeedback
from workbench.engine.sampler import Draws
from workbench.engine.scheduler import Candidate
from workbench.engine.sequence import ALL, Branch
from workbench.forward import PLAIN, ForwardBatch, ForwardOutput, Override, Routing
from workbench.ops.contract import Sampled
from workbench.words import SeqId

if TYPE_CHECKING:
    from workbench.engine.engine import Engine

RESTS = 8  # steps at most without a guess after wrong ones
HOLDS, PATIENCE = 5, 0.05  # steps, and seconds, that a short row waits for others like it
SHORT = 128  # its tokens at most: a prompt's are never held
MANY = 8  # rows that decode, from which such rows are held


@dataclass(slots=True, eq=False)
class Guess:
    """A pass under way: row `i` runs the token that job `drawn[i]` of the step's draw gets."""

    places: dict[SeqId, int]  # branch -> row
    overrides: list[Override]
    drawn: list[int]
    batch: ForwardBatch
    output: ForwardOutput
    fresh: dict[int, int]  # new pages -> how often each had been taken
    landed: bool = False  # the batch's token ids are known


class Ahead:
    """The guess under way, and how good guesses have been. `able`: the backend takes tokens that
    no host has read."""

    def __init__(self, engine: "Engine", able: bool) -> None:
        self.able = able
        self.hits = self.misses = 0
        self._engine = engine
        self._guess: Guess | None = None
        self._rest = self._wrong = 0
        self._held = 0  # steps for which rows have been held
        self._since = 0.0  # when the first of them began

    def hold(self, candidates: list[Candidate]) -> tuple[list[Candidate], int]:
        """Who runs now, and how many rows are held. A step in which all rows decode is replayed
        and guessed; among many branches somebody always has a reply or survivors to encode. So
        such rows wait: until a quarter of the batch is like them, for `HOLDS` steps or
        `PATIENCE`."""
        if not self.able:
            return candidates, 0
        decodes = [c for c in candidates if c.sampled]
        others = [c.todo for c in candidates if not c.sampled]
        few = len(decodes) >= MANY and 0 < 4 * len(others) <= len(candidates)
        if not few or max(others) > SHORT or self._held == HOLDS:
            self._held = 0
            return candidates, 0
        now = self._engine.t()
        if self._held and now - self._since > PATIENCE:
            self._held = 0
            return candidates, 0
        self._since = self._since if self._held else now
        self._held += 1
        return decodes, len(others)

    def launch(self, jobs: Sequence[Generate], sampled: Sampled) -> None:
        """Guess the next pass from the branches that `sampled` is drawn for, and launch it."""
        self.drop()
        if not self.able or sampled.on_device is None:
            return
        if self._rest:
            self._rest -= 1
            return
        engine = self._engine
        others = len(engine.active) - len(jobs)
        if engine.inbox or not all(map(_usual, jobs)) or (others and not 0 < self._held < HOLDS):
            return
        drawn = [i for i, job in enumerate(jobs) if self._goes_on(job)]
        drawn.sort(key=lambda i: jobs[i].branch.seq)
        branches = [jobs[i].branch for i in drawn]
        if not branches or len(branches) > engine.max_rows:
            return
        packed = self._pack(branches)
        if packed is None:
            return
        batch, fresh = packed
        whole = drawn == list(range(len(jobs)))
        tokens = sampled.on_device
        batch.drawn = tokens if whole else tokens[_index(drawn, tokens)]
        try:
            with torch.no_grad():
                output = engine.forward(batch, engine.memory.pool, engine.pulse)
        except Exception:  # given up for a command, or failed: then the step's own pass says so
            return
        places = {branch.seq: row for row, branch in enumerate(branches)}
        overrides = [branch.override for branch in branches]
        turns = engine.memory.pages.turns
        taken = {page: turns[page] for page in fresh.values()}
        engine.memory.promised = fresh
        self._guess = Guess(places, overrides, drawn, batch, output, taken)

    def landed(self, draws: Draws) -> None:
        """The tokens that the guess runs."""
        if self._guess is not None:
            ids = [draws.rows[i].token for i in self._guess.drawn]
            self._guess.batch.token_ids = torch.tensor(ids, dtype=torch.int64)
            self._guess.landed = True

    def drop(self) -> None:
        """Whatever was guessed is not wanted any more."""
        self._guess = None
        self._engine.memory.promised = {}

    def take(self, packed: Packed) -> ForwardOutput | None:
        """The results of `packed`, when it has been guessed. A guess serves one step."""
        guess = self._guess
        self.drop()
        if guess is None:
            return None
        rows = _match(guess, packed) if guess.landed else None
        turns = self._engine.memory.pages.turns
        if rows is not None and any(turns[p] > was + 1 for p, was in guess.fresh.items()):
            rows = None  # somebody else had a page in between
        if rows is None:
            self.misses += 1
            self._wrong += 1
            self._rest = min(RESTS, 2**self._wrong - 1)
            return None
        self.hits += 1
        self._wrong = 0
        output = guess.output
        if len(rows) == guess.batch.rows:
            return output
        logits = output.logits[_index(rows, output.logits)]
        return ForwardOutput(logits, {}, _Some(output.routing, rows))

    def _goes_on(self, job: Generate) -> bool:
        """Nothing known now ends the decode with the token being drawn."""
        most, branch = job.until.max_tokens, job.branch
        return (most is None or len(job.tokens) + 1 < most) and (
            branch.seen + 1 < self._engine.limit
        )

    def _pack(self, branches: Sequence[Branch]) -> tuple[ForwardBatch, dict[SeqId, int]] | None:
        """The pass, but for its token ids, and the new pages of branches that need one. None when
        it is not certain where an entry will lie."""
        memory, size, count = self._engine.memory, self._engine.memory.page_size, len(branches)
        places = [branch.length // size for branch in branches]
        new = sum(p == len(b.pages) for p, b in zip(places, branches, strict=True))
        if not memory.make_room(new):  # idle pages go a step early: a guess must not write to them
            return None
        fresh, promised = memory.pages.peek(new), {}
        tables = np.zeros((count, max(places) + 1), np.int64)
        for table, branch, place in zip(tables, branches, places, strict=True):
            held = len(branch.pages)
            table[:held] = branch.table[:held]
            if place == held:
                table[place] = promised[branch.seq] = fresh.pop(0)
            elif not memory.writable(branch.pages[place]) or memory.pages.kept[branch.pages[place]]:
                return None
        lengths = np.array([branch.length for branch in branches], np.int64)
        slots = tables[np.arange(count), places] * size + lengths % size
        batch = ForwardBatch(
            token_ids=torch.zeros(count, dtype=torch.int64),
            positions=torch.tensor([branch.next_position for branch in branches]),
            slots=torch.from_numpy(slots),
            query_start=torch.arange(count + 1),
            kv_lens=torch.from_numpy(lengths + 1),
            block_tables=torch.from_numpy(tables),
            logit_rows=torch.arange(count),
            routing=self._engine.record_routing,
        )
        if any(branch.override is not PLAIN for branch in branches):
            batch.overrides = [branch.override for branch in branches]
        return batch, promised


class _Some(Sequence[Routing]):
    """Router choices of some rows, looked up when somebody asks."""

    def __init__(self, routing: Sequence[Routing], rows: list[int]) -> None:
        self._routing, self._rows = routing, rows

    def __len__(self) -> int:
        return len(self._routing)

    def __getitem__(self, index: Any) -> Any:
        r = self._routing[index]
        return Routing(r.layer, r.experts[self._rows], r.weights[self._rows])


def _index(rows: list[int], like: Tensor) -> Tensor:
    """`rows` where `like` lies; the host waits for nothing."""
    index = torch.tensor(rows)
    return index.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else index


def _usual(job: Generate) -> bool:
    """Its next pass runs one token, at the end of what its branch has stored."""
    branch = job.branch
    return (
        branch.job is job
        and isinstance(job.feedback, TokenFeedback)
        and not job.hidden_layers
        and branch.stored == branch.length
        and branch.split == ALL
        and not branch.reading
        and branch.saved is None
        and branch.island is None
    )


def _match(guess: Guess, packed: Packed) -> list[int] | None:
    """The guess's row of each row of `packed`; None when one of them differs."""
    ours, batch = guess.batch, packed.batch
    if batch.tokens != batch.rows or len(batch.logit_rows) != batch.rows:
        return None
    if batch.attached or batch.vectors is not None or batch.hidden_layers:
        return None
    rows = [guess.places.get(row.branch.seq, -1) for row in packed.rows]
    if min(rows) < 0 or batch.routing != ours.routing:
        return None
    for row, mine in zip(packed.rows, rows, strict=True):
        if row.branch.override is not guess.overrides[mine]:
            return None
    pairs = (
        (batch.token_ids, ours.token_ids), (batch.positions, ours.positions),
        (batch.slots, ours.slots), (batch.kv_lens, ours.kv_lens),
    )  # fmt: skip
    if not all(np.array_equal(theirs.numpy(), mine.numpy()[rows]) for theirs, mine in pairs):
        return None
    tables, guessed = batch.block_tables.numpy(), ours.block_tables.numpy()[rows]
    width = min(tables.shape[1], guessed.shape[1])
    same = np.array_equal(tables[:, :width], guessed[:, :width])
    return rows if same and not tables[:, width:].any() else None
