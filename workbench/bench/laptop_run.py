"""A whole tree of reasoning through the front door: TIM with its adapter, tools and grammar, on the
laptop engine, with every fact recorded and with none."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Self

from workbench.bench.rows import Row
from workbench.session import open_workbench
from workbench.tasks.catalogue import task
from workbench.tools import Lookup

LINKS, SEED = 5, 22  # a tree of about 400 tokens
GOAL = 100.0  # tokens a second


def rows(model: str, threads: int, rounds: int, clock: str) -> Iterator[Row]:
    """Sampled tokens a second of runs taken in turns. Clock "cpu": of the engine's thread."""
    rates: dict[str, list[float]] = {"recorded": [], "not recorded": []}
    sampled = 0
    with contextlib.ExitStack() as stack:
        kept, bare = (
            stack.enter_context(_Engine(model, threads, record)) for record in (True, False)
        )
        engines = {"recorded": kept, "not recorded": bare}
        for turn in range(-1, rounds):  # the first is not counted
            for name, engine in engines.items():
                sampled, seconds = engine.run(clock, seed=turn + 1)
                if turn >= 0:
                    rates[name].append(sampled / seconds)
        impl = kept.session.model.name
    shape = f"chain of {LINKS} links, {sampled} tokens, {threads} thread{'s' * (threads > 1)}"
    for name, values in rates.items():
        value = median(values)
        yield Row(f"tim, {name}", shape, impl, value, "tok/s", "goal", value / GOAL)


class _Engine:
    """A session and the thread that it works on."""

    def __init__(self, model: str, threads: int, record: bool) -> None:
        before = set(threading.enumerate())
        self.session = open_workbench(model=model, backend="numba", threads=threads, record=record)
        made = set(threading.enumerate()) - before
        (self.thread,) = (thread for thread in made if thread.name == "workbench")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def run(self, clock: str, seed: int) -> tuple[int, float]:
        """Sampled tokens of one tree, and its seconds."""
        problem = task("chain", LINKS, SEED)
        tools = [Lookup(problem.results, name=problem.tool, parameter=problem.parameter)]
        now = thread_clock(self.thread) if clock == "cpu" else time.perf_counter
        start = now()
        run = self.session.run(problem.prompt, strategy="tim", tools=tools, seed=seed)
        tokens = int(run.wait(600).summary["tokens"]["sampled"])
        return tokens, now() - start


def thread_clock(thread: threading.Thread) -> Callable[[], float]:
    """CPU seconds of one thread, read from another."""
    assert thread.ident is not None
    number = time.pthread_getcpuclockid(thread.ident)
    return lambda: time.clock_gettime(number)
