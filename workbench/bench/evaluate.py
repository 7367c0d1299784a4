"""Many problems through one engine at once: rows as they end, and cells over them.

A worker keeps `slots` runs in the batch and appends a row to a file whenever one ends, so that a
killed evaluation goes on where it stopped. Workers share a plan without talking: each takes every
n-th problem, in all arms, since a window's size comes from the tree's run on the same problem.
"""

import json
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from workbench.bench.arms import (
    Cell,
    Item,
    few_shots,
    params_for,
    pieces_of,
    slip,
    tools_for,
)
from workbench.bench.eval_rows import CUT, FAILED, Row, counts
from workbench.bench.rows import processor
from workbench.session import Session
from workbench.session.context import RunContext
from workbench.session.run import Run, RunFailed
from workbench.tasks.catalogue import right
from workbench.tasks.gold import Problem
from workbench.tasks.measures import followed
from workbench.tools.contract import Tool
from workbench.words import Field, Finish

TRIES = 8  # runs that may fail one after the other before the evaluation does
LOOK_S, CANCEL_S, BESIDE_S, NOTE_S = 0.05, 30.0, 2.0, 60.0
SELDOM = 50  # a note takes at most one second of so many
NOTES = 4000
RUNNING = "running"  # the finish of a row that tells how far a run has come
FULL = "WindowFull"  # how a run fails that went astray until its window was full: a wrong answer


@dataclass(slots=True)
class _Flight:
    item: Item
    problem: Problem
    run: Run
    began: float
    share_s: float = 0.0  # of the worker's time: each interval is split among the runs in it
    curve: list[list[int]] = field(default_factory=list)  # [stream tokens, tokens in memory]
    looks: int = 0
    stride: int = 1  # looks a note
    noted: tuple[float, int] = (0.0, 0)  # seconds and sampled tokens at the last note

    def note(self, now: float) -> str:
        """How far it has come, and how fast since the last time."""
        counts, (since, before) = self.run.counts(), self.noted
        rate = (counts["sampled"] - before) / max(now - max(since, self.began), 1e-9)
        self.noted = now, counts["sampled"]
        held = sum(branch.stored for branch in list(self.run.contexts[0].branches.values()))
        return (
            f"{self.item.key}: {counts['sampled']:,} sampled, {rate:.0f} tok/s,"
            f" {held:,} in memory, {counts['nodes']:,} nodes"
        )

    def look(self) -> None:
        """Note how much is in memory; when there are too many notes, every second one goes and
        half as many come, so that the whole text is told alike."""
        self.looks += 1
        if self.looks % self.stride:
            return
        for branch in self.run.contexts[0].branches.values() if self.run.contexts else ():
            self.curve.append([len(branch.tokens), branch.stored])
        if len(self.curve) > NOTES:
            del self.curve[1::2]
            self.stride *= 2


@dataclass(slots=True)
class Worker:
    """Carries out items on one session. `rows` are known ones, by key; `out` takes new ones;
    `seconds` after which no more is begun and what runs is given up."""

    session: Session
    slots: int
    rows: dict[str, Row] = field(default_factory=dict)
    out: Path | None = None
    seconds: float = math.inf
    tools: Sequence[Tool] = ()  # beside each problem's own
    budget: Mapping[str, Any] = field(default_factory=dict)
    curves: bool = False  # rows tell how much was in memory over the text
    beside: Callable[[], Iterable[Row]] | None = None  # rows that others have by now
    tell: Callable[[str], None] = lambda line: None  # how far long runs have come
    _looked: float = -math.inf
    _peaks: dict[str, int] = field(default_factory=dict)
    _flying: dict[int, _Flight] = field(default_factory=dict)
    _ended: "queue.Queue[int]" = field(default_factory=queue.Queue)
    _at: float = 0.0
    _noted: float = 0.0

    def carry_out(self, items: Iterable[Item]) -> Iterator[Row]:
        """Rows of those items that have none yet, in the order in which they end."""
        for row in self.rows.values():
            self._know(row)
        waiting = deque(item for item in items if item.key not in self.rows)
        began = self._at = self._noted = time.perf_counter()
        failures = 0
        while waiting or self._flying:
            while len(self._flying) < self.slots and (item := self._next(waiting)) is not None:
                self._begin(item)
            if not self._flying and self.beside is not None:
                if time.perf_counter() - began > self.seconds:
                    return
                time.sleep(BESIDE_S)
                continue
            if not self._flying:
                raise ValueError(
                    f"{waiting[0].key}: a window needs the tree's run on the same problem; put tim"
                    " into the plan too, with no parameter of its own"
                )
            name = self._wait(began + self.seconds)
            if name is None:
                yield from self._cut()
                return
            row = self._keep(self._end(name))
            failures = failures + 1 if row["finish"] == FAILED else 0
            if failures == TRIES:
                raise RunFailed(f"the last {TRIES} runs failed, the newest with {row['error']}")
            yield row

    def _wait(self, until: float) -> int | None:
        """The next run that ends; None when it is `until`. Looks at memory meanwhile."""
        while (left := until - time.perf_counter()) > 0:
            try:
                return self._ended.get(timeout=min(left, LOOK_S))
            except queue.Empty:
                if self.curves:
                    for flight in self._flying.values():
                        flight.look()
                if time.perf_counter() - self._noted > NOTE_S:
                    self._note()
        return None

    def _note(self) -> None:
        """Tell how far runs have come that take long, and put it beside the rows: of a run that is
        killed, that is left."""
        self._noted = now = time.perf_counter()
        long = [f for f in self._flying.values() if now - f.began >= NOTE_S and f.run.contexts]
        rows = [self._row(flight, ("", RUNNING, "")) for flight in long]
        for flight, row in zip(long, rows, strict=True):
            left = "" if row["slip"] == "end" else f", wrong from character {row['slip_at']:,} on"
            self.tell(flight.note(now) + left)
        if rows and self.out is not None:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            self.out.with_suffix(".running").write_text(text)
        took = time.perf_counter() - now  # a long text takes long to judge
        self._noted += max(0.0, SELDOM * took - NOTE_S)

    def _cut(self) -> Iterator[Row]:
        """Give up what runs; how far it came is a row that no accuracy counts."""
        for flight in self._flying.values():
            flight.run.cancel()
        for name in [n for n, flight in self._flying.items() if flight.run.contexts]:
            self._flying[name].run.wait(CANCEL_S)
            yield self._keep({**self._end(name), "finish": CUT, "right": False})

    def _keep(self, row: Row) -> Row:
        self._know(row)
        if self.out is not None:
            with self.out.open("a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return row

    def _next(self, waiting: "deque[Item]") -> Item | None:
        """The first item that can begin; a window can when its tree has ended."""
        if self.beside is not None and time.perf_counter() - self._looked > BESIDE_S:
            self._looked = time.perf_counter()
            for row in self.beside():
                self._know(row)
        for place, item in enumerate(waiting):
            if item.cell.arm.name != "window" or item.problem_key in self._peaks:
                del waiting[place]
                return item
        return None

    def _begin(self, item: Item) -> None:
        problem, texts = item.problem(), self.session.texts
        params = params_for(
            item, problem, texts.tokenizer.encode, self._peaks.get(item.problem_key)
        )
        shown = few_shots(item, texts.tokenizer.chat) if item.cell.arm.name == "base" else None
        run = self.session.run(
            problem.prompt,
            strategy=item.cell.arm.strategy,
            seed=item.seed,
            tools=[*self.tools, *tools_for(item, problem)],
            budget=self.budget,
            ids=shown,
            **params,
        )
        self._tick()
        name = id(run)
        self._flying[name] = _Flight(item, problem, run, self._at)
        run.future.add_done_callback(lambda _: self._ended.put(name))

    def _tick(self) -> None:
        now = time.perf_counter()
        for flight in self._flying.values():
            flight.share_s += (now - self._at) / len(self._flying)
        self._at = now

    def _end(self, name: int) -> Row:
        self._tick()
        flight = self._flying.pop(name)
        self.session.runs.remove(flight.run)  # else all that it held would stay
        return self._row(flight, _outcome(flight.run))

    def _row(self, flight: _Flight, outcome: tuple[str, str, str]) -> Row:
        row = {
            **_judged(flight, *outcome), "wall_s": self._at - flight.began,
            "share_s": flight.share_s,
            "lookup": self.session.settings.lookup, "backend": self.session.model.name,
            "device": device_of(self.session),
        }  # fmt: skip
        return {**row, "curve": flight.curve} if self.curves else row

    def _know(self, row: Row) -> None:
        if row["arm"] == "tim" and not row["params"] and counts(row):
            self._peaks[f"{row['task']} {row['level']} {row['seed']} {row['place']}"] = row["peak"]


def device_of(session: Session) -> str:
    """What the net runs on."""
    if session.settings.backend in ("cuda", "torch-cuda"):
        return torch.cuda.get_device_name()
    return processor()


def _outcome(run: Run) -> tuple[str, str, str]:
    """Answer, finish and error of a run that has ended."""
    try:
        result = run.wait()
        return result.answer, str(result.finish), result.error
    except RunFailed as failed:
        return "", str(Finish.LENGTH) if FULL in str(failed) else FAILED, str(failed)


def _judged(flight: _Flight, answer: str, finish: str, error: str) -> Row:
    item, problem, run = flight.item, flight.problem, flight.run
    cell = item.cell
    context = run.contexts[0]
    stream, start = _stream(context)
    emitted = [t for t in stream[start:] if not context.is_end(t)]
    text = context.text(emitted)
    spent = context.spent
    is_right = finish not in (Finish.ERROR, FAILED, RUNNING) and right(problem, answer)
    nodes = list(context.tree.nodes.values())
    kind, at = ("", len(text)) if is_right else _slip(text, problem, cell, finish)
    return {
        "task": cell.task, "level": cell.level, "arm": cell.arm.name, "params": dict(cell.params),
        "seed": item.seed, "place": item.place, "right": is_right, "answer": answer,
        "wanted": problem.answer, "finish": finish, "error": error,
        "slip": kind, "slip_at": len(context.encode(text[:at])),
        "prefix": followed(problem, text).prefix_accuracy,
        "sampled": spent.sampled, "computed": spent.computed, "reused": spent.reused,
        "pruned": spent.pruned, "reencoded": spent.reencoded, "peak": spent.peak_own,
        "text": len(stream),
        "calls": sum(kind is Field.RESULT for node in nodes for kind, _, _ in node.fields),
    }  # fmt: skip


def _stream(context: RunContext) -> tuple[list[int], int]:
    """The run's tokens and where its own begin; nothing of a run that could not be opened."""
    for branch in list(context.branches.values()):
        start = branch.origins[1][0] if len(branch.origins) > 1 else len(branch.tokens)
        return list(branch.tokens), start
    return [], 0


def _slip(text: str, problem: Problem, cell: Cell, finish: str) -> tuple[str, int]:
    """Where a wrong run first left the right text: the kind of piece, and the character. The base
    model was never taught that text."""
    if cell.arm.name == "base" or not problem.reasoning:
        return ("too long" if finish == Finish.LENGTH else "answer"), len(text)
    kind, at = slip(text, pieces_of(problem, cell.arm))
    return kind or finish, at
