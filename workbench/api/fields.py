"""Reading one field of a body: the value in its type and range, or an ApiError that names it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from workbench.api.errors import ApiError

T = TypeVar("T")
Body = Mapping[str, Any]


def known(body: Body, names: frozenset[str], where: str = "") -> None:
    """Refuse a field that is none of `names`: what is silently ignored would be a lie."""
    for name in body:
        if name not in names:
            raise ApiError(
                f"{where}{name} is not known here; known: {', '.join(sorted(names))}",
                where + name,
                code="unknown_parameter",
            )


def given(body: Body, name: str) -> bool:
    return body.get(name) is not None


def integer(body: Body, name: str, default: T, least: int, most: int = 1 << 62) -> int | T:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        upper = f" to {most}" if most < 1 << 62 else " or more"
        raise ApiError(f"{name}: a whole number of {least}{upper} is wanted, {value!r} came", name)
    return value


def number(body: Body, name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ApiError(f"{name}: a number of {least:g} to {most:g} is wanted, {value!r} came", name)
    return float(value)


def flag(body: Body, name: str, default: bool = False) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ApiError(f"{name}: true or false is wanted, {value!r} came", name)
    return value


def text(body: Body, name: str, param: str = "", default: str | None = None) -> str:
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ApiError(f"{param or name}: a string is wanted, {shown(value)} came", param or name)
    return value


def mapping(value: Any, param: str) -> Body:
    if not isinstance(value, Mapping):
        raise ApiError(f"{param}: an object is wanted, {shown(value)} came", param)
    return value


def items(value: Any, param: str) -> list[Any]:
    if not isinstance(value, list):
        raise ApiError(f"{param}: a list is wanted, {shown(value)} came", param)
    return value


def shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]
