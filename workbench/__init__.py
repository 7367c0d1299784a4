"""Reasoning workbench: see a language model think, and touch it while it does.

    import workbench
    wb = workbench.open_workbench()
    run = wb.run("What is 17 + 25?", strategy="chain")
    run.wait().answer

Importing the package loads nothing heavy; the names below bring their rooms when they are first
used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_DOORS = {
    "open_workbench": "workbench.session",
    "Session": "workbench.session",
    "Run": "workbench.session",
    "load_trace": "workbench.session",
    "strategies": "workbench.reasoning",
    "Structure": "workbench.reasoning.structures",
    "TaskClass": "workbench.reasoning.structures",
    "edit_structure": "workbench.session.editing",
    "Settings": "workbench.settings",
    "Lookup": "workbench.tools",
    "task": "workbench.tasks.catalogue",
}

__all__ = [
    "Lookup",
    "Run",
    "Session",
    "Settings",
    "Structure",
    "TaskClass",
    "edit_structure",
    "load_trace",
    "open_workbench",
    "strategies",
    "task",
]


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        return getattr(import_module(_DOORS[name]), name)
    raise AttributeError(
        f"module 'workbench' has no attribute {name!r}; it has {', '.join(__all__)}"
    )
