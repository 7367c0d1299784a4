"""The memory of a run: recorder, files, tables."""

from workbench.trace.columns import Append, Delta, Patch, Table, Tables
from workbench.trace.files import TraceError
from workbench.trace.recorder import Recorder
from workbench.trace.replay import replay
from workbench.trace.tables import GOES_ON, META, NEVER, NOBODY, TABLES
from workbench.trace.trace import LiveTrace, Trace

__all__ = [
    "GOES_ON",
    "META",
    "NEVER",
    "NOBODY",
    "TABLES",
    "Append",
    "Delta",
    "LiveTrace",
    "Patch",
    "Recorder",
    "Table",
    "Tables",
    "Trace",
    "TraceError",
    "replay",
]
