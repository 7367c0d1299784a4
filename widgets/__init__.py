"""Pictures of a run that drive it. `Composite(trace)` shows all lanes over one axis.

from widgets import Composite
Composite(workbench.load_trace("run.wbt"))
"""

from typing import Any

from widgets.base import WorkbenchWidget, link
from widgets.composite import Composite
from widgets.expert_routing import ExpertRouting
from widgets.formatters import card, register
from widgets.forms import form
from widgets.kv_pages import KVPages, MemoryOverTime
from widgets.outline import Outline
from widgets.page import render_page
from widgets.reasoning_tree import ReasoningTree
from widgets.structure import StructureEditor
from widgets.timeline import Steps, Tokens
from workbench.trace.trace import Trace

__all__ = [
    "Composite",
    "EvalReport",
    "ExpertRouting",
    "GpuReport",
    "KVPages",
    "MemoryOverTime",
    "Outline",
    "ReasoningTree",
    "Steps",
    "StructureEditor",
    "Tokens",
    "TrainingReport",
    "WorkbenchWidget",
    "card",
    "form",
    "link",
    "register",
    "render_page",
]

Trace.viewer = Composite
register()


def __getattr__(name: str) -> Any:
    if name == "GpuReport":  # HoloViews, which only this needs
        from widgets.gpu_report import GpuReport

        return GpuReport
    if name == "EvalReport":
        from widgets.eval_report import EvalReport

        return EvalReport
    if name == "TrainingReport":
        from widgets.training_report import TrainingReport

        return TrainingReport
    raise AttributeError(f"module 'widgets' has no attribute {name!r}; it has {', '.join(__all__)}")
