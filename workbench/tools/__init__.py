"""What a tree may call while it is being written."""

from pathlib import Path

from workbench.tools.calculator import Calculator
from workbench.tools.contract import Outcome, Tool, ToolError, invoke
from workbench.tools.faulty import Faulty
from workbench.tools.function import python_function
from workbench.tools.lookup import Lookup
from workbench.tools.sandbox import Python
from workbench.tools.search import Search

__all__ = [
    "Calculator",
    "Faulty",
    "Lookup",
    "Outcome",
    "Python",
    "Search",
    "Tool",
    "ToolError",
    "invoke",
    "lookup",
    "python_function",
    "toolbox",
]

lookup = Lookup


def toolbox(names: str) -> list[Tool]:
    """Tools by name, comma-separated: `calculator`, `python`, `search:FOLDER`."""
    return [_named(name.strip()) for name in names.split(",") if name.strip()]


def _named(name: str) -> Tool:
    kind, _, rest = name.partition(":")
    if kind == "calculator":
        return Calculator()
    if kind == "python":
        return Python()
    if kind == "search" and rest:
        return Search(Path(rest))
    raise ToolError(f"tool {name!r} is not known; calculator, python and search:FOLDER are")
