"""SYNTHETIC traces: made up by a small simulator, no model behind them. For tests and benchmarks
only.

`tim_run(tokens)` is a reasoning tree like TIM's with tools and prunes over paged memory, as a list
of events. The simulator keeps plain lists of what is resident where, so that tests can compare the
tables with it. Run as a script it writes a trace file:

    python -m tests.unit.trace.synthetic --tokens 100000 --out synthetic.wbt
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from tests.unit.trace.simulator import STRUCTURE, VOCABULARY, Simulator, text_of
from workbench import events as ev
from workbench.words import (
    Field,
    Finish,
    FreeReason,
    NodeId,
    NodeKind,
    Origin,
    Phase,
    RequestId,
    SeqId,
)

__all__ = ["TimRun", "text_of", "tim_run"]


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
