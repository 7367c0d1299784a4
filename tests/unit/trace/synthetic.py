"""SYNTHETIC traces: made up by a small simulator, no model behind them. For tests and benchmarks
only.

`tim_run(tokens)` is a reasoning tree like TIM's with tools and prunes over paged memory, as a list
of events. The simulator keeps plain lists of what is resident where, so that tests can compare the
tables with it. Run as a script it writes a trace file:

    python -m tests.unit.trace.synthetic --tokens 100000 --out synthetic.wbt
"""

import argparse
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from workbench import events as ev
from workbench.words import (
    Field,
    Finish,
    FreeReason,
    NodeId,
    NodeKind,
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


@dataclass
class _Frame:
    node: int
    path: str
    depth: int
    owner: int
    children: int = 0
    wanted: int = 0


class TimRun:
    """A tree grown in one branch, its subtask lists pruned as they close."""

    def __init__(
        self, tokens: int, threshold: int = 0, forks: bool = False, **options: int
    ) -> None:
        self.sim = Simulator(**options)
        self.limit = tokens
        self.threshold = threshold
        self.forks = forks
        self.closed_lists: list[tuple[int, int, int]] = []  # node, start, stop: not pruned yet
        sim = self.sim
        sim.emit(ev.RequestOpened(sim.step, sim.t, RequestId(0), "SYNTHETIC tree", "tim", "{}", 0))
        self.branch = sim.open([sim.random.randrange(40, VOCABULARY) for _ in range(64)])

    def run(self) -> list[ev.Event]:
        sim = self.sim
        root = self._node(None, "", 0, 0, NodeKind.ROOT)
        top = 0
        start = len(self.branch.tokens)
        while len(self.branch.tokens) < self.limit:
            top += 1
            self._task(root, str(top), 1, (top - 1) % 12 + 1, (top - 1) // 12)
        self._close(root, start, len(self.branch.tokens))
        sim.emit(ev.RequestEnded(sim.step, sim.t, RequestId(0), Finish.STOP, "forty-two", ""))
        sim.drop(self.branch, FreeReason.ENDED)
        return sim.events

    def _write(self, n: int, *, structure: bool = False) -> tuple[int, int]:
        start = len(self.branch.tokens)
        for _ in range(n):
            token = (
                self.sim.random.choice(STRUCTURE)
                if structure
                else self.sim.random.randrange(40, VOCABULARY)
            )
            self.sim.sample([self.branch], [token])
        return start, len(self.branch.tokens)

    def _node(self, parent: int | None, path: str, owner: int, lap: int, kind: NodeKind) -> int:
        sim = self.sim
        node = sim.next_node
        sim.next_node += 1
        sim.emit(
            ev.NodeOpened(
                sim.step,
                NodeId(node),
                None if parent is None else NodeId(parent),
                SeqId(self.branch.seq),
                RequestId(0),
                kind,
                path,
                len(self.branch.tokens),
                owner,
                lap,
            )
        )
        return node

    def _field(self, node: int, which: Field, span: tuple[int, int]) -> None:
        self.sim.emit(
            ev.FieldSpanned(self.sim.step, NodeId(node), SeqId(self.branch.seq), which, *span)
        )

    def _task(self, parent: int, path: str, depth: int, owner: int, lap: int) -> None:
        sim, chance = self.sim, self.sim.random
        node = self._node(parent, path, owner, lap, NodeKind.TASK)
        self._write(2, structure=True)
        thought = self._write(chance.randrange(12, 40))
        self._field(node, Field.THOUGHT, thought)
        words = b"".join(text_of(t) for t in self.branch.tokens[thought[0] : thought[0] + 6])
        sim.emit(ev.NodeTitled(sim.step, NodeId(node), words.decode().strip()))
        if depth < 4 and chance.random() < (1.0, 0.9, 0.6, 0.25)[depth]:
            self._write(2, structure=True)
            start = len(self.branch.tokens)
            for child in range(chance.randrange(2, 5)):
                self._task(node, f"{path}.{child + 1}", depth + 1, owner, lap)
            span = (start, len(self.branch.tokens))
        else:
            span = None
            if chance.random() < 0.6:
                self._tool(node)
        if self.forks and chance.random() < 0.2:
            self._side_branch()
        self._write(2, structure=True)
        conclusion = self._write(chance.randrange(6, 20))
        self._field(node, Field.CONCLUSION, conclusion)
        self._write(1, structure=True)
        self._close(node, *(span or (0, 0)))

    def _tool(self, node: int) -> None:
        sim = self.sim
        call = self._write(8)
        self._field(node, Field.CALL, call)
        sim.emit(
            ev.ToolCalled(
                sim.step,
                sim.t,
                NodeId(node),
                SeqId(self.branch.seq),
                node,
                "lookup",
                json.dumps({"key": f"k{node}"}),
            )
        )
        sim.emit(ev.Waited(sim.step, sim.t, 0.05, "tool"))
        sim.t += 0.05
        sim.emit(
            ev.ToolReturned(
                sim.step,
                sim.t,
                NodeId(node),
                SeqId(self.branch.seq),
                node,
                True,
                json.dumps({"value": node}),
                0.05,
            )
        )
        start = len(self.branch.tokens)
        sim.feed(
            self.branch,
            [sim.random.randrange(40, VOCABULARY) for _ in range(12)],
            Origin.TOOL,
            Phase.EXTEND,
        )
        self._field(node, Field.RESULT, (start, len(self.branch.tokens)))

    def _side_branch(self) -> None:
        sim = self.sim
        other = sim.fork(self.branch)
        for _ in range(sim.random.randrange(3, 24)):
            sim.sample([other], [sim.random.randrange(40, VOCABULARY)])
        sim.drop(other)

    def _close(self, node: int, start: int, stop: int) -> None:
        sim = self.sim
        if start < stop:
            sim.emit(ev.ListSpanned(sim.step, NodeId(node), SeqId(self.branch.seq), start, stop))
            self.closed_lists.append((node, start, stop))
        sim.emit(
            ev.NodeClosed(sim.step, NodeId(node), len(self.branch.tokens), f"concluded {node}")
        )
        while len(self.closed_lists) > self.threshold:
            owner, first, last = self.closed_lists.pop(0)
            sim.prune(self.branch, first, last, owner)


def tim_run(
    tokens: int, *, threshold: int = 0, forks: bool = False, **options: int
) -> list[ev.Event]:
    """Events of a SYNTHETIC tree of at least `tokens` stream tokens. Options as of `Simulator`."""
    return TimRun(tokens, threshold, forks, **options).run()


def main() -> None:
    from workbench.trace import Recorder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--experts", type=int, default=0)
    parser.add_argument("--threshold", type=int, default=0)
    parser.add_argument("--pages", type=int, default=256)
    parser.add_argument("--forks", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    recorder = Recorder(asked.out, text_of)
    for event in tim_run(
        asked.tokens,
        threshold=asked.threshold,
        forks=asked.forks,
        experts=asked.experts,
        pages=asked.pages,
    ):
        recorder.emit(event)
    recorder.close()


if __name__ == "__main__":
    main()
