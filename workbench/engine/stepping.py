"""The three acts of a step: choose who runs, launch the pass, settle what it gave."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.engine import scheduler
from workbench.engine.batch import Packed, Row, pack
from workbench.engine.drawing import draw_all
from workbench.engine.errors import PoolTooSmall, StepFailed
from workbench.engine.jobs import Advance, Generate
from workbench.engine.scheduler import Candidate, Plan, Room, Victim
from workbench.engine.sequence import ALL, Branch
from workbench.events import Routed, StepEnded
from workbench.forward import Abandoned, ForwardOutput
from workbench.words import Finish, Phase, SeqId

if TYPE_CHECKING:
    from workbench.engine.engine import Engine


@dataclass(slots=True, eq=False)
class Choice:
    """What the step will do: the plan's runs, and branches whose logits wait to be drawn from."""

    plan: Plan
    drawn: list[Generate]
    waiting: int  # branches that wanted to run and could not
    plan_s: float

    @property
    def empty(self) -> bool:
        return not self.plan.runs and not self.drawn


@dataclass(slots=True, eq=False)
class Flight:
    choice: Choice
    packed: Packed | None
    output: ForwardOutput | None
    forward_s: float


# ---- choose ----


def choose(engine: "Engine") -> Choice:
    """Plan until something can run, or nothing can: taking pages from a branch changes the plan."""
    began = engine.clock()
    barred: set[int] = set()  # gave their pages up for this step; they would only take them back
    while True:
        drawn, candidates = _wishes(engine, barred)
        victims = _victims(engine, candidates)
        held = 0
        if not victims and not drawn:
            candidates, held = engine.ahead.hold(candidates)
        plan = scheduler.plan(candidates, victims, _room(engine))
        for seq in plan.preempt:
            engine.preempt(engine.memory.branches[SeqId(seq)])
            barred.add(seq)
        if plan.starved is not None:
            _starve(engine, engine.memory.branches[SeqId(plan.starved)])
            barred.clear()  # the others may go on without it
        if plan.runs or drawn or not (plan.preempt or plan.starved is not None):
            waiting = len(plan.waiting) + len(barred) + held
            return Choice(plan, drawn, waiting, engine.clock() - began)


def _wishes(engine: "Engine", barred: set[int]) -> tuple[list[Generate], list[Candidate]]:
    drawn: list[Generate] = []
    candidates: list[Candidate] = []
    entry = _Entry(engine)
    claims: set[tuple[int, tuple[int, ...]]] = set()
    for seq in sorted(engine.active) if len(engine.active) > 1 else list(engine.active):
        branch = engine.active[seq]
        job = branch.job
        if job is None:
            del engine.active[seq]
            continue
        if seq in barred:
            continue
        if isinstance(job, Generate) and branch.seen >= engine.limit:
            job.finish(Finish.LENGTH, f"the window of {engine.limit} tokens is full")
            continue
        if branch.logits is not None and all(layer in branch.hidden for layer in job.hidden_layers):
            if isinstance(job, Generate):
                drawn.append(job)
            elif isinstance(job, Advance):
                job.finish()
            continue
        late = [r.branch for r in branch.reading if r.branch.pending > 1 and not r.branch.job]
        if late:  # idle branches whose cache it reads must catch up first
            seqs = {candidate.seq for candidate in candidates}
            candidates.extend(_candidate(engine, one) for one in late if one.seq not in seqs)
            continue
        if not branch.pending:
            branch.stored -= 1  # run the last one again, for its logits
        if not branch.pages and not entry.admits(branch, first=not (candidates or drawn)):
            barred.add(seq)
            continue
        placed = branch.pending > 1 and len(candidates) < engine.max_rows
        if placed and not _find(engine, branch, claims):
            continue
        candidates.append(_candidate(engine, branch))
    return drawn, candidates


class _Entry:
    """Lets branches without pages in only where all they hold fits beside what runs: else they
    would take pages for a chunk, lose them to an older branch, and begin again. The oldest
    always may."""

    def __init__(self, engine: "Engine") -> None:
        self._memory = engine.memory
        self._left: int | None = None  # pages, counted when first asked

    def admits(self, branch: Branch, *, first: bool) -> bool:
        if self._left is None:
            self._left = self._memory.available
        need = branch.pages_for(branch.length, self._memory.page_size)
        if need > self._left and not first:
            return False
        self._left -= need
        return True


def _find(engine: "Engine", branch: Branch, claims: set[tuple[int, tuple[int, ...]]]) -> bool:
    """Take what the prefix cache has. False: an older branch is computing this branch's next
    page in this very step, so waiting for it is cheaper than computing it twice."""
    memory = engine.memory
    found = memory.match(branch)
    claim = None
    stored = branch.stored + len(found) * memory.page_size
    if memory.continues(branch) and stored + memory.page_size <= min(
        branch.pure, branch.length - 1
    ):
        node = found[-1] if found else branch.chain
        claim = (id(node), memory.key(branch, stored))
        if claim in claims:
            return False
        claims.add(claim)
    engine.ledger.opened(branch, len(found) * memory.page_size)
    memory.take(branch, found)
    engine.requests[branch.request].reused += len(found) * memory.page_size
    return True


def _candidate(engine: "Engine", branch: Branch) -> Candidate:
    size, stored = engine.memory.page_size, branch.stored
    todo = branch.pending
    if todo == 1 and stored % size and branch.split == ALL and branch.saved is None:
        page = branch.pages[stored // size]  # begun: the usual decode
        extra = 0 if engine.memory.writable(page) else 1
        return Candidate(branch.seq, stored, 1, stored, len(branch.pages), extra)
    if stored < branch.split < branch.length:
        todo = branch.split - stored  # what lies behind the split is a run of its own
    if branch.island is not None:
        todo = branch.island[0] - stored
    return Candidate(
        branch.seq, stored, todo, branch.place(stored, size), len(branch.pages),
        engine.memory.extra(branch), sampled=todo == 1,
    )  # fmt: skip


def _victims(engine: "Engine", candidates: Sequence[Candidate]) -> list[Victim]:
    """Branches that could give up pages; empty while there is no need to ask."""
    memory, size = engine.memory, engine.memory.page_size
    need = sum(c.need(min(c.todo, engine.chunk), size) for c in candidates)
    if need <= memory.pages.free or need <= memory.available:
        return []
    wanting = {c.seq for c in candidates}
    return [
        Victim(
            branch.seq,
            sum(memory.pages.refcount[page] == 1 for page in branch.pages),
            branch.seq not in wanting,
        )
        for branch in sorted(memory.branches.values(), key=lambda b: b.seq)
        if engine.movable(branch)
    ]


def _room(engine: "Engine") -> Room:
    memory = engine.memory
    return Room(memory.available, memory.page_size, engine.max_rows, engine.chunk)


def _starve(engine: "Engine", branch: Branch) -> None:
    pages = engine.memory.pages
    need = branch.pages_for(branch.length, engine.memory.page_size)
    why = (
        f"{branch!r} needs {need} pages for its {branch.length} tokens; the pool has "
        f"{pages.pages}, of which {len(pages.pinned)} are pinned: give the pool more pages, unpin "
        "some, or prune"
    )
    readers = [b for b in engine.active.values() if any(r.branch is branch for r in b.reading)]
    for one in [branch, *readers] if branch.job is None else [branch]:
        if one.job is not None:
            one.job.fail(PoolTooSmall(why))


# ---- launch ----


def launch(engine: "Engine", choice: Choice) -> Flight | None:
    """Put the runs' pages in place and run the pass. None when it was given up: nothing of it
    counts."""
    runs = choice.plan.runs
    if not runs:
        return Flight(choice, None, None, 0.0)
    memory = engine.memory
    rows = []
    for run in runs:
        branch = memory.branches[SeqId(run.seq)]
        engine.ledger.opened(branch, 0)
        memory.write(branch, run.stop)
        engine.ledger.restored(branch)
        rows.append(Row(branch, run.start, run.stop))
    flight = _run(engine, choice, rows)
    if flight is None:
        engine.lookup.drop(rows)
    return flight


def _run(engine: "Engine", choice: Choice, rows: list[Row]) -> Flight | None:
    memory = engine.memory
    began = engine.clock()
    try:
        with torch.no_grad():
            guessed = engine.ahead.take(rows)
            if engine.lookup.draft(rows):
                guessed = None
            if guessed is None:
                packed = pack(rows, memory, engine.record_routing)
                output = engine.forward(packed.batch, memory.pool, engine.pulse)
            else:
                packed, output = guessed
    except Abandoned:
        engine.control.abandoned = True
        return None
    except Exception as error:
        for row in rows:
            if row.branch.job is not None:
                failure = StepFailed(f"the forward pass failed: {error!r}")
                failure.__cause__ = error
                row.branch.job.fail(failure)
        return None
    engine.control.abandoned = False
    return Flight(choice, packed, output, engine.clock() - began)


# ---- settle ----


def settle(engine: "Engine", flight: Flight) -> None:
    """Book what was stored, draw the next tokens, answer who is done, tell it all."""
    counts = [0, 0, 0, 0]
    drawn = list(flight.choice.drawn)
    if flight.packed is not None and flight.output is not None:
        logits = flight.output.logits.unbind(0)
        for row in flight.packed.rows:
            _book(engine, row, flight.output, logits, counts)
            job = row.branch.job
            if row.branch.logits is not None and isinstance(job, Generate):
                drawn.append(job)
    began = engine.clock()
    grammar_s, sampled = 0.0, 0
    if drawn:
        rows = flight.packed.rows if flight.packed is not None else []
        whole = flight.output.logits if flight.output is not None else None
        waited = bool(flight.choice.drawn)
        grammar_s, sampled = draw_all(engine, drawn, rows, whole, waited, counts)
    sample_s = engine.clock() - began - grammar_s
    if flight.output is not None:
        _answer(flight)
        _tell_routing(engine, flight.output)
    _tell_step(engine, flight, counts, sampled, sample_s, grammar_s)


def _book(
    engine: "Engine", row: Row, output: ForwardOutput, logits: Sequence[Tensor], counts: list[int]
) -> None:
    branch, job = row.branch, row.branch.job
    n = row.stop - row.start
    if n == 1:
        counts[branch.phase_of(branch.resident[row.start])] += 1
    else:
        for index in branch.resident[row.start : row.stop]:
            counts[branch.phase_of(index)] += 1
    engine.memory.commit(branch, row.stop)
    branch.encoded = max(branch.encoded, branch.resident[row.stop - 1] + 1)
    engine.requests[branch.request].computed += n
    first, past = row.logits
    if isinstance(job, Advance) and row.scored:
        rows = output.logits[first : first + row.scored]
        begin = max(row.start, branch.entry(job.start) - 1) + 1
        ids = [branch.tokens[i] for i in branch.resident[begin : begin + row.scored]]
        job.logprobs.append(_logprobs(rows, ids))
    wanted = job.hidden_layers if job is not None else ()
    hidden = {layer: output.hidden[layer][row.hidden[0] : row.hidden[1]] for layer in wanted}
    if isinstance(job, Advance):
        for layer in wanted:
            job.hidden.setdefault(layer, []).append(hidden[layer])
    branch.logits = None
    if past > first and branch.stored == branch.length:
        branch.logits = logits[past - 1 - len(row.drafted)]
        branch.hidden = {layer: hidden[layer][-1] for layer in wanted}


def _logprobs(logits: Tensor, ids: list[int]) -> Tensor:
    chosen = torch.tensor(ids, device=logits.device)[:, None]
    return torch.log_softmax(logits.float(), -1).gather(1, chosen)[:, 0].cpu()


def _answer(flight: Flight) -> None:
    assert flight.packed is not None and flight.output is not None
    several = flight.output.logits.shape[0] > 1
    for row in flight.packed.rows:
        branch, job = row.branch, row.branch.job
        if isinstance(job, Advance) and branch.logits is not None and not branch.pending:
            if several:
                branch.logits = branch.logits.clone()  # not to keep the whole batch's alive
            job.finish()


# ---- tell ----


def _tell_routing(engine: "Engine", output: ForwardOutput) -> None:
    for routing in output.routing:
        engine.tell(
            Routed(
                engine.now,
                routing.layer,
                routing.experts.shape[1],
                tuple(routing.experts.flatten().tolist()),
                tuple(routing.weights.flatten().tolist()),
            )
        )


def _tell_step(
    engine: "Engine",
    flight: Flight,
    counts: list[int],
    sampled: int,
    sample_s: float,
    grammar_s: float,
) -> None:
    choice, pages = flight.choice, engine.memory.pages
    rows = len(flight.packed.rows) if flight.packed is not None else sampled
    phase = Phase(counts.index(max(counts))) if any(counts) else Phase.DECODE
    engine.ledger.count_peaks()
    engine.tell(
        StepEnded(
            step=engine.now,
            t=engine.began,
            seconds=engine.t() - engine.began,
            phase=phase,
            rows=rows,
            prefill=counts[Phase.PREFILL],
            decode=counts[Phase.DECODE],
            extend=counts[Phase.EXTEND],
            reencode=counts[Phase.REENCODE],
            sampled=sampled,
            resident=pages.resident,
            pages_held=pages.held,
            waiting=choice.waiting,
            plan_s=choice.plan_s,
            forward_s=flight.forward_s,
            sample_s=sample_s,
            grammar_s=grammar_s,
        )
    )
