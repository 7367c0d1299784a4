"""Pictures of every view, light and dark, from one recorded run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from widgets.bench import browser
from widgets.formatters import card
from widgets.page import render_page
from workbench.trace.trace import Trace

THEMES = ("light", "dark")
AT = "const view = globalThis.reasoningWorkbench.view; const n = view.run.n;"
WIDEST = (  # the largest task of the second row
    "view.run.all.indexOf(Math.max(...[...view.run.all]"
    ".filter((_, i) => view.run.tables.nodes.depth[i] === 2), 0))"
)

# name: width, height, lanes, what is done first
VIEWS: dict[str, tuple[int, int, list[str], str]] = {
    "composite-1440": (1464, 900, [], "view.seek(Math.floor(n * 0.66));"),
    "composite-900": (924, 700, [], "view.seek(Math.floor(n * 0.66));"),
    "composite-420": (444, 700, [], "view.seek(Math.floor(n * 0.66));"),
    "end": (924, 700, [], "view.toEnd();"),
    "zoom": (924, 700, [], f"view.seek(Math.floor(n * 0.5)); view.zoomTo(Math.max(0, {WIDEST}));"),
    "selected": (924, 700, [], f"view.seek(Math.floor(n * 0.66)); view.select({WIDEST});"),
    "brush-wall": (924, 700, [], "view.seek(Math.floor(n * 0.8)); view.setUnit('wall');"
        " view.store.set({ span: [Math.floor(n * 0.3), Math.floor(n * 0.55)] });"),
    "outline": (924, 900, [], "view.seek(Math.floor(n * 0.66)); view.toggleOutline();"
        " view.el.main.style.display = 'none';"),
    "as-text": (924, 700, [], "view.el.text.open = true;"),
    "tree": (924, 500, ["tree"], ""),
    "memory": (924, 500, ["memory"], ""),
    "pages": (924, 500, ["pool", "pages"], "view.seek(Math.floor(n * 0.72));"),
    "experts": (924, 500, ["experts"], ""),
    "tokens": (924, 400, ["tokens"], ""),
}  # fmt: skip


def shoot(path: Path, out: Path) -> list[Path]:
    """Opens the trace at `path`; writes the pictures and the page they are of into `out`."""
    tables = Trace.open(path).tables()
    made = []
    with browser() as chromium:
        for name, (width, height, lanes, act) in VIEWS.items():
            if lanes == ["experts"] and not tables["routes"].rows:
                continue
            for theme in THEMES:
                size = {"width": width, "height": height}
                page = chromium.new_page(viewport=size, color_scheme=theme)
                source = out / f"{name}.html"
                source.write_text(render_page(tables, theme=theme, lanes=lanes))
                made.append(_picture(page, source, out / f"{name}-{theme}.png", act))
                source.unlink()
        made += _cards(chromium, tables, out)
    return made


def _picture(page: Any, source: Path, target: Path, act: str) -> Path:
    page.goto(source.resolve().as_uri())
    page.wait_for_selector("main[data-wb-ready]", timeout=30_000)
    page.evaluate(f"() => {{ {AT} {act} }}")
    page.wait_for_timeout(250)
    page.screenshot(path=target, full_page=True)
    page.close()
    return target


def _cards(chromium: Any, tables: Any, out: Path) -> Iterator[Path]:
    colours = "background:light-dark(#fff,#171a1f);color:light-dark(#171a21,#e9ebf0)"
    ground = f"body{{margin:12px;{colours}}}"
    for theme in THEMES:
        page = chromium.new_page(viewport={"width": 924, "height": 90}, color_scheme=theme)
        style = f"<style>:root{{color-scheme:{theme}}}{ground}</style>"
        page.set_content(f"<meta charset=utf-8>{style}{card(tables)}")
        target = out / f"card-{theme}.png"
        page.screenshot(path=target, full_page=True)
        page.close()
        yield target
