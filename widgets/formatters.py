"""The run card: one row that says how a run went, as rich repr of runs and traces.

Inline styles only, `currentColor` for everything: it follows any theme, and where a code host
strips the styles a plain table with the same facts is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from workbench.trace.columns import Tables
from workbench.trace.tables import NEVER

THIN = "\N{THIN SPACE}"
COMPUTED = ("prefill", "decode", "extend", "reencode")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a card says. Tokens are tokens, seconds are wall time."""

    title: str
    answer: str
    tokens: int
    sampled: int
    computed: int
    reused: int
    peak: int
    limit: int
    pruned: int
    folds: int
    seconds: float
    tools: int
    tool_seconds: float
    live: bool
    resident: Sequence[int]  # peaks of equal stretches of steps, for the sparkline

    @property
    def rate(self) -> float:
        """Sampled tokens a second, tools' time left out."""
        return self.sampled / max(1e-9, self.seconds - self.tool_seconds)


def summarise(tables: Tables, points: int = 60) -> Summary:
    """Every figure from its own column; nothing is estimated."""
    steps, nodes, requests = tables["steps"], tables["nodes"], tables["requests"]
    n = steps.rows
    resident = np.asarray(steps["resident"][:n], np.int64)
    seconds = float(steps.cell("t", n - 1) + steps.cell("dt", n - 1)) if n else 0.0
    called = np.asarray(nodes["called"]) != NEVER
    waited = np.asarray(nodes["tool_seconds"])[called]
    meta: Mapping[str, Any] = tables.meta
    return Summary(
        title=requests.texts("title")[0] if requests.rows else "",
        answer=requests.texts("answer")[0] if requests.rows else "",
        tokens=tables["tokens"].rows,
        sampled=int(np.sum(steps["sampled"][:n])),
        computed=sum(int(np.sum(steps[c][:n])) for c in COMPUTED),
        reused=int(np.sum(tables["branches"]["reused"])),
        peak=int(resident.max(initial=0)),
        limit=int(meta.get("limit") or meta.get("window") or 0),
        pruned=int(np.sum(tables["prunes"]["removed"])),
        folds=tables["prunes"].rows,
        seconds=seconds,
        tools=int(called.sum()),
        tool_seconds=float(np.nansum(waited)) if waited.size else 0.0,
        live=bool(meta.get("live")),
        resident=[int(p.max()) for p in np.array_split(resident, min(points, n))] if n else [],
    )


def number(value: float) -> str:
    return f"{round(value):,}".replace(",", THIN)


def _seconds(value: float) -> str:
    return f"{value:.1f}{THIN}s" if value < 100 else f"{number(value)}{THIN}s"


def tables_of(source: Any) -> Tables:
    """Tables of a trace, a run, a session or of themselves."""
    if isinstance(source, Tables):
        return source
    trace = getattr(source, "trace", source)
    found: Tables = trace.tables()
    return found


def text(source: Any) -> str:
    """Three aligned lines, for consoles."""
    s = summarise(tables_of(source))
    given = s.tokens - s.sampled
    return (
        f"  tokens   {number(s.tokens)}: {number(s.sampled)} sampled, {number(given)} given; "
        f"{number(s.computed)} computed, {number(s.reused)} reused\n"
        f"  memory   peak {number(s.peak)} of window {number(s.limit)}, "
        f"{number(s.pruned)} pruned in {s.folds} folds\n"
        f"  tools    {s.tools} calls, {_seconds(s.tool_seconds)} of {_seconds(s.seconds)}"
    )


def card(source: Any) -> str:
    """One row of HTML: answer, tokens, memory under the window's line, share pruned, speed."""
    s = summarise(tables_of(source))
    said = s.answer or s.title or ("running" if s.live else "no answer")
    total = max(1, s.computed + s.reused)
    parts = (s.sampled / total, max(0.0, s.computed - s.sampled) / total, s.reused / total)
    computed = f"{number(s.computed)} computed, {number(s.reused)} reused"
    pruned = s.pruned / max(1, s.tokens)
    cells = [
        (f"<b>{escape(_short(said))}</b>", escape(_short(s.title, 60)) if s.answer else "", ""),
        (f"{number(s.sampled)} sampled", computed, _bar(parts)),
        ("", f"peak {number(s.peak)} of {number(s.limit)}", _spark(s)),
        (_share(s), f"{number(s.pruned)} of {number(s.tokens)}", _bar((pruned,), hatched=True)),
        (f"{s.rate:.0f} tok/s", f"{_seconds(s.seconds)}, tools {_seconds(s.tool_seconds)}", ""),
    ]
    tds = "".join(
        f'<td style="{CELL}"><div style="font-weight:500;line-height:1.35">{head}</div>{drawn}'
        f'<div style="opacity:.72;font-size:11px">{sub}</div></td>'
        for head, sub, drawn in cells
    )
    row = f'<tr style="background:none">{tds}</tr>'
    return f'<table style="{CARD}" aria-label="Run"><tbody>{row}</tbody></table>'


CARD = (
    "border:1px solid rgba(128,128,128,.35);border-collapse:separate;border-radius:6px;"
    "border-spacing:0;margin:2px 0;font-variant-numeric:tabular-nums;"
    "font:400 12.5px/1.45 var(--jp-ui-font-family,Inter,system-ui,sans-serif)"
)
CELL = (
    "padding:7px 14px;border:0;text-align:left;vertical-align:middle;max-width:260px;"
    "white-space:nowrap;overflow:hidden;text-overflow:ellipsis"
)


def _short(words: str, limit: int = 90) -> str:
    words = " ".join(words.split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def _share(s: Summary) -> str:
    share = 100 * s.pruned / max(1, s.tokens)
    return f"{share:.1f}{THIN}% pruned" if 0 < share < 9.95 else f"{share:.0f}{THIN}% pruned"


def _bar(shares: Sequence[float], hatched: bool = False) -> str:
    """Stacked shares of one bar 110 px wide, darkest first."""
    parts, x = [], 0.0
    for share, opacity in zip(shares, (1.0, 0.55, 0.28), strict=False):
        fill = "url(#wb-hatch)" if hatched else "currentColor"
        place = f'x="{x:.1f}" width="{110 * share:.1f}" height="6"'
        parts.append(f'<rect {place} fill="{fill}" opacity="{opacity}"/>')
        x += 110 * share
    hatch = (
        '<defs><pattern id="wb-hatch" width="4" height="4" patternUnits="userSpaceOnUse">'
        '<path d="M-1 5 5 -1M-1 1 1 -1M3 5 5 3" stroke="currentColor" stroke-width="1"/>'
        "</pattern></defs>"
    )
    ground = '<rect width="110" height="6" fill="currentColor" opacity=".12"/>'
    return (
        f'<svg width="110" height="6" style="display:block;margin:2px 0" aria-hidden="true">'
        f"{hatch if hatched else ''}{ground}{''.join(parts)}</svg>"
    )


def _spark(s: Summary) -> str:
    """Resident tokens over the run under the window's line."""
    if not s.resident:
        return ""
    wide, tall = 122, 28
    top = 1.06 * max(s.limit, s.peak, 1)
    step = wide / len(s.resident)
    height = [tall - v / top * tall for v in s.resident]
    points = " ".join(f"{i * step:.1f},{y:.1f}" for i, y in enumerate(height))
    line = f"{points} {wide},{height[-1]:.1f}"
    edge = f"M0 {tall - s.limit / top * tall:.1f}H{wide}"
    size = f'width="{wide}" height="{tall}" style="display:block"'
    return (
        f'<svg {size} role="img" aria-label="Memory over the run">'
        f'<polygon points="0,{tall} {line} {wide},{tall}" fill="currentColor" opacity=".2"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.1"/>'
        f'<path d="{edge}" stroke="currentColor" stroke-dasharray="4 2" opacity=".7"/></svg>'
    )


def register() -> None:
    """Cards as rich reprs of runs and traces in the running IPython; nothing without one."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return
    formatter = getattr(get_ipython(), "display_formatter", None)
    if formatter is None:
        return
    html = formatter.formatters["text/html"]
    html.for_type_by_name("workbench.session.run", "Run", card)
    html.for_type_by_name("workbench.trace.trace", "Trace", card)
    html.for_type_by_name("workbench.trace.trace", "LiveTrace", card)
