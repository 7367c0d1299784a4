"""The structure editor, with the reasoning room as its judge."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from workbench.reasoning.source import source
from workbench.reasoning.structures import Structure, StructureError

BLANK = {
    "types": [
        {
            "name": "plan",
            "about": "",
            "tools": [],
            "must_call": False,
            "subtasks": {"list": "step"},
        },
        {"name": "step", "about": "", "tools": [], "must_call": False, "subtasks": None},
    ],
    "reasoning": {"list": "plan"},
}


def edit_structure(
    structure: Any = None, *, tools: Iterable[Any] = (), theme: str | None = None
) -> Any:
    """A widget that edits a task structure: classes, a `Structure` or its JSON; a small one when
    None. `tools`: the tools that may be named, or their names. `widget.structure` is what
    `wb.run(…, structure=)` takes, `widget.source` the Python that declares it."""
    names = [tool if isinstance(tool, str) else str(tool.name) for tool in tools]
    start = Structure.read(BLANK if structure is None else structure)
    widgets = import_module("widgets")
    return widgets.StructureEditor(start.json, check=judge, tools=names, theme=theme)


def judge(value: dict[str, Any]) -> dict[str, Any]:
    try:
        structure = Structure.read(value)
    except StructureError as error:
        return {"why": str(error), "source": "", "depth": 0}
    return {"why": "", "source": source(structure), "depth": structure.depth}
