"""Random programs over the real engine: the facts alone rebuild what each branch had in memory."""

import random

import pytest

from tests.fakes import bench, drive
from tests.unit.engine.test_programs import Program, Tiny
from workbench.events import Event, RunStarted, StepEnded
from workbench.trace.build import TableBuilder
from workbench.trace.projections import page_map
from workbench.trace.replay import audit
from workbench.words import Finish, Step


def run_program(
    seed: int, exact: bool
) -> tuple[list[Event], list[tuple[int, dict[int, list[int]]]]]:
    """Its facts, and after each step the stream indexes that each branch had in memory."""
    rng = random.Random(seed)
    page_size, pages = rng.randint(1, 5), rng.choice([14, 30, 90])
    net = Tiny()
    b = bench(
        net.forward, pages=pages, page_size=page_size, limit=rng.choice([60, 200]),
        chunk=rng.choice([3, 64]), max_rows=rng.choice([2, 32]),
    )  # fmt: skip
    start = RunStarted(
        Step(0), "", "fake", "fake", page_size, pages, 200, 200, 1, 0, (0,), "{}", "{}"
    )
    told: list[Event] = [start, *b.told]
    moments: list[tuple[int, dict[int, list[int]]]] = []

    def tell(event: Event) -> None:
        told.append(event)
        if isinstance(event, StepEnded):
            there = {int(x.seq): list(x.resident) for x in b.engine.memory.branches.values()}
            moments.append((len(told), there))

    b.engine.tell = tell
    program = Program(net, b, rng, exact)

    async def all_of_it() -> None:
        await program.run(20)
        b.engine.end_request(b.request, Finish.STOP)

    drive(b, all_of_it())
    return told, moments


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_facts_rebuild_memory(seed: int, exact: bool) -> None:
    told, moments = run_program(seed, exact)
    assert audit(told) == []
    builder, done = TableBuilder(), 0
    for count, there in moments:
        tables = builder.apply(told[done:count])
        done = count
        ended = told[count - 1]
        assert isinstance(ended, StepEnded)
        assert page_map(tables).held == ended.pages_held
        for seq, stream in builder._streams.items():
            if stream.live:
                assert stream.resident.array().tolist() == there[seq]
