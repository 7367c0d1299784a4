"""Strategies by name, their parameters, and what is near to a wrong one."""

from dataclasses import fields
from typing import Any

import pytest

from workbench.reasoning import Tim, UnknownStrategy, make_strategy, strategies


def test_the_first_strategies_are_there() -> None:
    assert {"tim", "chain", "vote"} <= set(strategies())
    for name, cls in strategies().items():
        assert cls.name == name and make_strategy(name, {}) == cls()
        assert all(field.default is not field.default_factory for field in fields(cls))


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"threshold": "2"}, "threshold", 2),
        ({"threshold": "none"}, "threshold", None),
        ({"threshold": "inf"}, "threshold", None),
        ({"threshold": 1}, "threshold", 1),
        ({"grammar": "false"}, "grammar", False),
        ({"mode": "rotate"}, "mode", "rotate"),
        ({"scale": "0.5"}, "scale", 0.5),
        ({"temperature": 1}, "temperature", 1.0),
        ({"adapter": None}, "adapter", None),
        ({"adapter": "mine"}, "adapter", "mine"),
    ],
)
def test_texts_are_read_as_the_fields_type(
    given: dict[str, Any], field: str, value: object
) -> None:
    assert getattr(make_strategy("tim", given), field) == value


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("tmi", {}, "did you mean tim"),
        ("xyz", {}, "known: chain"),
        ("tim", {"treshold": 1}, "did you mean threshold"),
        ("tim", {"threshold": "x"}, "tim.threshold: int or none is wanted, 'x' came"),
        ("tim", {"threshold": 1.5}, "1.5 came"),
        ("tim", {"mode": "both"}, "'both' came"),
        ("tim", {"grammar": 3}, "bool is wanted, 3 came"),
        ("vote", {"n": "many"}, "'many' came"),
    ],
)
def test_what_is_unknown_is_named(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownStrategy, match=said):
        make_strategy(name, given)


def test_parameters_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Tim().threshold = 3  # type: ignore[misc]
