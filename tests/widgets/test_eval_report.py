"""Pictures of evaluations say what the rows say."""

import json
from pathlib import Path
from typing import Any

import pytest

from widgets.eval_report import EvalReport, _thinned
from widgets.report import Missing

CELL = {
    "task": "maze", "level": 9, "arm": "tim", "params": {}, "seed": None, "n": 40, "accuracy": 0.75,
    "ci95": [0.3, 0.95], "mean_peak_kv_tokens": 412.0, "errors": {"structure": 1},
}  # fmt: skip


def report(tmp_path: Path, *rows: dict[str, Any]) -> EvalReport:
    (tmp_path / "eval.json").write_text(json.dumps({"device": "none", "rows": list(rows)}))
    return EvalReport(tmp_path)


def test_an_empty_folder_says_what_fills_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workbench eval --arms all"):
        EvalReport(tmp_path)


def test_a_table_has_every_arm_and_only_whole_cells(tmp_path: Path) -> None:
    flat = {**CELL, "arm": "flat", "accuracy": 0.25, "errors": {}}
    found = report(
        tmp_path, CELL, flat, {**CELL, "seed": 0}, {**CELL, "params": {"threshold": 1}},
        {**CELL, "level": 10},
    )  # fmt: skip
    assert found.problems() == [("maze", 9)]
    head, line = found.table().splitlines()
    assert head.split() == ["tim", "flat", "window", "base"]
    assert line.split() == "maze 9 75 % of 40, 412 25 % of 40, 412 - -".split()
    told = report(tmp_path, {
        "task": "pruned against unpruned", "seed": None, "n": 20, "difference": -0.05,
        "ci95": [-0.15, 0.05], "gained": 0, "lost": 1, "peak_share": 0.34,
    }).paired()  # fmt: skip
    assert told.startswith("20 problems: -5.0 points (0 gained, 1 lost;") and "34 %" in told
    assert found.errors().splitlines() == [
        "maze 9: 1 structure, of 40",
        "maze 10: 1 structure, of 40",
    ]
    assert "75" not in repr(found.arms()) and "<svg" in found.arms()._repr_svg_()
    assert "maze 9" in found.arms()._repr_svg_()


def test_thresholds_and_runs_are_drawn_where_they_are(tmp_path: Path) -> None:
    bare = report(tmp_path, CELL)
    assert isinstance(bare.thresholds(), Missing) and isinstance(bare.memory(), Missing)
    swept = [{**CELL, "params": {"threshold": n, "mode": "rotate"}} for n in (0, 1)]
    run = {
        "task": "hanoi", "level": 3, "sampled": 100, "peak": 60, "right": True, "finish": "stop",
        "slip": "", "window": 64, "curve": [[n, n % 60] for n in range(100)],
    }  # fmt: skip
    found = report(tmp_path, *swept, run)
    assert "rotate, owner_closed" in found.thresholds()._repr_svg_()
    assert "100 tokens sampled" in found.memory()._repr_svg_()


def test_thinning_keeps_the_extremes() -> None:
    curve = [[n, (n * 7919) % 1009] for n in range(9000)]
    kept = _thinned(curve, 300)
    assert len(kept) <= 301
    assert max(y for _, y in kept) == max(y for _, y in curve)
    assert min(y for _, y in kept) == min(y for _, y in curve)
    assert kept == sorted(kept)


def test_cells_past_the_window_are_told_by_how_far(tmp_path: Path) -> None:
    far = {**CELL, "window": 1024, "n": 2, "tokens": {"sampled": 4096}, "peak_kv_tokens": 900}
    near = {**far, "task": "chain", "tokens": {"sampled": 3072}}
    lines = report(tmp_path, far, near, {**far, "seed": 1}, CELL).past().splitlines()
    assert [line.split(",")[0] for line in lines] == [" 1.5 x 1", " 2.0 x 1"]
    assert "chain 9, 75 % of 2 right (30 to 95 %), 1,536 tokens sampled" in lines[0]


def test_runs_that_were_given_up_count_as_long_as_they_were_seen(tmp_path: Path) -> None:
    run = {"task": "chain", "window": 10, "stayed": 25, "slip": ""}
    slipped, short = {**run, "stayed": 15, "slip": "thought"}, {**run, "stayed": 5}
    told = report(tmp_path, run, slipped, short).survival((1, 2)).splitlines()
    assert [line.split() for line in told] == [
        ["1", "x", "window", "2", "x", "window"],
        # the short one was gone when one of the other two slipped
        *([name, "100", "%", "(2)", "50", "%", "(1)"] for name in ("chain", "all")),
    ]


def test_the_naive_way_stands_beside_the_engine(tmp_path: Path) -> None:
    row = {
        "metric": "pruning", "shape": "chain 20", "impl": "engine, pruned", "value": 120.0,
        "peak_kv_tokens": 612.4, "n": 3, "right": 2,
    }  # fmt: skip
    told = report(tmp_path, row, CELL).naive()
    assert (
        told.split()
        == "chain 20 engine, pruned 2 of 3 right, 120.0 tok/s, 612 in memory at most".split()
    )
