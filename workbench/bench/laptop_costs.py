"""What a step of the laptop engine is made of, and what its pages cost."""

from collections.abc import Iterator

import torch

from workbench.bench.laptop_steps import CONTEXT, Step, Turn
from workbench.bench.rows import Row, Turns, take_turns
from workbench.cpu.plan import Planner
from workbench.cpu.tables import NetTables
from workbench.cpu.turns import Turns as Rotations

STEPS = 6  # steps a turn


def repeated(turn: Turn, steps: int) -> Turn:
    return lambda: [turn() for _ in range(steps)]


def reader(nbytes: int) -> Turn:
    """Torch's threads read so many bytes: what memory alone would take."""
    data = torch.ones(max(nbytes // 8, 1), dtype=torch.int64)
    return lambda: data.sum()


def tables(step: Step, rounds: int, clock: str) -> Iterator[Row]:
    """The same step over the same cache: pages anywhere, pages in order, one page for all. `ratio`
    is ours over the peer's speed: 0.97 is a cost of 3 %."""
    forward = step.forward
    whole = {
        "pages in order": Step(forward, 1, in_order=True, name="pages in order"),
        "one page, no table": Step(forward, 1, page=-(-CONTEXT // 16) * 16, name="one page"),
    }
    for context in (128, 1000):
        turns = {name: other.at([5], context, 1) for name, other in whole.items()}
        turns["pages"] = step.at([5], context, 1)
        taken = take_turns({n: repeated(t, STEPS) for n, t in turns.items()}, rounds, clock=clock)
        for peer in whole:
            yield Row(
                "block tables", f"1 row, {context} entries", step.name,
                STEPS / taken.median("pages"), "tok/s", f"the same, {peer}",
                taken.ratio("pages", peer),
            )  # fmt: skip


def breakdown(step: Step, context: int, rounds: int, clock: str) -> Iterator[Row]:
    """Milliseconds of a step by part, from steps with and without it taken turn by turn. `floor`
    is what reading the part's bytes takes one core in the same run, `floor_ratio` its share."""
    forward, net = step.forward, step.forward.net
    head = net.matrices["embedding" if net.shape.tied_head else "head"].bytes
    kv = step.pool.layout.bytes_per_token * context
    shape = net.shape
    planner = Planner(
        shape, NetTables(net).words, Rotations(shape.rope.rotary(shape.head_dim)), forward.threads
    )
    batch, state = step.batch([5], context, 1), torch.zeros(1, shape.width)
    turns = {
        "step": step.at([5], context, 1),
        "empty cache": step.at([5], 0, 1),
        "head": lambda: forward.project(state, normed=False),
        "plan": lambda: planner.plan(batch, step.pool, {}),
        "read layers": reader(net.step_bytes - head),
        "read head": reader(head),
        "read cache": reader(kv),
    }
    taken = take_turns({n: repeated(t, STEPS) for n, t in turns.items()}, rounds, clock=clock)
    ms = {name: 1000 * taken.median(name) / STEPS for name in turns}
    cache = max(ms["step"] - ms["empty cache"], 0.0)
    at = f"1 row, {context} entries, {_threads(step)}"
    read = ms["read layers"] + ms["read head"] + ms["read cache"]
    for part, spent, floor in (
        ("whole", ms["step"], read),
        ("layers: products, norms, gates", ms["step"] - cache - ms["head"] - ms["plan"],
         ms["read layers"]),
        ("attention over the cache", cache, ms["read cache"]),
        ("head", ms["head"], ms["read head"]),
        ("plan in Python", ms["plan"], None),
    ):  # fmt: skip
        share = floor / spent if floor and spent else None
        yield Row(f"where a step goes: {part}", at, step.name, spent, "ms", None, None, floor,
                  share)  # fmt: skip


def floor(taken: Turns, name: str, tokens: int) -> tuple[float, float]:
    """Tokens a second of the turn "memory" alone, and the share of it that `name` reaches."""
    return tokens / taken.median("memory"), 1 / taken.ratio("memory", name)


def _threads(step: Step) -> str:
    count = step.forward.threads
    return f"{count} thread{'s' if count > 1 else ''}"
