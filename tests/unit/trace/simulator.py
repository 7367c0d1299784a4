"""A SYNTHETIC engine for tests of the trace: plain lists of what is resident where, no model behind
them.
"""

import random
from dataclasses import dataclass, field

from workbench import events as ev
from workbench.words import (
    FreeReason,
    NodeId,
    Origin,
    PageId,
    Phase,
    PruneMode,
    RequestId,
    SeqId,
    Step,
)

WORDS = (
    "the sum of two paths is less than all that we know so far and so it must follow here now then "
    "key value look up next link chain step find check total five seven nine eleven twelve"
).split()
VOCABULARY = 2000
STRUCTURE = range(10, 40)


def text_of(token: int) -> bytes:
    """The made-up text of a token."""
    if token in STRUCTURE:
        return '{}[]":,'[token % 7].encode()
    return f" {WORDS[token % len(WORDS)]}{'' if token < 400 else token % 97}".encode()


@dataclass
class SimBranch:
    seq: int
    tokens: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)  # stream indexes
    table: list[int] = field(default_factory=list)  # pages by place
    rows: list[int] = field(default_factory=list)  # number of each token, counted over all branches
    memories: list[list[int]] = field(default_factory=list)  # what was resident before each token
    pending: bool = False  # the last token has no K and V
    live: bool = True


class Simulator:
    """Emits consistent facts about branches over paged memory; one method a happening."""

    def __init__(
        self,
        *,
        pages: int = 256,
        page_size: int = 16,
        window: int = 1024,
        layers: int = 4,
        experts: int = 0,
        top: int = 5,
        seed: int = 0,
    ) -> None:
        self.events: list[ev.Event] = []
        self.random = random.Random(seed)
        self.page_size, self.top, self.experts, self.layers = page_size, top, experts, layers
        self.step = Step(0)
        self.t = 0.0
        self.free = list(range(pages - 1, -1, -1))
        self.refcount = [0] * pages
        self.branches: dict[int, SimBranch] = {}
        self.next_node = 0
        self.held: list[set[int]] = []  # pages held after each step
        self.watched = False  # keep what is resident after each step: for small runs
        self.tokens = 0  # told of so far, those encoded again for a fork included
        self.resident: list[set[int]] = []  # numbers of the tokens in memory after each step
        self.counts: list[dict[int, int]] = []  # refcounts of held pages after each step
        self.emit(
            ev.RunStarted(
                self.step,
                "2026-01-01T00:00:00Z",
                "SYNTHETIC (no model)",
                "synthetic",
                page_size,
                pages,
                window,
                window,
                layers,
                experts,
                (2,),
                "{}",
                '{"model":"made up for tests"}',
            )
        )

    def emit(self, event: ev.Event) -> None:
        self.events.append(event)

    # ---- branches and pages ----

    def open(self, prompt: list[int], request: int = 0) -> SimBranch:
        branch = self.branches[len(self.branches)] = SimBranch(len(self.branches))
        self.emit(
            ev.BranchOpened(self.step, self.t, SeqId(branch.seq), RequestId(request), None, 0, 0)
        )
        self.feed(branch, prompt, Origin.PROMPT, Phase.PREFILL)
        return branch

    def fork(self, parent: SimBranch, at: int | None = None, request: int = 0) -> SimBranch:
        """A branch that has in memory what `parent` had before its token `at`. Pages whose entries
        are the same are shared; the rest is computed anew."""
        at = len(parent.tokens) if at is None else at
        now = at == len(parent.tokens)
        memory = list(parent.resident if now else parent.memories[at])
        child = SimBranch(
            len(self.branches),
            parent.tokens[:at],
            memory,
            rows=parent.rows[:at],
            memories=parent.memories[:at],
            pending=now and parent.pending,
        )
        alive = self._alive()
        self.branches[child.seq] = child
        self.emit(
            ev.BranchOpened(
                self.step, self.t, SeqId(child.seq), RequestId(request), SeqId(parent.seq), at, 0
            )
        )
        for index in memory:
            if child.rows[index] not in alive:
                child.rows[index] = self._number()
        stored = len(parent.resident) - parent.pending
        same = 0
        while same < min(len(memory), stored) and memory[same] == parent.resident[same]:
            same += 1
        if not now:
            same -= same % self.page_size
        for place, page in enumerate(parent.table[: -(-same // self.page_size)]):
            self.refcount[page] += 1
            child.table.append(page)
            self.emit(
                ev.PageShared(self.step, PageId(page), SeqId(child.seq), place, self.refcount[page])
            )
        if not now:
            self._store(child, same, len(memory))
            self.end_step(Phase.REENCODE, max(1, len(memory) - same))
        return child

    def edit(self, branch: SimBranch, start: int, tokens: list[int]) -> None:
        """Replace the stream from `start` on by `tokens`; what is resident before it stays."""
        before, end = len(branch.resident), len(branch.tokens)
        kept = [i for i in branch.resident if i < start]
        need = -(-len(kept) // self.page_size)
        for page in branch.table[need:]:
            self._release(branch, page, FreeReason.PRUNED)
        del branch.table[need:]
        branch.resident = kept
        del branch.tokens[start:], branch.rows[start:], branch.memories[start:]
        branch.pending = False
        self.emit(
            ev.Pruned(
                self.step,
                self.t,
                SeqId(branch.seq),
                None,
                start,
                end,
                before - len(kept),
                0,
                0,
                0,
                PruneMode.REENCODE,
                before,
                len(kept) + len(tokens),
                "edit",
            )
        )
        self.feed(branch, tokens, Origin.FED, Phase.EXTEND)

    def _number(self) -> int:
        self.tokens += 1
        return self.tokens - 1

    def _alive(self) -> set[int]:
        return {b.rows[i] for b in self.branches.values() if b.live for i in b.resident}

    def _extend(self, branch: SimBranch, tokens: list[int]) -> None:
        for token in tokens:
            if self.watched:
                branch.memories.append(list(branch.resident))
            branch.resident.append(len(branch.tokens))
            branch.tokens.append(token)
            branch.rows.append(self._number())

    def drop(self, branch: SimBranch, reason: FreeReason = FreeReason.DROPPED) -> None:
        branch.live = False
        self.emit(ev.BranchDropped(self.step, SeqId(branch.seq), "done"))
        while branch.table:
            self._release(branch, branch.table.pop(), reason)
        branch.resident = []

    def _allocate(self, branch: SimBranch) -> int:
        page = self.free.pop()
        self.refcount[page] = 1
        self.emit(ev.PageAllocated(self.step, PageId(page), SeqId(branch.seq), len(branch.table)))
        branch.table.append(page)
        return page

    def _release(self, branch: SimBranch, page: int, reason: FreeReason) -> None:
        self.refcount[page] -= 1
        left = self.refcount[page]
        self.emit(ev.PageReleased(self.step, PageId(page), SeqId(branch.seq), left, reason))
        if not left:
            self.free.append(page)
            self.emit(ev.PageFreed(self.step, PageId(page), reason))

    def _store(self, branch: SimBranch, before: int, after: int) -> None:
        """Entries [before, after) get K and V."""
        size = self.page_size
        place = before // size
        if before % size and self.refcount[branch.table[place]] > 1:
            source = branch.table[place]
            page = self.free.pop()
            self.refcount[page] = 1
            branch.table[place] = page
            self.emit(
                ev.PageCopied(self.step, PageId(source), PageId(page), SeqId(branch.seq), place)
            )
            self._release(branch, source, FreeReason.DROPPED)
        while len(branch.table) * size < after:
            self._allocate(branch)
        for place in range(before // size, -(-after // size)):
            used = min(size, after - place * size)
            if used == size:
                self.emit(
                    ev.PageFilled(self.step, PageId(branch.table[place]), SeqId(branch.seq), size)
                )

    def _fills(self) -> dict[int, int]:
        """Slots taken on each held page: those of the holder that has most on it."""
        size, most = self.page_size, dict[int, int]()
        for branch in self.branches.values():
            stored = len(branch.resident) - branch.pending
            for place, page in enumerate(branch.table):
                most[page] = max(most.get(page, 0), min(size, stored - place * size))
        return most

    # ---- steps ----

    def feed(self, branch: SimBranch, tokens: list[int], origin: Origin, phase: Phase) -> None:
        before = len(branch.resident) - branch.pending
        index = len(branch.tokens)
        self._extend(branch, tokens)
        self.emit(ev.TokensFed(self.step, SeqId(branch.seq), index, origin, tuple(tokens)))
        branch.pending = False
        self._store(branch, before, len(branch.resident))
        self.end_step(phase, len(tokens))

    def sample(self, branches: list[SimBranch], tokens: list[int]) -> None:
        """One decode step: a token a branch."""
        for branch, token in zip(branches, tokens, strict=True):
            if branch.pending:
                self._store(branch, len(branch.resident) - 1, len(branch.resident))
            index = len(branch.tokens)
            draw = self.random.random()
            top = [token] + [self.random.randrange(40, VOCABULARY) for _ in range(self.top - 1)]
            logprobs = [-draw * (i + 0.25) for i in range(self.top)]
            self.emit(
                ev.TokenSampled(
                    self.step,
                    SeqId(branch.seq),
                    index,
                    token,
                    -draw * 0.25,
                    draw * 2.5,
                    tuple(top),
                    tuple(logprobs),
                )
            )
            self._extend(branch, [token])
            branch.pending = True
        self.end_step(Phase.DECODE, len(branches), sampled=len(branches))

    def end_step(self, phase: Phase, computed: int, sampled: int = 0) -> None:
        if self.experts:
            for layer in range(self.layers):
                chosen = tuple(
                    self.random.randrange(self.experts) for _ in range(2 * min(computed, 64))
                )
                self.emit(ev.Routed(self.step, layer, 2, chosen, (0.5,) * len(chosen)))
        seconds = 0.008 + 0.0002 * computed
        fills = self._fills()
        held, resident = set(fills), sum(fills.values())
        counts = {p: computed if p is phase else 0 for p in Phase}
        self.emit(
            ev.StepEnded(
                self.step,
                self.t,
                seconds,
                phase,
                max(1, sampled),
                counts[Phase.PREFILL],
                counts[Phase.DECODE],
                counts[Phase.EXTEND],
                counts[Phase.REENCODE],
                sampled,
                resident,
                len(held),
                0,
                0.0001,
                seconds - 0.0004,
                0.0002,
                0.0001,
            )
        )
        self.held.append(held)
        if self.watched:
            self.resident.append(self._alive())
            self.counts.append({page: self.refcount[page] for page in held})
        self.t += seconds
        self.step = Step(self.step + 1)

    def prune(self, branch: SimBranch, start: int, stop: int, node: int | None) -> None:
        """Stream tokens [start, stop) leave; survivors behind them are encoded again."""
        before = list(branch.resident)
        gone = [i for i in before if start <= i < stop]
        if not gone:
            return
        hole = before.index(gone[0])
        branch.resident = [i for i in before if not start <= i < stop]
        behind = len(branch.resident) - hole
        held_before = len(branch.table)
        keep = -(-hole // self.page_size)
        freed = branch.table[keep:]
        del branch.table[keep:]
        for page in freed:
            self._release(branch, page, FreeReason.PRUNED)
        need = -(-len(branch.resident) // self.page_size)
        reencoded = max(0, behind - branch.pending)
        self.emit(
            ev.Pruned(
                self.step,
                self.t,
                SeqId(branch.seq),
                None if node is None else NodeId(node),
                start,
                stop,
                len(gone),
                reencoded,
                0,
                held_before - need,
                PruneMode.REENCODE,
                len(before),
                len(branch.resident),
                "threshold",
            )
        )
        branch.pending = False
        self._store(branch, hole, len(branch.resident))
        self.end_step(Phase.REENCODE, behind)
