"""How adapters were trained, drawn with HoloViews from what `workbench train --json` printed.

`ablations.jsonl` beside the runs has a row a short run: what was changed, and how many held-out
problems its adapter would write word for word, by kind, at trained and at longer levels.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import holoviews as hv

from widgets.report import INK_3, OWNERS, Missing, Picture, read_rows

ABLATIONS = "ablations.jsonl"


class TrainingReport:
    """Pictures of every `*.jsonl` in a folder: rows of steps, and last where they are from; and of
    the ablations' rows."""

    def __init__(self, folder: str | Path) -> None:
        self.runs: dict[str, list[Mapping[str, Any]]] = {}
        self.ends: dict[str, Mapping[str, Any]] = {}
        beside = Path(folder) / ABLATIONS
        self.short = list(read_rows(beside)) if beside.exists() else []
        for path in sorted(set(Path(folder).glob("*.jsonl")) - {beside}):
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
                fig_inches=(7.5, 10),
                aspect="auto",
                show_grid=True,
                legend_position="bottom_right",
            )
        )

    def ablations(self) -> str | Missing:
        """One thing changed each: held-out problems that the adapter would write word for word, at
        a trained and at a longer level."""
        if not self.short:
            return Missing("ablations", "workbench train tim-full-traces --steps 700 --json")
        kinds = list(self.short[0]["exact"])
        head = "".join(f"{kind:>24}" for kind in kinds)
        lines = [f"{'trained, longer':18}{'steps':>6}{'loss':>8}{head}"]
        for row in self.short:
            line = f"{row['recipe']:18}{row['steps']:>6,}{row['validation']:>8.4f}"
            for levels in row["exact"].values():
                said = ", ".join(f"{exact} of {n}" for exact, n in levels)
                line += f"{said:>24}"
            lines.append(line)
        return "\n".join(lines)
