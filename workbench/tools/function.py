"""A typed Python function as a tool: its signature becomes the JSON schema."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_NAMES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    list: "array",
}


@dataclass(frozen=True, slots=True)
class FunctionTool:
    function: Callable[..., Any]
    name: str
    description: str
    parameters: Mapping[str, Any]

    def __call__(self, **arguments: Any) -> Any:
        return self.function(**arguments)


def python_function(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None
) -> FunctionTool:
    """Every parameter needs a type: str, int, float, bool, list[…], dict, Literal[…] or `… | None`.
    Those without a default are required. The docstring's first line describes the tool."""
    hints = typing.get_type_hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"{function.__name__}: *{parameter.name} has no schema; name the parameters"
            )
        if parameter.name not in hints:
            raise TypeError(f"{function.__name__}: parameter {parameter.name!r} needs a type")
        properties[parameter.name] = _schema(hints[parameter.name], function.__name__)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    text = description or (inspect.getdoc(function) or "").split("\n")[0]
    return FunctionTool(function, name or function.__name__, text, schema)


def _schema(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _NAMES:
        return {"type": _NAMES[hint]}
    if hint is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], where)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], where)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(argument, where) for argument in arguments]}
    raise TypeError(
        f"{where}: type {hint!r} has no JSON schema here; use str, int, float, bool, list, dict"
    )
