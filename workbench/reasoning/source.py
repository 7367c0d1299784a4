"""A structure as the Python classes that declare it."""

import json
import re

from workbench.reasoning.parts import Choice, Many, One, Part, Sequence, names
from workbench.reasoning.structures import Structure, TaskType


def source(structure: Structure) -> str:
    """Python that declares `structure` again: types that others need come first where they can."""
    blocks = [_block(one, late) for one, late in _ordered(structure.types)]
    answer = "" if structure.answer is None else f", answer={dict(structure.answer)!r}"
    last = f"structure = Structure.of({_hint(structure.reasoning)}{answer})"
    head = "from workbench import Structure, TaskClass"
    if any("Annotated[" in block for block in (*blocks, last)):
        head = f"from typing import Annotated\n\n{head}"
    return "\n\n\n".join([head, *blocks, last]) + "\n"


def _ordered(types: tuple[TaskType, ...]) -> list[tuple[TaskType, bool]]:
    """Each type, and whether it names one that is not declared yet when it stands."""
    left: list[TaskType] = list(types)
    done: list[tuple[TaskType, bool]] = []
    while left:
        known = {one.name for one, _ in done}
        best = min(left, key=lambda one: len(_named(one) - known - {one.name}))
        left.remove(best)
        done.append((best, not _named(best) <= known))
    return done


def _named(one: TaskType) -> set[str]:
    return set() if one.subtasks is None else set(names(one.subtasks))


def class_name(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[_-]", name) if word)


def _block(one: TaskType, late: bool) -> str:
    title = class_name(one.name)
    lines = [f"class {title}(TaskClass):"]
    if one.about:
        lines.append(f'    """{one.about}"""' if plain(one.about) else f"    {one.about!r}")
    if re.sub(r"(?<!^)(?=[A-Z])", "_", title).lower() != one.name:
        lines.append(f"    name = {quoted(one.name)}")
    if one.tools:
        names = ", ".join(map(quoted, one.tools))
        lines.append(f"    tools = ({names}{',' if len(one.tools) == 1 else ''})")
    if one.must_call:
        lines.append("    must_call = True")
    if one.subtasks is not None:
        hint = _hint(one.subtasks)
        lines.append(f"    subtasks: {quoted(hint) if late else hint}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "    pass"])


def plain(text: str) -> bool:
    """It can stand between three quotes as it is."""
    return text.isprintable() and "\\" not in text and '"' not in text


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _hint(part: Part) -> str:
    match part:
        case One(name):
            return class_name(name)
        case Sequence(parts):
            return f"tuple[{', '.join(_hint(inner) for inner in parts)}]"
        case Choice(parts):
            return " | ".join(_hint(inner) for inner in parts)
        case Many(inner, 0, 1):
            return f"{_hint(inner)} | None"
        case Many(inner, 1, None):
            return f"list[{_hint(inner)}]"
        case Many(inner, least, most):
            return f"Annotated[list[{_hint(inner)}], ({least}, {most})]"
