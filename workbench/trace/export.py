"""A trace in other forms: a self-contained page, Parquet tables, a Perfetto timeline.

- ``html``: one file, the composite view with the tables inside; opens from disk without a network.
- ``parquet``: a folder with one file a table of `tables.TABLES` and `meta.json`; with an `out` that
  ends in ``.zip``, one archive of the same. `NEVER`, `NOBODY` and "goes on" become nulls,
  enumerations words.
- ``perfetto``: one file of TrackEvent packets: a track a branch with its nodes as slices, a track
  of engine steps, one of tools, counters of resident tokens and pages.
"""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.trace.columns import Table, Tables, Texts
from workbench.trace.perfetto import perfetto
from workbench.trace.tables import GOES_ON, NEVER, NOBODY
from workbench.trace.trace import Trace
from workbench.words import Field, FreeReason, NodeKind, Origin, Phase

WORDS = {
    ("steps", "phase"): Phase,
    ("tokens", "field"): Field,
    ("tokens", "origin"): Origin,
    ("nodes", "kind"): NodeKind,
    ("pages", "reason"): FreeReason,
}
NULLS = {"u4": NEVER, "i4": NOBODY}
CAN_BE_NEGATIVE = {("prunes", "pages_freed")}  # i4 where -1 is a number


def export(trace: Trace | Path | str, to: str, out: Path | str) -> int:
    """Write `trace` to `out` as "html", "parquet" or "perfetto"; returns the bytes written."""
    writers: dict[str, Callable[[Tables, Path], int]] = {
        "html": _html, "parquet": _parquet, "perfetto": _perfetto
    }  # fmt: skip
    if to not in writers:
        raise ValueError(f"export to one of {', '.join(writers)} was wanted, {to!r} came")
    if not isinstance(trace, Trace):
        trace = Trace.open(trace)
    return writers[to](trace.frozen(), Path(out))


def _html(tables: Tables, out: Path) -> int:
    from widgets.page import render_page

    titles = tables["requests"].texts("title")
    return out.write_bytes(render_page(tables, titles[0] if titles else "").encode())


def _perfetto(tables: Tables, out: Path) -> int:
    return out.write_bytes(perfetto(tables))


def _parquet(tables: Tables, out: Path) -> int:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "Parquet export wants pyarrow, which is not installed; "
            "pip install 'reasoning-workbench[lab]'"
        ) from error
    files: dict[str, bytes] = {"meta.json": json.dumps(tables.meta, indent=1).encode()}
    for name, table in tables.items():
        buffer = io.BytesIO()
        pq.write_table(arrow(table), buffer, compression="zstd")
        files[f"{name}.parquet"] = buffer.getvalue()
    if out.suffix == ".zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return out.stat().st_size
    out.mkdir(parents=True, exist_ok=True)
    return sum((out / name).write_bytes(data) for name, data in files.items())


def arrow(table: Table) -> Any:
    """One table as a `pyarrow.Table`, nulls and words in place of marks and numbers."""
    import pyarrow as pa

    return pa.table({name: _column(table, name) for name in table})


def _column(table: Table, name: str) -> Any:
    import pyarrow as pa

    column = table.columns[name]
    if isinstance(column, Texts):
        if column.dtype == "bytes":
            return pa.array(column.values, pa.binary())
        return pa.array(table.texts(name), pa.string())
    values = table.numbers(name)
    words = WORDS.get((table.name, name))
    if words is not None:
        names = {member.value: member.name.lower() for member in words} | {GOES_ON: None}
        texts = [names.get(value) for value in values.tolist()]
        return pa.array(texts, pa.string()).dictionary_encode()
    mark = NULLS.get(column.dtype)
    if mark is None or (table.name, name) in CAN_BE_NEGATIVE:
        return pa.array(values)
    return pa.array(values, mask=np.asarray(values == mark))
