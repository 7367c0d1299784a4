"""Evaluations as pictures and tables, drawn with HoloViews from the JSON that came back.

A row with `arm` is a cell of `workbench eval --json` over all its seeds; one with `curve` is a
single long run, its curve [[tokens of the text, tokens in memory], …]; one with the `metric`
"pruning" is `workbench bench calls --part pruning --json`'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import holoviews as hv

from widgets.report import GOAL, INK_3, OWNERS, Missing, Picture, Row, read_rows

ARMS = {
    "tim": "tree, pruned",
    "flat": "flat, all kept",
    "window": "flat, a window of the tree's memory",
    "base": "base model, shown two worked problems",
}
LEAST, DRAWN = 4, 8  # problems of a cell that is told, and of one that is drawn
COLOURS = {"tim": OWNERS[0], "flat": OWNERS[4], "window": OWNERS[1], "base": INK_3}
MARKERS = {"tim": "o", "flat": "s", "window": "D", "base": "^"}


class EvalReport:
    """Pictures of the rows in every JSON file of a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.rows: list[Row] = [
            row for path in sorted(Path(folder).glob("*.json")) for row in read_rows(path)
        ]
        if not self.rows:
            raise ValueError(
                f"{folder}: JSON files with rows were wanted, none is there; "
                "`workbench eval --arms all --json` makes them"
            )

    def cells(self, task: str | None = None, **params: Any) -> list[Row]:
        """Cells over all seeds with exactly these parameters."""
        return [
            row
            for row in self.rows
            if row.get("arm") in ARMS
            and row["seed"] is None
            and row["params"] == params
            and task in (None, row["task"])
        ]

    def problems(self, least: int = LEAST) -> list[tuple[str, int]]:
        """Families and levels that the tree and another arm were asked, `least` times or more."""
        asked: dict[tuple[str, int], set[str]] = {}
        for row in self.cells():
            if row["n"] >= least:
                asked.setdefault((row["task"], row["level"]), set()).add(row["arm"])
        return [name for name, arms in asked.items() if "tim" in arms and len(arms) > 1]

    def arms(self, problems: Sequence[tuple[str, int]] | None = None) -> Any:
        """Accuracy of each arm, family by family, with its 95 % interval."""
        shown = list(problems or self.problems(DRAWN))[::-1]
        if not shown:
            return Missing("four arms", "workbench eval --arms all --json")
        place = {name: n for n, name in enumerate(shown)}
        parts = []
        for shift, (arm, label) in enumerate(ARMS.items()):
            points, bars = [], []
            for row in self.cells():
                at = place.get((row["task"], row["level"]))
                if row["arm"] == arm and at is not None:
                    y = at + 0.24 - 0.16 * shift
                    low, high = row["ci95"]
                    points.append((100 * row["accuracy"], y))
                    bars.append(hv.Curve([(100 * low, y), (100 * high, y)]))
            parts += [bar.opts(color=COLOURS[arm], linewidth=1.2, alpha=0.6) for bar in bars]
            look = {"color": COLOURS[arm], "marker": MARKERS[arm], "s": 30}
            parts.append(hv.Scatter(points, label=label).opts(**look))
        return Picture(
            hv.Overlay(parts).opts(
                title="Right answers, problem by problem the same for every arm",
                xlabel="% right (bars: 95 % interval)",
                ylabel="",
                yticks=[(n, f"{task} {level}") for (task, level), n in place.items()],
                xlim=(-2, 102),
                ylim=(-0.7, len(shown) + 4.0),
                fig_inches=7.5,
                aspect=7.5 / (0.4 * len(shown) + 2.8),
                show_grid=True,
                legend_position="top_right",
                legend_limit=1000,
            )
        )

    def table(self, problems: Sequence[tuple[str, int]] | None = None) -> str:
        """Accuracy, items, mean peak of memory: a line a problem, a column an arm."""
        lines = [f"{'':30}" + "".join(f"{arm:>22}" for arm in ARMS)]
        for task, level in problems or self.problems():
            found = {row["arm"]: row for row in self.cells(task) if row["level"] == level}
            line = f"{task + ' ' + str(level):30}"
            lines.append(line + "".join(f"{_cell(found.get(arm)):>22}" for arm in ARMS))
        return "\n".join(lines)

    def errors(self, arm: str = "tim") -> str:
        """In what kind of text wrong runs first left the right one: a line a problem."""
        lines = []
        for row in self.cells():
            if row["arm"] == arm and row["errors"] and row["n"] >= LEAST:
                told = ", ".join(f"{n} {kind}" for kind, n in sorted(row["errors"].items()))
                lines.append(f"{row['task']} {row['level']}: {told}, of {row['n']}")
        return "\n".join(lines)

    def paired(self) -> str:
        """Pruned trees against unpruned ones on the same problems."""
        return "\n".join(
            f"{row['n']} problems: {100 * row['difference']:+.1f} points ({row['gained']} gained,"
            f" {row['lost']} lost; 95 % interval {100 * row['ci95'][0]:+.1f} to"
            f" {100 * row['ci95'][1]:+.1f}), {100 * row['peak_share']:.0f} % of the memory"
            for row in self.rows
            if "difference" in row
        )

    def past(self) -> str:
        """Runs that outrun their window, by how far: a line a family and level. Cells with a
        `window` are such."""
        cells = [row for row in self.rows if "window" in row and row.get("seed", 0) is None]
        lines = []
        for row in sorted(cells, key=lambda row: (row["window"], _sampled(row))):
            low, high = row["ci95"]
            lines.append(
                f"{_sampled(row) / row['window']:4.1f} x {row['window']:,}: {row['task']}"
                f" {row['level']}, {100 * row['accuracy']:.0f} % of {row['n']} right"
                f" ({100 * low:.0f} to {100 * high:.0f} %), {_sampled(row):,.0f} tokens sampled a"
                f" problem, {row['peak_kv_tokens']:,} in memory at most"
            )
        return "\n".join(lines)

    def survival(self, multiples: Sequence[int] = (1, 2, 3, 4)) -> str:
        """Of single runs, word for word right for `stayed` sampled tokens: the share that is right
        after so many windows (Kaplan-Meier), and in brackets how many runs were, by family."""
        runs = [row for row in self.rows if "stayed" in row]
        lines = [f"{'':12}" + "".join(f"{n:>10} x window" for n in multiples)] if runs else []
        for name in [*dict.fromkeys(row["task"] for row in runs), "all"]:
            of = [row for row in runs if name in (row["task"], "all")]
            told = [_survived(of, n) for n in multiples]
            line = (f"{100 * share:.0f} % ({n})" if n else "-" for share, n in told)
            lines += [f"{name:12}" + "".join(f"{one:>19}" for one in line)] if of else []
        return "\n".join(lines)

    def naive(self) -> str:
        """The engine and a plain loop, pruned or not, on the same problems one at a time."""
        return "\n".join(
            f"{row['shape']:14} {row['impl']:32} {row['right']} of {row['n']} right,"
            f" {row['value']:6.1f} tok/s, {row['peak_kv_tokens']:,.0f} in memory at most"
            for row in self.rows
            if row.get("metric") == "pruning"
        )

    def thresholds(self) -> Any:
        """Accuracy over memory as more finished lists are kept, by mode and trigger: of the family
        and level that was tried in most ways, since points of several are no curve."""
        cells: dict[tuple[str, int], list[Row]] = {}
        for row in self.rows:
            if row.get("arm") == "tim" and row["seed"] is None and "threshold" in row["params"]:
                cells.setdefault((row["task"], row["level"]), []).append(row)
        if not cells:
            return Missing("thresholds", "workbench eval --param threshold=1 --json")
        (task, level), rows = max(cells.items(), key=lambda cell: len(cell[1]))
        ways: dict[str, list[Row]] = {}
        for row in rows:
            params = row["params"]
            way = f"{params.get('mode', 'reencode')}, {params.get('trigger', 'owner_closed')}"
            ways.setdefault(way, []).append(row)
        parts = []
        for (way, found), colour in zip(sorted(ways.items()), OWNERS, strict=False):
            points = sorted((r["mean_peak_kv_tokens"], 100 * r["accuracy"]) for r in found)
            parts += [
                hv.Curve(points, label=way).opts(color=colour, linewidth=1.4),
                hv.Scatter(points).opts(color=colour, s=34),
            ]
        least = min(int(row["n"]) for row in rows)
        return Picture(
            hv.Overlay(parts).opts(
                title=f"{task} {level}, {least} problems a point or more: "
                "more lists kept, from left to right",
                xlabel="tokens in memory at most, mean",
                ylabel="% right",
                ylim=(-2, 104),
                fig_inches=7.5,
                aspect=2.2,
                show_grid=True,
                legend_position="bottom_right",
            )
        )

    def runs(self) -> list[Row]:
        """Single long runs: those that ended before those that were given up, the longest first."""
        long = (row for row in self.rows if "curve" in row)
        return sorted(long, key=lambda row: (row["finish"] == "cut", -int(row["sampled"])))

    def memory(self, run: Mapping[str, Any] | None = None, window: int | None = None) -> Any:
        """Tokens in memory over tokens of the text, for one long run."""
        found = run or next(iter(self.runs()), None)
        if found is None:
            return Missing("a long run", "workbench eval --curves --rows F")
        limit = window or int(found["window"])
        parts = [
            hv.HLine(limit).opts(color=GOAL, linewidth=1.0, linestyle="--"),
            hv.Text(0, 0.93 * limit, f"  the window, {limit:,}", halign="left", fontsize=8).opts(
                color=GOAL
            ),
            hv.Curve([(x / 1000, y) for x, y in _thinned(found["curve"])]).opts(
                color=OWNERS[0], linewidth=0.8
            ),
        ]
        end = "right" if found["right"] else f"{found['finish']}, {found['slip'] or 'no slip'}"
        return Picture(
            hv.Overlay(parts).opts(
                title=f"{found['task']} {found['level']}: {found['sampled']:,} tokens sampled in"
                f" one inference, {found['peak']:,} in memory at most ({end})",
                xlabel="tokens of the text, in thousands",
                ylabel="tokens in memory",
                ylim=(0, 1.06 * limit),
                fig_inches=7.5,
                aspect=2.6,
                show_grid=True,
            )
        )


def _survived(runs: Sequence[Row], windows: int) -> tuple[float, int]:
    """Kaplan-Meier's share still right after so many windows, and the runs that were seen there."""
    share = 1.0
    slips = {(row["stayed"] / row["window"]) for row in runs if row["slip"]}
    for at in sorted(one for one in slips if one < windows):
        here = [row for row in runs if row["stayed"] / row["window"] >= at]
        slipped = sum(1 for row in here if row["slip"] and row["stayed"] / row["window"] == at)
        share *= 1 - slipped / len(here)
    return share, sum(1 for row in runs if row["stayed"] / row["window"] >= windows)


def _sampled(row: Row) -> float:
    return float(row["tokens"]["sampled"]) / int(row["n"])


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{100 * row['accuracy']:.0f} % of {row['n']}, {row['mean_peak_kv_tokens']:.0f}"


def _thinned(curve: Iterable[Sequence[int]], most: int = 1500) -> list[tuple[int, int]]:
    """So many points at most: of each stretch the lowest and the highest, in order."""
    points = [(int(x), int(y)) for x, y in curve]
    width = -(-len(points) * 2 // most)
    if width <= 1:
        return points
    kept: list[tuple[int, int]] = []
    for at in range(0, len(points), width):
        part = points[at : at + width]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept
