"""Training as pictures: read from what the command printed, every run with its origin."""

import json
from pathlib import Path

import pytest

from widgets import TrainingReport


def run(folder: Path, name: str, losses: list[float]) -> None:
    rows = [
        {"step": 50 * n, "loss": loss, "validation": loss if n % 2 else None,
         "tokens": 819_200 * n, "seconds": 2.5 * n}
        for n, loss in enumerate(losses, 1)
    ]  # fmt: skip
    end = {
        "out": "x", "sha256": "0", "bytes": 1, "recipe": name, "device": "a GPU",
        "date": "2026-01-01T00:00:00", "commit": "abcdef12",
        "validation": {"chain": 1e-4, "calls": 2e-2},
    }  # fmt: skip
    lines = [json.dumps(row) for row in (*rows, end)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def test_two_runs_in_one_picture(tmp_path: Path) -> None:
    run(tmp_path, "tim", [0.4, 0.03, 0.002])
    run(tmp_path, "cot", [0.3, 0.02, 0.001])
    report = TrainingReport(tmp_path)
    assert report.sources().splitlines()[1].startswith("tim: 150 steps, 2 M tokens in 8 s (327,680")
    for picture in (report.curves(), report.families()):
        svg = picture._repr_svg_()
        assert "tim" in svg and "cot" in svg
    assert "calls" in report.families()._repr_svg_()


def test_ablations_stand_beside_the_runs(tmp_path: Path) -> None:
    run(tmp_path, "tim", [0.4, 0.03])
    assert "not measured yet" in repr(TrainingReport(tmp_path).ablations())
    row = {
        "recipe": "tim-half",
        "steps": 350,
        "validation": 0.02,
        "exact": {"tool": [[3, 4], [1, 4]]},
    }
    (tmp_path / "ablations.jsonl").write_text(json.dumps(row) + "\n")
    report = TrainingReport(tmp_path)
    assert list(report.runs) == ["tim"]
    table = str(report.ablations()).splitlines()
    assert table[0].split()[-1] == "tool"
    assert table[1].split() == ["tim-half", "350", "0.0200", "3", "of", "4,", "1", "of", "4"]


def test_an_empty_folder_says_what_makes_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workbench train"):
        TrainingReport(tmp_path)
