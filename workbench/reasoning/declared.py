"""Task types declared as Python classes: annotations read into parts, and written as source."""

import inspect
import re
import types
import typing
from typing import Any, ClassVar

from workbench.reasoning.parts import Choice, Many, One, Part, Sequence, StructureError, checked


class TaskClass:
    """Subclass it once a task type. The docstring tells what it is for; `tools` are names of tools
    that it may call; `must_call` has it call one. An annotation `subtasks` says what its list
    holds: `tuple[A, B]`, `list[A]` (one or more), `A | B`, `… | None` for an optional part,
    `Annotated[list[A], (2, 5)]` for two to five, nested as you like."""

    tools: ClassVar[tuple[str, ...]] = ()
    must_call: ClassVar[bool] = False
    name: ClassVar[str] = ""  # as it is written; the class's own in snake case when empty

    @classmethod
    def task_name(cls) -> str:
        return cls.__dict__.get("name") or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def about(cls) -> str:
        return " ".join((cls.__dict__.get("__doc__") or "").split())


Declared = list[tuple[type[TaskClass], Part | None]]


def collect(reasoning: Any) -> tuple[Part, Declared]:
    """The root's part, and each task class that it reaches with its own. Raises
    StructureError."""
    found: dict[type[TaskClass], Part | None] = {}
    part, new = _read(reasoning, "reasoning")
    while new:
        declared = new.pop(0)
        if declared in found:
            continue
        found[declared] = None
        hint = _hint(declared)
        if hint is None:
            continue
        found[declared], more = _read(hint, f"{declared.__name__}.subtasks")
        new += more
    return part, list(found.items())


def _hint(declared: type[TaskClass]) -> Any:
    if "subtasks" not in inspect.get_annotations(declared):
        if "subtasks" in declared.__dict__:
            raise StructureError(
                f"{declared.__name__}.subtasks is a value; an annotation is wanted:"
                " `subtasks: list[A]`, with a colon"
            )
        return None
    try:
        hints = typing.get_type_hints(
            declared, localns={declared.__name__: declared}, include_extras=True
        )
    except NameError as error:
        raise StructureError(
            f"{declared.__name__}.subtasks names {error.name!r}, which is not declared where the"
            " class stands; declare it at the top level of the module or notebook"
        ) from error
    return hints["subtasks"]


def _read(hint: Any, where: str) -> tuple[Part, list[type[TaskClass]]]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and origin is None and issubclass(hint, TaskClass):
        return One(hint.task_name()), [hint]
    if origin is typing.Annotated:
        return _counted(hint, where)
    if origin is list and arguments:
        part, classes = _read(arguments[0], where)
        return Many(part), classes
    if origin is tuple and arguments:
        parts, classes = _several(arguments, where)
        return checked(Sequence(parts), where), classes
    if origin in (types.UnionType, typing.Union):
        given = tuple(one for one in arguments if one is not type(None))
        parts, classes = _several(given, where)
        part = parts[0] if len(parts) == 1 else Choice(parts)
        return (Many(part, 0, 1) if len(given) < len(arguments) else part), classes
    raise StructureError(
        f"{where}: a task class, tuple[A, B], list[A], A | B or … | None is wanted, {hint!r} came"
    )


def _several(hints: tuple[Any, ...], where: str) -> tuple[tuple[Part, ...], list[type[TaskClass]]]:
    read = [_read(hint, f"{where}.{i + 1}") for i, hint in enumerate(hints)]
    return tuple(part for part, _ in read), [one for _, classes in read for one in classes]


def _counted(hint: Any, where: str) -> tuple[Part, list[type[TaskClass]]]:
    """`Annotated[list[A], (2, 5)]`."""
    part, classes = _read(hint.__origin__, where)
    bounds = hint.__metadata__[0]
    if not isinstance(part, Many) or not isinstance(bounds, tuple) or len(bounds) != 2:
        raise StructureError(f"{where}: Annotated[list[A], (least, most)] is wanted, {hint!r} came")
    return checked(Many(part.part, *bounds), where), classes
