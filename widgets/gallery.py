"""Pictures of every view, light and dark, from one recorded run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from widgets.base import asset
from widgets.bench import browser
from widgets.formatters import card
from widgets.page import render_page
from widgets.structure import Judge
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


def shoot(path: Path, out: Path, judge: Judge) -> list[Path]:
    """Opens the trace at `path`; writes the pictures and the page they are of into `out`. `judge`
    is what the structure editor asks."""
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
        made += _structures(chromium, out, judge)
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


SAMPLE: dict[str, Any] = {
    "types": [
        {
            "name": "research",
            "about": "One question, answered from pages",
            "tools": [],
            "must_call": False,
            "subtasks": {
                "sequence": [
                    {"list": "search", "least": 1, "most": 3},
                    {"list": {"choice": ["read", "compare"]}, "least": 1, "most": None},
                    {"list": "verify", "least": 0, "most": 1},
                ]
            },
        },
        {
            "name": "search",
            "about": "Find pages",
            "tools": ["search"],
            "must_call": True,
            "subtasks": None,
        },
        {
            "name": "read",
            "about": "Take a fact from one",
            "tools": ["search", "lookup"],
            "must_call": False,
            "subtasks": None,
        },
        {"name": "compare", "about": "", "tools": [], "must_call": False, "subtasks": None},
        {"name": "verify", "about": "", "tools": ["python"], "must_call": True, "subtasks": None},
    ],
    "reasoning": {"list": "research", "least": 1, "most": None},
    "answer": None,
}
TOOLS = ("search", "lookup", "python")

MOUNT = """
async ([source, css, state]) => {
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const listeners = new Map();
  const tell = (name) => (listeners.get(name) ?? []).forEach((f) => f());
  globalThis.model = {
    state, saved: [],
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; tell(`change:${name}`); },
    save_changes: () => model.saved.push(JSON.parse(JSON.stringify(state.value))),
    on: (name, f) => listeners.set(name, [...(listeners.get(name) ?? []), f]),
    off: (name, f) => listeners.set(name, listeners.get(name).filter((g) => g !== f)),
    get listening() { return [...listeners.values()].reduce((n, l) => n + l.length, 0); },
  };
  const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  globalThis.open = () => {
    const el = document.body.appendChild(document.createElement("main"));
    const close = module.default.render({ model, el });
    return () => { close(); el.remove(); };
  };
  globalThis.close = open();
}
"""


def mount(page: Any, state: dict[str, Any]) -> None:
    """The structure editor in a page, on a model of plain JavaScript with these traits."""
    ground = "background:light-dark(#f3f4f6,#0e1013)"
    style = f"<style>:root{{color-scheme:light dark}}body{{margin:12px;{ground}}}</style>"
    page.set_content(f"<!doctype html><meta charset=utf-8>{style}<body></body>")
    given = {"tools": list(TOOLS), "theme": None, **state}
    page.evaluate(MOUNT, [asset("structure.js"), asset("style.css"), given])


def _structures(chromium: Any, out: Path, judge: Judge) -> Iterator[Path]:
    wrong = {**SAMPLE, "reasoning": {"list": "reserch", "least": 1, "most": None}}
    views = {
        "structure": (1144, SAMPLE),
        "structure-420": (444, SAMPLE),
        "structure-wrong": (924, wrong),
    }
    for name, (width, value) in views.items():
        for theme in THEMES:
            page = chromium.new_page(viewport={"width": width, "height": 400}, color_scheme=theme)
            mount(page, {"value": value, "report": judge(value)})
            page.focus('[data-list="research"] [data-path="0"]')
            target = out / f"{name}-{theme}.png"
            page.screenshot(path=target, full_page=True)
            page.close()
            yield target
