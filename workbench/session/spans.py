"""Questions to a run's tables: a stretch of steps, and where a text stands."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.trace import Tables


@dataclass(frozen=True, slots=True)
class Span:
    """The steps [first, last): what they did and wrote."""

    first: int
    last: int
    seconds: float
    sampled: int
    pruned: int  # tokens that left memory
    peak: int  # resident tokens
    text: str  # of the tokens that entered memory, all branches in order


@dataclass(frozen=True, slots=True)
class Found:
    """One place where a text stands: a node's title or conclusion, or the stream of a branch."""

    where: str  # "title", "conclusion", "text"
    path: str  # of the node
    step: int


def span(tables: Tables, steps: slice) -> Span:
    columns = tables["steps"]
    count = len(columns["dt"])
    first, last, stride = steps.indices(count)
    if stride != 1:
        raise ValueError(f"a stretch of steps without a stride is wanted, stride {stride} came")
    prunes = tables["prunes"]
    inside = (prunes["step"] >= first) & (prunes["step"] < last)
    born = tables["tokens"]["born"]
    rows = np.flatnonzero((born >= first) & (born < last))
    resident = columns["resident"][first:last]
    return Span(
        first,
        last,
        float(columns["dt"][first:last].sum()),
        int(columns["sampled"][first:last].sum()),
        int(prunes["removed"][inside].sum()),
        int(resident.max()) if len(resident) else 0,
        _texts(tables, rows).decode("utf-8", "replace"),
    )


def find(tables: Tables, text: str) -> list[Found]:
    nodes = tables["nodes"]
    wanted = text.lower()
    found = []
    for row in range(len(nodes["opened"])):
        for where in ("title", "conclusion"):
            if wanted in str(nodes[where][row]).lower():
                found.append(Found(where, str(nodes["path"][row]), int(nodes["opened"][row])))
    tokens = tables["tokens"]
    for branch in np.unique(tokens["branch"]):
        rows = np.flatnonzero(tokens["branch"] == branch)
        pieces = [_texts(tables, rows[i : i + 1]) for i in range(len(rows))]
        starts = np.cumsum([0, *map(len, pieces)])
        whole = b"".join(pieces).decode("utf-8", "replace").lower().encode()
        at = whole.find(wanted.encode()) if wanted else -1
        while at >= 0:
            row = rows[min(int(np.searchsorted(starts, at, "right")) - 1, len(rows) - 1)]
            node = int(tokens["node"][row])
            path = str(nodes["path"][node]) if node >= 0 else ""
            found.append(Found("text", path, int(tokens["born"][row])))
            at = whole.find(wanted.encode(), at + 1)
    return found


def _texts(tables: Tables, rows: Any) -> bytes:
    vocabulary = tables["vocabulary"]
    texts = {int(i): bytes(t) for i, t in zip(vocabulary["id"], vocabulary["text"], strict=True)}
    return b"".join(texts.get(int(i), b"") for i in tables["tokens"]["id"][rows])
