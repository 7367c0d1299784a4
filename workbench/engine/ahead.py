"""The pass after this one, launched while this one's tokens are on their way to the host.

A guess: each branch that draws now runs its token in the next step. That pass is launched with the
tokens where they were drawn, before anybody has read them; masks are filled, events told and the
next step planned meanwhile. The next step takes the results of a guess that turns out to be what
it wants to run, row by row; of rows that have ended, nothing is taken. Nothing else follows from a
guess: tokens, pages and events are the steps' own. What a wrong one wrote lies in slots where
nothing was stored. For backends that draw where they compute (`Forward.ahead`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from workbench.engine.batch import Packed, Row, decodes
from workbench.engine.jobs import Generate
from workbench.engine.protocols import TokenFeedback
from workbench.engine.sampler import Draws
from workbench.engine.scheduler import Candidate
from workbench.engine.sequence import ALL, Branch
from workbench.forward import Abandoned, ForwardBatch, ForwardOutput, Override, Routing
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
    lengths: list[int]  # entries stored before, of each row
    positions: list[int]
    overrides: list[Override]
    drawn: list[int]
    batch: ForwardBatch
    output: ForwardOutput
    pages: list[list[int]]  # of each row, a new one included
    fresh: dict[int, int]  # new pages -> how often each had been taken
    tokens: list[int] = field(default_factory=list)  # what the rows run, once it is known

    def find(self, row: Row) -> int:
        """The guess's row that runs what `row` does; -1 where none is known to."""
        branch, job = row.branch, row.branch.job
        mine = self.places.get(branch.seq, -1)
        return (
            mine
            if (
                mine >= 0
                and row.start == self.lengths[mine]
                and row.stop == len(branch.resident) == row.start + 1
                and branch.tokens[branch.resident[-1]] == self.tokens[mine]
                and branch.pages == self.pages[mine]
                and branch.override is self.overrides[mine]
                and isinstance(job, Generate)
                and (branch.positions is None or branch.positions[-1] == self.positions[mine])
                and not (job.hidden_layers or branch.vectors or branch.reading)
                and branch.split == ALL
            )
            else -1
        )


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
        batch, fresh, pages = packed
        whole = drawn == list(range(len(jobs)))
        tokens = sampled.on_device
        batch.drawn = tokens if whole else tokens[_index(drawn, tokens)]
        try:
            with torch.no_grad():
                output = engine.forward(batch, engine.memory.pool, engine.pulse)
        except Abandoned:
            engine.control.abandoned = True
            return
        except Exception:  # the step's own pass fails too, and says so, or makes good
            return
        places = {branch.seq: row for row, branch in enumerate(branches)}
        overrides = [branch.override for branch in branches]
        turns = engine.memory.pages.turns
        taken = {page: turns[page] for page in fresh.values()}
        engine.memory.promised = fresh
        lengths, positions = batch.kv_lens - 1, batch.positions
        self._guess = Guess(
            places, lengths.tolist(), positions.tolist(), overrides, drawn, batch, output, pages,
            taken,
        )  # fmt: skip

    def landed(self, draws: Draws) -> None:
        """The tokens that the guess runs."""
        if self._guess is not None:
            self._guess.tokens = [draws.rows[i].token for i in self._guess.drawn]

    def drop(self) -> None:
        """Whatever was guessed is not wanted any more."""
        self._guess = None
        self._engine.memory.promised = {}

    def take(self, rows: Sequence[Row]) -> tuple[Packed, ForwardOutput] | None:
        """The results of `rows`, when they have been guessed. A guess serves one step."""
        guess = self._guess
        self.drop()
        if guess is None:
            return None
        found = [guess.find(row) for row in rows] if guess.tokens else [-1]
        turns = self._engine.memory.pages.turns
        used = any(turns[p] > was + 1 for p, was in guess.fresh.items())  # by somebody in between
        if used or min(found) < 0:
            self.misses += 1
            self._wrong += 1
            self._rest = min(RESTS, 2**self._wrong - 1)
            return None
        self.hits += 1
        self._wrong = 0
        for place, row in enumerate(rows):
            row.logits = (place, place + 1)
        packed, output = Packed(list(rows), guess.batch), guess.output
        if found == list(range(guess.batch.rows)):
            return packed, output
        logits = output.logits[_index(found, output.logits)]
        return packed, ForwardOutput(logits, {}, _Some(output.routing, found))

    def _goes_on(self, job: Generate) -> bool:
        """Nothing known now ends the decode with the token being drawn."""
        most, branch = job.until.max_tokens, job.branch
        return (most is None or len(job.tokens) + 1 < most) and (
            branch.seen + 1 < self._engine.limit
        )

    def _pack(
        self, branches: Sequence[Branch]
    ) -> tuple[ForwardBatch, dict[SeqId, int], list[list[int]]] | None:
        """The pass, but for its token ids; the new pages of branches that need one; and all pages
        of each. None when it is not certain where an entry will lie."""
        memory, size, count = self._engine.memory, self._engine.memory.page_size, len(branches)
        lengths = [len(branch.resident) for branch in branches]
        new = sum(n == size * len(b.pages) for n, b in zip(lengths, branches, strict=True))
        if not memory.make_room(new):  # idle pages go a step early: a guess must not write to them
            return None
        fresh, promised = memory.pages.peek(new), {}
        pages: list[list[int]] = []
        tables = np.zeros((count, max(lengths) // size + 1), np.int64)
        for table, branch, length in zip(tables, branches, lengths, strict=True):
            own = branch.pages.copy()
            table[: len(own)] = branch.table[: len(own)]
            if length == size * len(own):
                table[len(own)] = promised[branch.seq] = page = fresh.pop(0)
                own.append(page)
            elif not memory.writable(own[-1]) or memory.pages.kept[own[-1]]:
                return None
            pages.append(own)
        stored = np.array(lengths, np.int64)
        batch = decodes(
            branches, torch.zeros(count, dtype=torch.int64),
            torch.tensor([branch.next_position for branch in branches]), stored,
            torch.from_numpy(tables), size, self._engine.record_routing,
        )  # fmt: skip
        return batch, promised, pages


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
