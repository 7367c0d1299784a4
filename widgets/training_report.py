"""How adapters were trained, drawn with HoloViews from what `workbench train --json` printed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import holoviews as hv

from widgets.report import INK_3, OWNERS, Picture


class TrainingReport:
    """Pictures of every `*.jsonl` in a folder: rows of steps, and last where they are from."""

    def __init__(self, folder: str | Path) -> None:
        self.runs: dict[str, list[Mapping[str, Any]]] = {}
        self.ends: dict[str, Mapping[str, Any]] = {}
        for path in sorted(Path(folder).glob("*.jsonl")):
            *steps, end = [json.loads(line) for line in path.read_text().splitlines()]
            self.runs[end["recipe"]], self.ends[end["recipe"]] = steps, end
        if not self.runs:
            raise ValueError(
                f"{folder}: JSON lines of a training were wanted, none are there; "
                "`workbench train tim-smollm2 --json` on a GPU makes them"
            )

    def sources(self) -> str:
        """Where every run is from, a line each."""
        lines = []
        for name, end in self.ends.items():
            last = self.runs[name][-1]
            speed = last["tokens"] / last["seconds"]
            lines.append(
                f"{name}: {last['step']:,} steps, {last['tokens'] / 1e6:.0f} M tokens in"
                f" {last['seconds']:.0f} s ({speed:,.0f} a second), {end['device']},"
                f" {str(end['date'])[:16]}, commit {str(end['commit'])[:7]}"
            )
        return "\n".join(lines)

    def curves(self) -> Picture:
        """Mean loss a sampled token; dots are held-out problems, longer than those of training."""
        parts: list[Any] = []
        for (name, rows), colour in zip(self.runs.items(), OWNERS, strict=False):
            line = [(row["tokens"] / 1e6, row["loss"]) for row in rows]
            dots = [(r["tokens"] / 1e6, r["validation"]) for r in rows if r["validation"]]
            parts.append(hv.Curve(line, label=name).opts(color=colour, linewidth=1.4))
            parts.append(hv.Scatter(dots).opts(color=colour, s=22))
        return Picture(
            hv.Overlay(parts).opts(
                title="loss a sampled token: training (line), held out (dots)",
                xlabel="tokens, millions",
                ylabel="",
                logy=True,
                fig_inches=(7.5, 3.4),
                aspect="auto",
                show_grid=True,
                legend_position="best",
            )
        )

    def families(self) -> Picture:
        """Held-out loss of each family at the end, the hardest first."""
        names = list(self.ends)
        ends = {name: self.ends[name]["validation"] for name in names}
        order = sorted(ends[names[-1]], key=lambda f: max(e.get(f, 0.0) for e in ends.values()))
        parts: list[Any] = []
        for name, colour in zip(names, OWNERS, strict=False):
            dots = [(max(ends[name][f], 1e-7), n) for n, f in enumerate(order) if f in ends[name]]
            parts.append(hv.Scatter(dots, label=name).opts(color=colour, s=26))
        return Picture(
            hv.Overlay([hv.VLine(1e-3).opts(color=INK_3, linewidth=0.8), *parts]).opts(
                title="held-out loss by family",
                xlabel="",
                ylabel="",
                logx=True,
                yticks=list(enumerate(order)),
                fig_inches=(7.5, 8.6),
                aspect="auto",
                show_grid=True,
                legend_position="bottom_right",
            )
        )
