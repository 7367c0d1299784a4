"""Turns are interleaved, ratios paired, rows complete."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from workbench.bench import rows
from workbench.bench.evaluate import NOTES, _Flight
from workbench.bench.rows import Row, Turns, take_turns

FIELDS = (
    "metric shape impl value unit peer ratio floor floor_ratio machine device commit date"
).split()


def test_a_row_has_the_contract_s_fields() -> None:
    assert list(Row("decode", "batch 1", "ours", 2.0, "tok/s").json()) == FIELDS


def test_ratios_pair_turns_and_not_medians() -> None:
    """A machine that slows down over the run touches both sides of each pair alike."""
    turns = Turns({"ours": [1.0, 10.0, 100.0], "peer": [2.0, 20.0, 200.0]})
    assert turns.ratio("ours", "peer") == 2.0
    assert turns.ratio("peer", "ours") == 0.5


def test_everybody_begins_a_round_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    ticks = iter(range(1000))
    monkeypatch.setitem(rows.CLOCKS, "wall", lambda: float(next(ticks)))
    turns = take_turns({n: (lambda n=n: order.append(n)) for n in "abc"}, rounds=3, warm=1)
    played = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert played == ["cab", "abc", "bca", "cab"]
    assert all(list(seconds) == [1.0] * 3 for seconds in turns.seconds.values())


def test_a_long_run_is_noted_alike_from_its_start_to_its_end() -> None:
    branch = SimpleNamespace(tokens=range(0), stored=0)
    run: Any = SimpleNamespace(contexts=[SimpleNamespace(branches={0: branch})])
    flight = _Flight(cast(Any, None), cast(Any, None), run, 0.0)
    for tokens in range(50_000):
        branch.tokens = range(tokens)
        flight.look()
    places = [at for at, _ in flight.curve]
    gaps = {after - before for before, after in pairwise(places)}
    assert len(places) <= NOTES and max(gaps) <= min(gaps) + 1 and places[0] < 20
