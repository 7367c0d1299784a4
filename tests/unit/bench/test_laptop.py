"""The laptop engine's bench on a small net: the same step however pages lie, parts that add up."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.unit.cpu import nets
from workbench.bench import laptop, laptop_accuracy, laptop_costs
from workbench.bench.laptop_run import thread_clock
from workbench.bench.laptop_steps import Step
from workbench.bench.rows import Turns
from workbench.cpu import NumbaForward


@pytest.fixture(scope="module")
def forward() -> NumbaForward:
    return NumbaForward(nets.net("llama"))


def test_the_step_is_the_same_wherever_its_pages_lie(forward: NumbaForward) -> None:
    ids = nets.tokens(40)
    wants = []
    for step in (
        Step(forward), Step(forward, 8, in_order=True), Step(forward, 8, page=1104),
        Step(forward, page=7),
    ):  # fmt: skip
        first = laptop_accuracy.ours(step, ids[:30], 0)
        rows = step.batch(ids[30:], 30, 1)
        wants.append(torch.cat([first, forward(rows, step.pool).logits]))
        eight = step.batch(ids, 0, 8)
        assert torch.equal(forward(eight, step.pool).logits[7], wants[-1][-1])
    assert all(torch.equal(want, wants[0]) for want in wants)


def test_the_parts_of_a_step_add_up(forward: NumbaForward) -> None:
    rows = list(laptop_costs.breakdown(Step(forward), 100, 3, "wall"))
    whole, *parts = rows
    assert whole.metric == "where a step goes: whole"
    assert sum(row.value for row in parts) == pytest.approx(whole.value)
    assert whole.floor == pytest.approx(sum(row.floor or 0.0 for row in parts))
    assert all(row.unit == "ms" and row.shape == "1 row, 100 entries, 1 thread" for row in rows)


def test_tables_are_paired_with_what_has_none(forward: NumbaForward) -> None:
    rows = list(laptop_costs.tables(Step(forward), 2, "wall"))
    assert [(row.shape, row.peer) for row in rows] == [
        (f"1 row, {n} entries", f"the same, {peer}")
        for n in (128, 1000)
        for peer in ("pages in order", "one page, no table")
    ]


def test_the_share_of_the_floor_is_paired() -> None:
    taken = Turns({"memory": [1.0, 4.0, 2.0], "ours": [2.0, 8.0, 4.0]})
    assert laptop_costs.floor(taken, "ours", 8) == (4.0, 0.5)


def test_accuracy_is_summed_as_defined() -> None:
    torch.manual_seed(0)
    got, want = torch.randn(2, 5, 7)
    p, q = want.softmax(-1), got.softmax(-1)
    square, divergence, same = laptop_accuracy.compared(got, want).tolist()
    assert square == pytest.approx(float(((got - want) ** 2).sum()))
    assert divergence == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert same == sum(int(g.argmax() == w.argmax()) for g, w in zip(got, want, strict=True))


def test_an_unknown_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laptop, "open_model", lambda name: None)
    args: Any = SimpleNamespace(
        model="", threads=1, clock="cpu", rounds=1, quick=True, part="decode"
    )
    with pytest.raises(ValueError, match="no part 'decode'; there are decode 128"):
        next(laptop.rows(args))


def test_a_threads_clock_counts_that_thread_alone() -> None:
    stop = threading.Event()
    idle = threading.Thread(target=stop.wait)
    idle.start()
    now = thread_clock(idle)
    start, busy = now(), time.thread_time()
    while time.thread_time() - busy < 0.05:
        pass
    assert now() - start < 0.02
    stop.set()
    idle.join()
