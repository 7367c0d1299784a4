"""Pictures as values: small pure functions of (tables, step).

Each takes `at`, a step, or None for the last one, and tells how things stood after it. Scrubbing is
calling it again; a test is an equality.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.trace.columns import Tables
from workbench.trace.tables import NEVER, NOBODY
from workbench.words import NodeKind


@dataclass(frozen=True, slots=True)
class PageAt:
    """One held or cached page at a moment. Node and branch are rows of their tables, or None."""

    page: int
    branch: int | None  # None: only the prefix cache keeps it
    place: int
    node: int | None
    second: int | None
    used: int  # slots taken at the end of its stay, or now
    refcount: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class PageMap:
    """The pool at a moment: held and cached pages by number; the rest of `pages` is free."""

    at: int
    pages: int
    page_size: int
    taken: Mapping[int, PageAt]

    @property
    def free(self) -> int:
        return self.pages - len(self.taken)

    @property
    def held(self) -> int:
        return sum(page.refcount > 0 for page in self.taken.values())

    def chain(self, branch: int) -> tuple[PageAt, ...]:
        """The pages that a branch (row) made, in the order of its block table."""
        mine = (page for page in self.taken.values() if page.branch == branch)
        return tuple(sorted(mine, key=lambda page: page.place))

    def __str__(self) -> str:
        """Rows of 32 pages: `.` free, `o` cached, a digit for references, capital where pinned."""
        marks = []
        for number in range(self.pages):
            page = self.taken.get(number)
            mark = "." if page is None else "o" if not page.refcount else str(min(9, page.refcount))
            marks.append("P" if page is not None and page.pinned else mark)
        rows = ("".join(marks[i : i + 32]) for i in range(0, self.pages, 32))
        return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class NodeAt:
    """One node at a moment."""

    row: int
    path: str
    title: str
    depth: int
    kind: NodeKind
    owner: int
    open: bool
    pruned: bool  # its subtask list has left memory
    tokens: int  # of its own text and its children's, written so far
    resident: int  # of those in memory
    conclusion: str  # empty while open


@dataclass(frozen=True, slots=True)
class Peak:
    step: int
    resident: int
    pages: int


def last_step(tables: Tables) -> int:
    return tables["steps"].rows - 1


def _at(tables: Tables, at: int | None) -> int:
    return last_step(tables) if at is None else at


def alive(tables: Tables, at: int | None = None) -> NDArray[np.int64]:
    """Rows of `tokens` in memory at a step."""
    step, tokens = _at(tables, at), tables["tokens"]
    return np.flatnonzero((tokens.numbers("born") <= step) & (tokens.numbers("died") > step))


def page_map(tables: Tables, at: int | None = None) -> PageMap:
    """Who has which page."""
    step, pages = _at(tables, at), tables["pages"]
    here = np.flatnonzero((pages.numbers("from") <= step) & (pages.numbers("to") > step))
    counts = _refcounts(tables, step)

    def someone(column: str, row: int) -> int | None:
        found = int(pages.cell(column, row))
        return None if found == NOBODY else found

    taken = {
        int(pages.cell("page", row)): PageAt(
            page=int(pages.cell("page", row)),
            branch=someone("branch", row),
            place=int(pages.cell("place", row)),
            node=someone("node", row),
            second=someone("second", row),
            used=int(pages.cell("used", row)),
            refcount=counts.get(row, 0),
            pinned=bool(pages.cell("pinned", row)),
        )
        for row in here.tolist()
    }
    size, total = tables.meta.get("page_size") or 0, tables.meta.get("pages") or 0
    return PageMap(step, int(total), int(size), dict(sorted(taken.items())))


def _refcounts(tables: Tables, step: int) -> dict[int, int]:
    """Stay -> references at a step."""
    changes = tables["refcounts"]
    until = changes.numbers("step") <= step
    stays, counts = changes.numbers("stay")[until], changes.numbers("count")[until]
    return dict(zip(stays.tolist(), counts.tolist(), strict=True))  # a later change replaces


def resident_by_owner(tables: Tables, at: int | None = None) -> dict[int, int]:
    """Tokens in memory by owner colour; 0 is what belongs to no subtree."""
    node = tables["tokens"].numbers("node")[alive(tables, at)]
    colours = np.append(tables["nodes"].numbers("owner"), 0)  # row -1: nobody
    found, counts = np.unique(colours[node], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def tree_at(tables: Tables, at: int | None = None) -> tuple[NodeAt, ...]:
    """The tree as it stood, in the order of birth; a title shows from the birth of its node on."""
    step, nodes, tokens = _at(tables, at), tables["nodes"], tables["tokens"]
    born, died = tokens.numbers("born"), tokens.numbers("died")
    branch = tokens.numbers("branch")
    there = born <= step
    out = []
    for row in np.flatnonzero(nodes.numbers("opened") <= step).tolist():
        cell = {c: nodes.cell(c, row) for c in ("first", "last", "branch", "closed", "pruned")}
        span = slice(cell["first"], cell["last"] if cell["last"] != NEVER else None)
        mine = (
            there[span] & (branch[span] == cell["branch"]) if cell["first"] != NEVER else there[:0]
        )
        closed = cell["closed"] <= step
        out.append(
            NodeAt(
                row=row,
                path=nodes.cell("path", row).decode(),
                title=nodes.cell("title", row).decode(),
                depth=int(nodes.cell("depth", row)),
                kind=NodeKind(nodes.cell("kind", row)),
                owner=int(nodes.cell("owner", row)),
                open=not closed,
                pruned=cell["pruned"] <= step,
                tokens=int(mine.sum()),
                resident=int((mine & (died[span] > step)).sum()) if len(mine) else 0,
                conclusion=nodes.cell("conclusion", row).decode() if closed else "",
            )
        )
    return tuple(out)


def outline(tables: Tables, at: int | None = None) -> str:
    """The tree as indented lines: path, title, tokens in memory of tokens written, conclusion."""
    lines = []
    for node in tree_at(tables, at):
        state = "open" if node.open else f"= {node.conclusion}" if node.conclusion else "closed"
        folded = ", list pruned" if node.pruned else ""
        head = f"{node.path} {node.title}".strip() or node.kind.name.lower()
        indent = "  " * node.depth
        lines.append(f"{indent}{head}  [{node.resident} of {node.tokens} tokens{folded}] {state}")
    return "\n".join(lines)


def text(tables: Tables, branch: int, at: int | None = None, *, resident: bool = False) -> str:
    """What a branch (row) says of its own: all its text so far, or only what is in memory."""
    step, tokens = _at(tables, at), tables["tokens"]
    mine = (tokens.numbers("branch") == branch) & (tokens.numbers("born") <= step)
    if resident:
        mine &= tokens.numbers("died") > step
    known = dict(
        zip(tables["vocabulary"].numbers("id").tolist(), tables["vocabulary"]["text"], strict=True)
    )
    latest = {
        tokens.cell("index", r): r for r in np.flatnonzero(mine).tolist()
    }  # edits: the later row
    ids = (tokens.cell("id", latest[index]) for index in sorted(latest))
    return b"".join(known.get(token, b"") for token in ids).decode("utf-8", "replace")


def peak(tables: Tables) -> Peak:
    """The step with the most tokens in memory, and the most pages ever held."""
    steps = tables["steps"]
    if not steps.rows:
        return Peak(0, 0, 0)
    resident = steps.numbers("resident")
    step = int(resident.argmax())
    return Peak(step, int(resident[step]), int(steps.numbers("pages").max()))


def summary(tables: Tables) -> dict[str, Any]:
    """The figures of a whole trace, named as `workbench run --json` names them."""
    steps, tokens, prunes, nodes = (tables[t] for t in ("steps", "tokens", "prunes", "nodes"))
    top = peak(tables)
    totals = {
        c: int(steps.numbers(c).sum(dtype=np.int64))
        for c in ("prefill", "decode", "extend", "reencode", "sampled")
    }
    sampled_at = np.flatnonzero(steps.numbers("sampled"))
    ends = steps.numbers("t") + steps.numbers("dt")
    busy = float(steps.numbers("dt").sum(dtype=np.float64))
    requests = tables["requests"]
    return {
        "answer": requests.texts("answer")[0] if requests.rows else "",
        "finish": requests.texts("finish")[0] if requests.rows else "",
        "tokens": {
            "sampled": totals["sampled"],
            "computed": sum(totals[c] for c in ("prefill", "decode", "extend", "reencode")),
            "reused": int(tables["branches"].numbers("reused").sum(dtype=np.int64)),
            "stream": tokens.rows,
        },
        "ttft_s": float(ends[sampled_at[0]]) if len(sampled_at) else None,
        "tok_s": totals["sampled"] / busy if busy else None,
        "kv": {
            "page_size": tables.meta.get("page_size"),
            "peak_pages": top.pages,
            "peak_tokens": top.resident,
            "pruned_tokens": int(prunes.numbers("removed").sum(dtype=np.int64)),
            "reencoded_tokens": int(prunes.numbers("reencoded").sum(dtype=np.int64)),
        },
        "tree": {"nodes": nodes.rows, "depth": int(nodes.numbers("depth").max(initial=0))},
    }
