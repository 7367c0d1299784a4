"""What a tree may call while it is being written."""

from workbench.tools.calculator import Calculator
from workbench.tools.contract import Outcome, Tool, ToolError, invoke
from workbench.tools.function import python_function
from workbench.tools.lookup import Lookup
from workbench.tools.sandbox import Python
from workbench.tools.search import Search

__all__ = [
    "Calculator",
    "Lookup",
    "Outcome",
    "Python",
    "Search",
    "Tool",
    "ToolError",
    "invoke",
    "named_tool",
    "python_function",
]


def named_tool(name: str) -> Tool:
    """A tool that needs no data of its own, by name: `calculator`, `python`."""
    if name == "calculator":
        return Calculator()
    if name == "python":
        return Python()
    raise ToolError(
        f"tool {name!r} is not known by name; calculator and python are, others are handed over"
        " as objects (Lookup, Search, python_function)"
    )
