"""Every event type goes to bytes and back unchanged."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.events import EVENTS, Event, TokenSampled
from workbench.trace.codec import LAYOUTS, Codec, Column, column_for, schema
from workbench.words import SeqId, Step

WHOLE = st.one_of(st.integers(0, 200), st.integers(-(2**63), 2**63 - 1))
REAL = st.one_of(st.floats(allow_nan=False), st.floats(width=32, allow_nan=False))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int?": st.none() | st.integers(0, 2**40),
    "float": REAL,
    "str": st.text(max_size=12),
    "bytes": st.binary(max_size=12),
    "ints": st.lists(WHOLE, max_size=5).map(tuple),
    "floats": st.lists(REAL, max_size=5).map(tuple),
}


def of(column: Column) -> st.SearchStrategy[Any]:
    if column.enum is not None:
        return st.sampled_from(list(column.enum))
    return WHOLE if column.kind == "int" else VALUES[column.kind]


ONE = {
    name: st.builds(EVENTS[name], **{field: of(column) for field, column in layout.columns.items()})
    for name, layout in LAYOUTS.items()
}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(*ONE.values()), max_size=30))
def test_any_events_round_trip(events: list[Event]) -> None:
    found = Codec().decode(Codec().encode(events))
    assert found == events
    for one, other in zip(found, events, strict=True):
        for field in dataclasses.fields(one):
            assert type(getattr(one, field.name)) is type(getattr(other, field.name))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted(ONE)))
def test_long_columns_round_trip(data: st.DataObject, name: str) -> None:
    events = data.draw(st.lists(ONE[name], min_size=1, max_size=4)) * 7
    assert Codec().decode(Codec().encode(events)) == events


@pytest.mark.parametrize(
    "values",
    [
        [5] * 9,
        list(range(1000, 1400)),
        [0, 2**40, -3],
        [2**31] * 2 + [1],
        [7],
        [1, 2],
        list(range(0, 90000, 300)),
    ],
)
def test_whole_numbers_of_all_widths(values: list[int]) -> None:
    events = [TokenSampled(Step(v), SeqId(0), v, 1, 0.0, 0.0, (), ()) for v in values]
    assert [e.index for e in Codec().decode(Codec().encode(events))] == values  # type: ignore[attr-defined]


def test_floats_that_are_not_finite() -> None:
    events = [TokenSampled(Step(0), SeqId(0), 0, 1, -math.inf, math.nan, (1,), (1e300,))]
    (found,) = Codec().decode(Codec().encode(events))
    assert isinstance(found, TokenSampled)
    assert (
        found.logprob == -math.inf and math.isnan(found.entropy) and found.top_logprobs == (1e300,)
    )


def test_only_some_types_and_counts() -> None:
    events: list[Event] = [
        TokenSampled(Step(0), SeqId(0), 0, 1, 0.0, 0.0, (), ()),
        EVENTS["RunResumed"](Step(1), 2.5),  # type: ignore[call-arg]
        TokenSampled(Step(2), SeqId(0), 1, 1, 0.0, 0.0, (), ()),
    ]
    block = Codec().encode(events)
    assert Codec().decode(block, frozenset(["RunResumed"])) == [events[1]]
    assert Codec().counts(block) == {"TokenSampled": 2, "RunResumed": 1}


def test_a_file_of_another_version_still_opens() -> None:
    """Unknown types and fields are skipped, missing fields are empty, order does not matter."""
    events = [TokenSampled(Step(4), SeqId(1), 9, 3, -0.5, 0.25, (3,), (-0.5,))]
    declared = schema()
    for entry in declared:
        if entry[0] == "TokenSampled":
            entry[1] = [["colour", *f[1:]] if f[0] == "token" else f for f in entry[1]]
        if entry[0] == "RunResumed":
            entry[0] = "RunUnheardOf"
    block = Codec().encode([events[0], EVENTS["RunResumed"](Step(1), 2.5)])  # type: ignore[call-arg]
    (found,) = Codec(declared).decode(block)
    assert found == dataclasses.replace(events[0], token=0)


def test_a_field_without_a_column_is_refused() -> None:
    with pytest.raises(TypeError, match="has no column"):
        column_for(dict[str, int])
