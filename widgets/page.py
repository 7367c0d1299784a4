"""One self-contained HTML file of the composite: opens from disk, asks the network for nothing."""

import json
from html import escape
from typing import Any

from widgets.base import asset
from widgets.formatters import number, summarise
from widgets.wire import page_data
from workbench.trace.columns import Tables
from workbench.trace.tables import NEVER

ROWS = 500  # of the table for readers without scripts

PAGE = """<!doctype html>
<html lang="en"{forced}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="reasoning-workbench">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
[data-wb-theme="light"] {{ color-scheme: light; }} [data-wb-theme="dark"] {{ color-scheme: dark; }}
body {{ margin: 0; padding: 12px; }}
body {{ background: light-dark(#f3f4f6, #0e1013); color: light-dark(#171a21, #e9ebf0); }}
noscript {{ font: 400 13px/1.5 system-ui, sans-serif; }}
noscript td, noscript th {{ text-align: left; padding: 1px 14px 1px 0; vertical-align: top; }}
@media print {{ body {{ padding: 0; background: none; }} }}
{css}
</style>
</head>
<body>
<main data-wb-view="{options}"></main>
<noscript>{table}</noscript>
<script type="application/octet-stream" data-wb-frame>{frame}</script>
<script type="module">
{script}
</script>
</body>
</html>
"""


def render_page(
    tables: Tables, title: str = "", *, theme: str | None = None, lanes: list[str] | None = None
) -> str:
    """The page's text. `theme` forces light or dark; None follows the reader's system."""
    if theme not in (None, "light", "dark"):
        raise ValueError(f"theme {theme!r}: light, dark or None is wanted")
    options: dict[str, Any] = {"title": title, "lanes": lanes or []}
    if theme:
        options["theme"] = theme
    summary = summarise(tables)
    return PAGE.format(
        forced=f' data-wb-theme="{theme}"' if theme else "",
        title=escape(title or summary.title or "A run"),
        css=_inline(asset("style.css"), "style"),
        options=escape(json.dumps(options), quote=True),
        table=_table(tables),
        frame=page_data(tables.delta(None)),
        script=_inline(asset("page.js"), "script"),
    )


def _inline(text: str, tag: str) -> str:
    """Text that cannot end its element."""
    return text.replace(f"</{tag}", f"<\\/{tag}")


def _table(tables: Tables) -> str:
    """The run in words, for readers and printers without scripts."""
    s = summarise(tables)
    nodes = tables["nodes"]
    words = (
        f"<h1>{escape(s.title or 'A run')}</h1><p>{number(s.tokens)} tokens, {number(s.sampled)} "
        f"sampled; memory peaks at {number(s.peak)} of a window of {number(s.limit)}; "
        f"{number(s.pruned)} tokens pruned in {s.folds} folds; "
        f"{s.tools} tool calls. Answer: {escape(s.answer or 'none')}</p>"
    )
    head = "".join(f"<th>{w}</th>" for w in ("Task", "Steps", "Tokens", "State", "Conclusion"))
    rows = []
    shown = min(nodes.rows, ROWS)
    paths, titles, ends = nodes.texts("path"), nodes.texts("title"), nodes.texts("conclusion")
    for i in range(shown):
        first, last = nodes.cell("first", i), nodes.cell("last", i)
        closed = nodes.cell("closed", i)
        cells = (
            f"{paths[i]} {titles[i]}".strip(),
            f"{nodes.cell('opened', i)} to {closed if closed != NEVER else 'now'}",
            number(last - first) if last != NEVER else "",
            "closed" if closed != NEVER else "open",
            ends[i],
        )
        rows.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    more = f"<p>{nodes.rows - shown} more nodes.</p>" if nodes.rows > shown else ""
    body = "".join(rows)
    return f"{words}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
