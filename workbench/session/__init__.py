"""The one place that wires the rooms: model, engine, recorder, strategies, on a thread of its
own."""

from workbench.session.run import Fork, Result, Run, RunFailed
from workbench.session.session import Session, load_trace, open_workbench

__all__ = ["Fork", "Result", "Run", "RunFailed", "Session", "load_trace", "open_workbench"]
