"""`workbench bench inbox`: how soon a command stands as a fact while the net decodes.

A TIM run on the real model; pause, step, resume, prune, fork and pin go through the command inbox
while steps run, and each row is milliseconds from the hand-in to the engine's own event. With
`--out DIR` three recordings are kept: that run (`gpu_tim.wbt`), sixteen forks of one prompt
(`gpu_forks.wbt`), and a small net of experts with random weights, whose text says nothing
(`gpu_moe_random.wbt`).
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from workbench.bench.ours import replays
from workbench.bench.random_net import random_model
from workbench.bench.rows import Row, place
from workbench.commands import (
    Command,
    ForkNode,
    Pause,
    PinPage,
    PruneNode,
    Resume,
    StepTokens,
)
from workbench.engine.errors import Refused
from workbench.events import (
    BranchOpened,
    Event,
    PagePinned,
    Pruned,
    RunPaused,
    RunResumed,
    StepEnded,
)
from workbench.session import Run, Session, open_workbench
from workbench.settings import Settings
from workbench.tasks.catalogue import task
from workbench.tools import Lookup
from workbench.words import PageId

LINKS, SEED = 40, 22
ROUNDS, FORKS = 36, 3
LIMIT = 2_000_000  # bytes of a recording
WAIT = 300.0  # seconds for a run
ANSWER: dict[type[Command], type[Event]] = {
    Pause: RunPaused, Resume: RunResumed, StepTokens: RunPaused, PruneNode: Pruned,
    ForkNode: BranchOpened, PinPage: PagePinned,
}  # fmt: skip


class _Watch:
    """Sees the engine's facts on their way to the recorder; the first of a kind since `expect`."""

    def __init__(self, session: Session) -> None:
        self.steps = 0
        self.found: list[float] = []
        self._wanted: type[Event] | None = None
        self._tell = session.engine.tell
        session.engine.tell = self

    def expect(self, kind: type[Event]) -> None:
        self.found, self._wanted = [], kind

    def __call__(self, event: Event) -> None:
        self._tell(event)
        if self._wanted is not None and isinstance(event, self._wanted) and not self.found:
            self.found.append(time.perf_counter())
        elif isinstance(event, StepEnded):
            self.steps += 1


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.out or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        where = _where()
        for work in (tim, forks, experts):
            try:
                yield from (row | where for row in work(args.model, folder))
            except Exception as error:  # the other recordings are still worth having
                sys.stderr.write(f"{work.__name__}: {error!r}\n")


def _where() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return dict(place())
    from kernels_cupy.bench import facts

    return dict(facts(torch.device("cuda", 0)))


def tim(model: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The commands, on a tree that forgets nothing by itself."""
    path = _fresh(folder / "gpu_tim.wbt")
    with open_workbench(model=model, trace=path) as session:
        watch = _Watch(session)
        problem = task("chain", LINKS, SEED)
        tools = [Lookup(problem.results, name=problem.tool, parameter=problem.parameter)]
        run = session.run(problem.prompt, "tim", tools=tools, threshold=None)
        _until(lambda: watch.steps > 40)
        began, before = time.perf_counter(), watch.steps
        taken = _drive(session, run, watch)
        each = (time.perf_counter() - began) / max(1, watch.steps - before)
        run.wait(WAIT)  # to its answer: a recording that ends as runs do
        impl, graphs = session.model.name, replays(session.engine)
    for name, values in taken.items():
        if not values:
            continue
        yield _row("command to event", f"{name}, {len(values)} samples", impl) | {
            "value": round(median(values), 3), "unit": "ms", "p95": _p95(values),
            "worst": round(max(values), 3), "goal": 100.0,
        }  # fmt: skip
    yield _row("step between commands", "TIM, SmolLM2", impl) | {
        "value": round(1e3 * each, 3), "unit": "ms", "graphs": graphs,
    }  # fmt: skip
    yield _kept(path, impl)


def _p95(values: list[float]) -> float:
    ordered = sorted(values)
    return round(ordered[round(0.95 * (len(ordered) - 1))], 3)


def _drive(session: Session, run: Run, watch: _Watch) -> dict[str, list[float]]:
    draw = random.Random(0)
    taken: dict[str, list[float]] = {kind.__name__: [] for kind in ANSWER}

    def send(command: Command) -> bool:
        watch.expect(ANSWER[type(command)])
        start = time.perf_counter()
        try:
            session.submit(command).result(30)
        except Refused as why:
            sys.stderr.write(f"{command}: {why}\n")
            return False
        _until(lambda: bool(watch.found))
        taken[type(command).__name__].append(1e3 * (watch.found[0] - start))
        return True

    for turn in range(ROUNDS):
        if run.done:
            break
        time.sleep(draw.uniform(0.02, 0.08))
        send(Pause())
        send(StepTokens(1))
        send(Resume())
        time.sleep(draw.uniform(0.01, 0.03))
        page = _page(session, run)
        if send(PinPage(page)):
            send(PinPage(page, pinned=False))
        node = _prunable(session, run)
        if node is not None:
            send(node)
        if turn % (ROUNDS // FORKS) == 2 and run.main is not None:
            newest = max(run.nodes.values(), key=lambda node: node.first)
            send(ForkNode(newest.id, temperature=0.8, seed=turn))
    return taken


def _page(session: Session, run: Run) -> PageId:
    assert run.main is not None
    return PageId(session.engine.memory.branches[run.main].pages[0])


def _prunable(session: Session, run: Run) -> PruneNode | None:
    """The newest node of which something finished is still in memory."""
    if run.main is None:
        return None
    resident = frozenset(session.engine.memory.branches[run.main].resident)
    for node in sorted(run.nodes.values(), key=lambda node: -node.first):
        spans = node.unpinned() if node.seq == run.main else []
        if any(resident.intersection(range(a, b)) for a, b in spans):
            return PruneNode(node.id)
    return None


def forks(model: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Sixteen branches of one prompt, decoded together."""
    path = _fresh(folder / "gpu_forks.wbt")
    prompt = "A shop sells pens at 3 coins and books at 11. What do 4 pens and 2 books cost?"
    with open_workbench(model=model, trace=path) as session:
        run = session.run(prompt, "vote", n=16, max_tokens=160)
        result = run.wait(WAIT)
        impl = session.model.name
    yield _row("16 forks", "SmolLM2, 160 tokens each", impl) | {
        "value": result.summary["tok_s"], "unit": "tok/s",
    }  # fmt: skip
    yield _kept(path, impl)


def experts(model: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Four branches through a net of 32 experts, its router's choices recorded."""
    path = _fresh(folder / "gpu_moe_random.wbt")
    cuda = torch.cuda.is_available()
    net = random_model(
        "tiny-moe", backend="cuda" if cuda else "cpu", dtype="bf16" if cuda else "fp32"
    )
    settings = Settings(str(net.source.name), trace=path, pages=128, record_routing=True)
    with Session(net, settings) as session:
        run = session.run("Experts, take your turns.", "vote", n=4, max_tokens=96)
        run.wait(WAIT)
        impl = session.model.name
    yield _kept(path, impl)


def _fresh(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def _kept(path: Path, impl: str) -> dict[str, Any]:
    size = path.stat().st_size
    return _row("recording", path.name, impl) | {
        "value": size,
        "unit": "B",
        "floor": LIMIT,
        "floor_ratio": round(LIMIT / size, 2),
    }


def _row(metric: str, shape: str, impl: str) -> dict[str, Any]:
    return asdict(Row(metric, shape, impl, 0.0, ""))


def _until(reached: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"an answer was wanted within {seconds:.0f} s; none came")
        time.sleep(0.0002)
