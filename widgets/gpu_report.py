"""The GPU's measurements as pictures, drawn with HoloViews from the JSON that came back.

A file holds rows, one JSON object a line, or one object with `rows` beside what they share. Every
row says its device, date, commit and command; of rows with the same metric, shape and impl the
newest counts.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import holoviews as hv

from widgets.report import (
    GOAL,
    INK,
    INK_3,
    OWN,
    OWNERS,
    PEER,
    Missing,
    Picture,
    Row,
    read_rows,
)  # fmt: skip

# of Qwen3-8B's attention, whose shape the kernel rows have: 4 query heads share a KV head
DECODE_INTENSITY = 4.0  # FLOP a byte of bf16 KV
TOKEN_FLOPS, TOKEN_BYTES, QUERY_BYTES = 4 * 128 * 32, 4096, 4 * 128 * 32
ROOFS = ("decode attention", "shared prefix", "prefill attention", "experts")


class GpuReport:
    """Pictures of the rows in every JSON file of a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        newest: dict[tuple[str, str, str], Row] = {}
        for path in sorted(self.folder.glob("*.json")):
            for row in read_rows(path):
                key = (str(row["metric"]), str(row["shape"]), str(row["impl"]))
                if key not in newest or str(newest[key]["date"]) <= str(row["date"]):
                    newest[key] = row
        if not newest:
            raise ValueError(
                f"{self.folder}: JSON files with rows were wanted, none is there; "
                "`workbench bench kernels --json` on a GPU makes them"
            )
        self.rows = list(newest.values())

    def of(self, metric: str) -> list[Row]:
        return [row for row in self.rows if row["metric"] == metric]

    def sources(self) -> str:
        """Where every row is from: a line a command, device, commit and day."""
        counts: dict[tuple[str, ...], int] = {}
        for row in self.rows:
            key = (
                str(row["device"]),
                str(row["date"])[:16].replace("T", " "),
                str(row["commit"])[:7],
                str(row.get("command", "")),
            )
            counts[key] = counts.get(key, 0) + 1
        return "\n".join(
            f"{n:3} rows  {device}  {date}  commit {commit}  {command}"
            for (device, date, commit, command), n in sorted(counts.items())
        )

    def agreement(self) -> str:
        """How often the nets on the GPU would say what the CPU says in float32, token by token."""
        return "\n".join(
            f"{row['impl']:16} {row['value']:.2f} % of tokens, mean KL {row['kl']:.1e}, where they "
            f"differ the CPU's two best are at most {row['widest_margin']} apart"
            for row in self.of("agreement with fp32 on the CPU")
        )

    def ceiling(self, shape: str) -> float:
        """TB/s or TFLOP/s of the card, measured in the run of the kernels."""
        found = [float(r["value"]) for r in self.of("ceiling") if r["shape"] == shape]
        if not found:
            raise ValueError(f"a row 'ceiling', {shape!r} was wanted; there are {len(self.rows)}")
        return found[0]

    def roofline(self) -> Any:
        """TFLOP/s over FLOP a byte, beneath what the card reads and multiplies."""
        read, product = self.ceiling("read"), self.ceiling("bf16 product")
        ridge = product / read
        roof = hv.Curve([(0.5, 0.5 * read), (ridge, product), (8000, product)])
        parts = [roof.opts(color=INK, linewidth=1.2)]
        for name, colour in zip(ROOFS, OWNERS, strict=False):
            points = [p for row in self.of(name) if (p := placed(row)) is not None]
            if points:
                dots = hv.Scatter(points, label=name)
                parts.append(dots.opts(color=colour, s=34, alpha=0.85))
        text = f"reads {read:.2f} TB/s, multiplies {product:.0f} TFLOP/s (bf16)"
        return Picture(
            hv.Overlay(parts).opts(
                logx=True,
                logy=True,
                xlabel="FLOP a byte of memory",
                ylabel="TFLOP/s",
                title=f"{self._device()}: {text}",
                fig_inches=7.5,
                aspect=1.9,
                show_grid=True,
                legend_position="bottom_right",
                xlim=(0.5, 8000),
                ylim=(0.5, 1.6 * product),
            )
        )

    def ratios(self, metrics: Sequence[str] = (*ROOFS, "compaction")) -> Any:
        """Share of the floor that ours and the best peer of the same run reach."""
        rows = [row for name in metrics for row in self.of(name)]
        if not rows:
            return Missing("kernels", "on a GPU: workbench bench kernels --json")
        names = [f"{row['metric']}, {row['shape']}" for row in rows][::-1]
        place = {name: n for n, name in enumerate(names)}
        own, theirs = [], []
        for row in rows:
            at = place[f"{row['metric']}, {row['shape']}"]
            own.append((float(row["floor_ratio"]), at))
            if row.get("ratio"):
                theirs.append((float(row["floor_ratio"]) / float(row["ratio"]), at))
        parts = [
            hv.VLine(1.0).opts(color=INK_3, linewidth=1.0),
            hv.Scatter(theirs, label="best peer that ran beside").opts(
                color=PEER, marker="D", s=22, alpha=0.8
            ),
            hv.Scatter(own, label="ours").opts(color=OWN, s=36),
        ]
        return Picture(
            hv.Overlay(parts).opts(
                xlabel="share of the floor (1: what memory or arithmetic allows)",
                ylabel="",
                yticks=[(n, name) for name, n in place.items()],
                xlim=(0, 1.15),
                ylim=(-1, len(names)),
                fig_inches=6,
                aspect=5 / (0.16 * len(names) + 1),
                show_grid=True,
                legend_position="bottom_left",
                title="How near to the wall",
            )
        )

    def decode(self, shape: str = "qwen3-8b") -> Any:
        """Tokens a second by batch, everybody as a share of the floor."""
        rows = [
            row for metric in ("decode step", "decode") for row in self.of(metric)
            if str(row["shape"]).startswith(shape) and row["unit"] == "tok/s"
        ]  # fmt: skip
        if not rows:
            return Missing("decode", f"on a GPU: workbench bench decode --shape {shape} --json")
        floors = {_batch(row): float(row["floor"]) for row in rows if row.get("floor")}
        parts = []
        impls = sorted({_impl(row) for row in rows}, key=lambda name: "transformers" in name)
        batches = sorted(floors)
        for impl, colour in zip(impls, OWNERS, strict=False):
            points = sorted(
                (batches.index(_batch(row)), _share(row, floors[_batch(row)]))
                for row in rows
                if _impl(row) == impl and _batch(row) in floors
            )
            curve = hv.Curve(points, label=impl).opts(color=colour, linewidth=1.6)
            parts += [curve, hv.Scatter(points).opts(color=colour, s=36)]
        ticks = [(n, f"batch {b}\nfloor {floors[b]:,.0f} tok/s") for n, b in enumerate(batches)]
        return Picture(
            hv.Overlay(parts).opts(
                title=f"{shape}, 4k context: share of what memory allows",
                xlabel="",
                ylabel="",
                xticks=ticks,
                ylim=(0, 1.45),
                fig_inches=7.5,
                aspect=2.2,
                show_grid=True,
                legend_position="top_left",
            )
        )

    def step_time(self, batch: int = 8) -> Any:
        """Where the device time of one decode step goes, by kernel."""
        found = [row for row in self.of("kernels of a decode step") if _batch(row) == batch]
        if not found:
            return Missing(
                "profile of a step", "on a GPU: workbench bench decode --part profile --json"
            )
        row = found[-1]
        entries = list(row["kernels"])[:12][::-1]
        bars = [(n, float(entry["us"])) for n, entry in enumerate(entries)]
        whose = sorted({str(entry["whose"]) for entry in entries})
        colours = dict(zip(["ours", "cuBLAS", "torch", "copies"], OWNERS, strict=False))
        parts = []
        for owner in whose:
            mine = [b for b, e in zip(bars, entries, strict=True) if e["whose"] == owner]
            parts.append(
                hv.Overlay(
                    [
                        hv.Curve([(0, n), (us, n)]).opts(color=colours[owner], linewidth=9)
                        for n, us in mine
                    ]
                )
            )
            parts.append(
                hv.Scatter([(us, n) for n, us in mine], label=owner).opts(
                    color=colours[owner], s=20, marker="s"
                )
            )
        names = [(n, f"{_short(str(e['kernel']))} x {e['calls']:g}") for n, e in enumerate(entries)]
        total = float(row["device_us"])
        return Picture(
            hv.Overlay(parts)
            .collate()
            .opts(
                title=f"{row['shape']}: {total / 1e3:.2f} ms on the device,"
                f" {row['value']:g} % in our kernels and cuBLAS",
                xlabel="us a step",
                ylabel="",
                yticks=names,
                fig_inches=7.5,
                aspect=2.1,
                ylim=(-0.8, len(names) - 0.2),
                xlim=(0, None),
                legend_position="bottom_right",
                show_grid=True,
            )
        )

    def pressure(self) -> Any:
        """Throughput of long requests over the share of them that was pruned."""
        rows = self.of("throughput under pruning")
        if not rows:
            return Missing("pruning", "on a GPU: workbench bench pressure --json")
        plain = [row for row in rows if not row["share"]]
        parts = []
        for mode, colour in (("reencode", OWNERS[5]), ("rotate", OWNERS[6])):
            points = sorted(
                (100 * float(row["share"]), float(row["value"]))
                for row in [*plain, *rows]
                if row in plain or row["mode"] == mode
            )
            parts += [
                hv.Curve(points, label=mode).opts(color=colour, linewidth=1.8),
                hv.Scatter(points).opts(color=colour, s=36),
            ]
        twice = 2 * float(plain[0]["value"])
        parts.append(hv.HLine(twice).opts(color=GOAL, linewidth=1.0, linestyle="--"))
        top = 1.1 * max(twice, *(float(row["value"]) for row in rows))
        title = str(rows[0]["shape"]).rsplit(",", 1)[0]
        return Picture(
            hv.Overlay(parts).opts(
                title=f"{title} (dashed: twice as fast){_note(rows)}",
                xlabel="% of the KV pruned on the way",
                ylabel="tok/s",
                ylim=(0, top),
                fig_inches=7.5,
                aspect=2.2,
                show_grid=True,
                legend_position="top_left",
            )
        )

    def inbox(self) -> Any:
        """Milliseconds from a command's hand-in to its event: the median, and 95 of 100."""
        rows = self.of("command to event")
        if not rows:
            return Missing("commands", "on a GPU: workbench bench inbox --json")
        names = [(n, str(row["shape"]).split(",")[0]) for n, row in enumerate(rows[::-1])]
        half = [(float(row["value"]), n) for n, row in enumerate(rows[::-1])]
        most = [(float(row["p95"]), n) for n, row in enumerate(rows[::-1])]
        parts = [
            hv.VLine(float(rows[0]["goal"])).opts(color=GOAL, linewidth=1.0, linestyle="--"),
            hv.Scatter(half, label="median").opts(color=OWN, s=40),
            hv.Scatter(most, label="95 of 100").opts(color=OWN, s=40, marker="D"),
        ]
        return Picture(
            hv.Overlay(parts).opts(
                title=f"From hand-in to event, {rows[0]['impl']} (dashed: the goal){_note(rows)}",
                logx=True,
                xlabel="ms",
                ylabel="",
                yticks=names,
                ylim=(-0.8, len(names) - 0.2),
                xlim=(0.05, 300),
                fig_inches=7.5,
                aspect=4.0,
                show_grid=True,
                legend_position="top_left",
            )
        )

    def grammar(self) -> Any:
        """Milliseconds of a step under grammars, and how long of it the device stood idle."""
        rows = self.of("decode under a grammar")[::-1]
        if not rows:
            return Missing("steps under a grammar", "on a GPU: workbench bench masks --json")
        names = [(n, str(row["shape"]).rsplit(", ", 1)[-1]) for n, row in enumerate(rows)]
        wait = [(float(row["wait_ms"]), n) for n, row in enumerate(rows)]
        whole = [(float(row["value"]), n) for n, row in enumerate(rows)]
        lines = [
            hv.Curve([(0, n), (ms, n)]).opts(color=colour, linewidth=width)
            for dots, colour, width in ((whole, OWN, 9), (wait, GOAL, 9))
            for ms, n in dots
        ]
        ends = [
            hv.Scatter(whole, label="a step").opts(color=OWN, s=20, marker="s"),
            hv.Scatter(wait, label="waits for masks").opts(color=GOAL, s=20, marker="s"),
        ]
        return Picture(
            hv.Overlay([*lines, *ends]).opts(
                title=str(rows[0]["shape"]).rsplit(", ", 1)[0] + _note(rows),
                xlabel="ms a step",
                ylabel="",
                yticks=names,
                ylim=(-0.8, len(names) - 0.2),
                xlim=(0, 1.25 * max(ms for ms, _ in whole)),
                fig_inches=7.5,
                aspect=4.0,
                show_grid=True,
                legend_position="top_right",
            )
        )

    def _device(self) -> str:
        return str(self.of("ceiling")[0]["device"])


def placed(row: Row) -> tuple[float, float] | None:
    """(FLOP a byte, TFLOP/s) of a kernel row."""
    seconds = 1e-6 * float(row["value"])
    numbers = [int(n) for n in _digits(str(row["shape"]))]
    match row["metric"]:
        case "decode attention":
            flops, size = DECODE_INTENSITY * float(row["bytes"]), float(row["bytes"])
        case "shared prefix":
            branches, prefix, own = numbers[:3]
            flops, size = float(branches * (prefix + own) * TOKEN_FLOPS), float(row["bytes"])
        case "prefill attention":
            rows, new, lens = numbers[:3]
            flops, size = (
                float(row["flops"]),
                float(rows * (new * QUERY_BYTES + lens * TOKEN_BYTES)),
            )
        case "experts":
            flops, size = float(row["flops"]), float(row["bytes"])
        case _:
            return None
    return flops / size, flops / seconds / 1e12


def _digits(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()


def _share(row: Row, floor: float) -> float:
    """Of the row's own floor, where it has one."""
    return float(row.get("floor_ratio") or float(row["value"]) / floor)


def _note(rows: Iterable[Row]) -> str:
    """What has to be said beside a picture of these rows."""
    return "".join(f"\n{note}" for note in sorted({str(r["note"]) for r in rows if r.get("note")}))


def _batch(row: Row) -> int:
    after = str(row["shape"]).split("batch ")[-1]
    return int(_digits(after)[0])


def _impl(row: Row) -> str:
    if row["metric"] == "decode step":
        return "our kernels, one graph"
    name = str(row["impl"])
    return "the engine" if name.startswith("workbench") else name


def _short(kernel: str) -> str:
    name = kernel.split("(")[0].removeprefix("void ")
    return name if len(name) <= 34 else name[:33] + "…"
