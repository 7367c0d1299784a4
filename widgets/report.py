"""What the reports share: rows of JSON files, HoloViews elements as SVG in the house's colours."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import holoviews as hv
import holoviews.plotting.mpl  # makes the backend known
import matplotlib as mpl

# shared/tokens.css, light
INK, INK_3, LINE, NEUTRAL = "#171a21", "#68707f", "#e4e7ec", "#7b8494"
OWNERS = ("#4f69cb", "#e26680", "#921e03", "#2f876b", "#b74b05", "#653f6b", "#49a199", "#a29320")
OWN, PEER, GOAL = "#4f69cb", "#b74b05", "#a84a08"
STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9.0, "axes.edgecolor": LINE, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK_3, "ytick.color": INK_3, "axes.titlesize": 10.0,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": LINE,
    "axes.axisbelow": True, "lines.solid_capstyle": "butt",
    "svg.fonttype": "none", "svg.hashsalt": "workbench", "legend.frameon": False,
}  # fmt: skip
METADATA = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|\n *", re.DOTALL)
FINER = re.compile(r"(\d\.\d\d)\d+")  # than a hundredth of a point

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A HoloViews element, shown as SVG; `element` is for going on with."""

    element: Any

    def _repr_svg_(self) -> str:
        renderer = hv.Store.renderers["matplotlib"].instance(fig="svg", dpi=72)
        with mpl.rc_context(STYLE):
            data, _ = renderer(self.element, fmt="svg")
        svg = str(data.decode() if isinstance(data, bytes) else data)
        svg = METADATA.sub("", svg)  # it tells the time of drawing
        return FINER.sub(r"\1", svg[svg.index("<svg") :])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/svg+xml": self._repr_svg_(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Picture({type(self.element).__name__})"


@dataclass(frozen=True, slots=True)
class Missing:
    """What stands in place of a picture whose rows have not been measured."""

    what: str
    command: str

    def __repr__(self) -> str:
        return f"{self.what}: not measured yet; {self.command}"


def read_rows(path: Path) -> Iterable[Row]:
    """Rows of a file, with what the file says of all of them."""
    text = path.read_text()
    try:
        whole = json.loads(text)
    except ValueError:
        whole = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(whole, Mapping) and "rows" in whole:
        command = whole.get("command", "")
        shared = {"command": command if isinstance(command, str) else "; ".join(command)}
        return [{**shared, **row} for row in whole["rows"]]
    return whole if isinstance(whole, list) else [whole]
