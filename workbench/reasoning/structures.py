"""User-declared task structures: typed task classes whose subtasks are tuples, lists and unions.

After the Thread-2 client of 2507.16784: a task type says which tools it may call and what its
subtask list holds. The grammar forces it: a tree that breaks its structure cannot be sampled.

    class Look(TaskClass):
        "Look one fact up."
        tools = ("lookup",)
        must_call = True

    class Compare(TaskClass):
        subtasks: tuple[Look, Look]

    wb.run(prompt, structure=Structure.of(list[Compare | Look]), tools=[…])
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from workbench.reasoning.declared import TaskClass, collect
from workbench.reasoning.parts import (
    Automaton,
    Part,
    StructureError,
    automaton,
    names,
    part_json,
    read_part,
)

__all__ = ["Structure", "StructureError", "TaskClass", "TaskType"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
FIELDS = {"name", "about", "tools", "must_call", "subtasks"}


@dataclass(frozen=True, slots=True)
class TaskType:
    """A kind of task. `about` is told to a model that reads instructions; `subtasks` None: it has
    none."""

    name: str
    about: str = ""
    tools: tuple[str, ...] = ()
    must_call: bool = False
    subtasks: Part | None = None


@dataclass(frozen=True)
class Structure:
    """Task types, and what the `reasoning` list holds of them. `answer`: JSON schema of the
    answer, None for text. Raises StructureError for what no tree could satisfy."""

    types: tuple[TaskType, ...]
    reasoning: Part
    answer: Mapping[str, Any] | None = field(default=None, hash=False)

    ROOT: ClassVar[str] = "reasoning"

    def __post_init__(self) -> None:
        if self.answer is not None and not isinstance(self.answer, Mapping):
            raise StructureError(f"answer: a JSON schema or none is wanted, {self.answer!r} came")
        known = [one.name for one in self.types]
        for one in self.types:
            if not NAME.fullmatch(one.name) or one.name == self.ROOT:
                raise StructureError(
                    f"task type {one.name!r}: a name of letters, digits, _ and - is wanted, which"
                    f" begins with a letter and is not {self.ROOT!r}"
                )
            if known.count(one.name) > 1:
                raise StructureError(f"task type {one.name!r} is declared twice; rename one")
            if one.must_call and not one.tools:
                raise StructureError(
                    f"task type {one.name!r} must call a tool, but names none; add one to its tools"
                )
        for where, part in self.lists:
            for name in names(part):
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1) or known
                    raise StructureError(
                        f"{where} holds {name!r}, which is no task type; did you mean"
                        f" {', '.join(near) or 'to declare one'}?"
                    )
        self._check_that_it_ends()

    @property
    def lists(self) -> list[tuple[str, Part]]:
        """Every list that there may be, with where it is declared."""
        below = [(f"{t.name}.subtasks", t.subtasks) for t in self.types if t.subtasks is not None]
        return [(self.ROOT, self.reasoning), *below]

    @cached_property
    def heights(self) -> Mapping[str, int]:
        """Levels that a task of each type needs at least, itself included."""
        machines = {t.name: automaton(t.subtasks) for t in self.types if t.subtasks is not None}
        found = {t.name: 1 for t in self.types if t.name not in machines}
        found |= {name: 1 for name, machine in machines.items() if 0 in machine.accepting}
        for height in range(2, len(self.types) + 2):
            ended = {
                name: height
                for name, machine in machines.items()
                if name not in found and finishes(machine, found)
            }
            found |= ended
        return found

    def _check_that_it_ends(self) -> None:
        heights = self.heights
        if not finishes(automaton(self.reasoning), heights):
            stuck = [t.name for t in self.types if t.name not in heights]
            raise StructureError(
                f"{' and '.join(stuck)} always hold another of themselves: no tree would end;"
                " make their subtasks optional (… | None), or offer a type without subtasks"
            )

    @property
    def depth(self) -> int:
        """Levels that a tree needs at least."""
        machine, heights = automaton(self.reasoning), self.heights
        return next(
            height
            for height in range(1, len(self.types) + 1)
            if finishes(machine, {n for n, h in heights.items() if h <= height})
        )

    def unserved(self, tools: Iterable[str]) -> str:
        """Why trees of it cannot call what they name; empty when they can."""
        there = set(tools)
        for one in self.types:
            for tool in one.tools:
                if tool not in there:
                    return (
                        f"task type {one.name!r} names the tool {tool!r}; tools of this run:"
                        f" {', '.join(sorted(there)) or 'none'}"
                    )
        return ""

    @property
    def told(self) -> str:
        """The structure in words, for a model that reads instructions."""
        lines = [f"The tasks: {_words(self.reasoning)}."]
        for one in self.types:
            line = f'A task "{one.name}"' + (f": {one.about.rstrip('.')}." if one.about else ".")
            if one.tools:
                line += f" It {'calls' if one.must_call else 'may call'} {' or '.join(one.tools)}."
            if one.subtasks is not None:
                line += f" Its subtasks: {_words(one.subtasks)}."
            lines.append(line)
        return "\n".join(lines)

    # forms

    @classmethod
    def of(cls, reasoning: Any, answer: Mapping[str, Any] | None = None) -> "Structure":
        """From typed task classes: `Structure.of(list[Research])`."""
        part, classes = collect(reasoning)
        return cls(tuple(_task_type(one, subtasks) for one, subtasks in classes), part, answer)

    @classmethod
    def read(cls, value: Any) -> "Structure":
        """From `json` (as text or parsed), or from task classes. Raises StructureError."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise StructureError(f"structure: JSON is wanted ({error})") from error
        if not isinstance(value, Mapping):
            return cls.of(value)
        unknown = set(value) - {"types", "reasoning", "answer"}
        if unknown or not {"types", "reasoning"} <= set(value):
            raise StructureError(
                f"structure: types, reasoning and answer are wanted, {sorted(value)} came"
            )
        if not isinstance(value["types"], list):
            raise StructureError(f"types: a list is wanted, {value['types']!r} came")
        types = tuple(_read_type(one, i) for i, one in enumerate(value["types"]))
        return cls(types, read_part(value["reasoning"], cls.ROOT), value.get("answer"))

    @property
    def json(self) -> dict[str, Any]:
        types: list[dict[str, Any]] = [
            {
                "name": one.name,
                "about": one.about,
                "tools": list(one.tools),
                "must_call": one.must_call,
                "subtasks": None if one.subtasks is None else part_json(one.subtasks),
            }
            for one in self.types
        ]
        return {"types": types, "reasoning": part_json(self.reasoning), "answer": self.answer}

    def __str__(self) -> str:
        return json.dumps(self.json, ensure_ascii=False, separators=(",", ":"))


def finishes(machine: Automaton, types: Iterable[str], state: int = 0) -> bool:
    """Whether an end can be reached from `state` with tasks of `types` alone, one at least from
    the beginning on (a list is never empty)."""
    allowed = set(types)
    seen: set[int] = set()
    new = [to for name, to in machine.next[state].items() if name in allowed]
    if state and state in machine.accepting:
        return True
    while new:
        at = new.pop()
        if at in machine.accepting:
            return True
        if at not in seen:
            seen.add(at)
            new += [to for name, to in machine.next[at].items() if name in allowed]
    return False


def _task_type(declared: type[TaskClass], subtasks: Part | None) -> TaskType:
    return TaskType(
        declared.task_name(),
        declared.about(),
        tuple(declared.tools),
        declared.must_call,
        subtasks,
    )


def _read_type(value: Any, place: int) -> TaskType:
    where = f"types[{place}]"
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise StructureError(f"{where}: an object with a name is wanted, {value!r} came")
    where = value["name"] or where
    if unknown := set(value) - FIELDS:
        raise StructureError(f"{where}: {', '.join(sorted(FIELDS))} are known, {unknown} came")
    tools = value.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, str) for tool in tools):
        raise StructureError(f"{where}.tools: a list of names is wanted, {tools!r} came")
    subtasks = value.get("subtasks")
    return TaskType(
        value["name"],
        str(value.get("about") or ""),
        tuple(tools),
        bool(value.get("must_call")),
        None if subtasks is None else read_part(subtasks, f"{where}.subtasks"),
    )


def _words(part: Part) -> str:
    form = part_json(part)
    if isinstance(form, str):
        return f'"{form}"'
    if "sequence" in form:
        return ", then ".join(_words(read_part(one, "")) for one in form["sequence"])
    if "choice" in form:
        return "(" + " or ".join(_words(read_part(one, "")) for one in form["choice"]) + ")"
    inner, least, most = _words(read_part(form["list"], "")), form["least"], form["most"]
    if (least, most) == (0, 1):
        return f"optionally {inner}"
    return f"{least} or more {inner}" if most is None else f"{least} to {most} {inner}"
