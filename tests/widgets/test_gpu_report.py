"""The GPU report: which rows count, where a dot stands, and that a picture says what it shows."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("holoviews")
from widgets.gpu_report import GpuReport, placed
from widgets.report import Missing, Picture, read_rows

GPU = Path(__file__).resolve().parents[2] / "notebooks" / "gpu"
WHERE = {"device": "a card", "date": "2026-01-02T00:00:00", "commit": "abc", "command": "made"}


def row(metric: str, shape: str, value: float, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "shape": shape, "impl": "cuda", "value": value, **WHERE, **more}


def write(folder: Path, *rows: dict[str, Any], name: str = "a.json") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_both_forms_of_a_file(tmp_path: Path) -> None:
    lines = write(tmp_path, row("x", "s", 1.0), row("x", "t", 2.0))
    whole = tmp_path / "b.json"
    whole.write_text(json.dumps({"command": ["one", "two"], "rows": [{"metric": "y"}]}))
    assert [r["value"] for r in read_rows(lines)] == [1.0, 2.0]
    assert list(read_rows(whole)) == [{"command": "one; two", "metric": "y"}]
    assert [r["shape"] for r in read_rows(write(tmp_path, row("x", "s", 1.0)))] == ["s"]


def test_the_newest_row_counts(tmp_path: Path) -> None:
    write(tmp_path, row("x", "s", 1.0, date="2026-03-01T00:00:00"), name="a.json")
    write(tmp_path, row("x", "s", 2.0, date="2026-02-01T00:00:00"), name="b.json")
    report = GpuReport(tmp_path)
    assert [r["value"] for r in report.of("x")] == [1.0]
    assert "2026-03-01 00:00  commit abc" in report.sources()


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none is there"):
        GpuReport(tmp_path)


@pytest.mark.parametrize(
    ("found", "intensity", "tflops"),
    [
        # 64 x 4096 entries of 8 heads of 128 in bf16: 4096 B and 4 * 32 * 128 FLOP each
        (row("decode attention", "64 x 4096, page 16", 250.0, bytes=2**30), 4.0, 17.18),
        # 64 branches read 8192 + 512 entries each, of which 8192 lie in memory once
        (
            row("shared prefix", "64 x (8192 + 512)", 80.0, bytes=(8192 + 64 * 512) * 4096),
            64 * 8704 * 16384 / (40960 * 4096),
            64 * 8704 * 16384 / 80e-6 / 1e12,
        ),
        (
            row("prefill attention", "1 x 4096 new of 4096, page 16", 200.0, flops=2.0**37),
            2.0**37 / (4096 * 2 * 8192 + 4096 * 4096),
            2.0**37 / 200e-6 / 1e12,
        ),
    ],
)
def test_where_a_dot_stands(found: dict[str, Any], intensity: float, tflops: float) -> None:
    at = placed(found)
    assert at is not None
    assert at == pytest.approx((intensity, tflops), rel=1e-3)


def test_what_is_not_measured_says_how(tmp_path: Path) -> None:
    write(tmp_path, row("ceiling", "read", 4.5))
    report = GpuReport(tmp_path)
    for missing in (report.pressure(), report.inbox(), report.step_time(), report.decode()):
        assert isinstance(missing, Missing)
        assert "workbench bench" in repr(missing)


def test_pictures_say_what_they_show() -> None:
    report = GpuReport(GPU)
    for picture in (report.roofline(), report.ratios(), report.decode("qwen3-8b")):
        assert isinstance(picture, Picture)
        svg = picture._repr_svg_()
        assert svg.startswith("<svg")
        assert "prefill attention" in svg or "batch 64" in svg
        assert len(svg) < 60_000
        assert svg == picture._repr_svg_()  # a page that is made again is the same page
