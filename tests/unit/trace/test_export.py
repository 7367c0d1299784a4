"""Exports read back by others' readers, or by a decoder that knows protobuf alone."""

import json
import struct
import sys
import types
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.unit.trace.synthetic import text_of, tim_run
from workbench import events as ev
from workbench.trace import NEVER, Recorder, Tables, Trace
from workbench.trace.export import export
from workbench.trace.perfetto import BRANCHES, PAGES, RESIDENT, STEPS, TOOLS, field, varint


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("trace") / "run.wbt"
    recorder = Recorder(path, text_of)
    for event in tim_run(600, forks=True, experts=4, seed=6):
        recorder.emit(event)
    recorder.close()
    return Trace.open(path)


Message = dict[int, list[Any]]


def decode(data: bytes) -> Message:
    """Field number -> values: ints, doubles or bytes."""
    found: Message = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            value: Any = number()
        elif key & 7 == 1:
            (value,) = struct.unpack_from("<d", data, at)
            at += 8
        else:
            assert key & 7 == 2, "a wire type that TrackEvent does not use"
            length = number()
            value = data[at : at + length]
            assert len(value) == length
            at += length
        found.setdefault(key >> 3, []).append(value)
    return found


def test_the_encoder_against_the_examples_of_the_protobuf_documents() -> None:
    assert varint(150) == b"\x96\x01" and varint(0) == b"\0" and varint(-1) == b"\xff" * 9 + b"\x01"
    assert field(1, 150) == b"\x08\x96\x01"
    assert field(2, "testing") == b"\x12\x07testing"
    assert field(3, field(1, 150)) == b"\x1a\x03\x08\x96\x01"
    assert field(4, 1.5) == b"\x21" + struct.pack("<d", 1.5)


def test_perfetto(trace: Trace, tmp_path: Path) -> None:
    out = tmp_path / "run.pftrace"
    assert export(trace, "perfetto", out) == out.stat().st_size
    packets = [decode(p) for p in decode(out.read_bytes())[1]]
    assert all(p[10] == [1] for p in packets)  # trusted_packet_sequence_id
    tracks = {}
    for packet in packets:
        for descriptor in map(decode, packet.get(60, ())):
            tracks[descriptor[1][0]] = descriptor
    branches = trace.tables()["branches"].rows
    assert set(tracks) == {1, 2, 3, 4, 5, 6, *range(BRANCHES, BRANCHES + branches)}
    assert all(tracks[t][5][0] in tracks for t in tracks if 5 in tracks[t]), "parents exist"
    assert [t for t in tracks if 8 in tracks[t]] == [4, 5, 6]  # counter descriptors

    depth: Counter[int] = Counter()
    last: dict[int, int] = {}
    slices: dict[int, list[str]] = {}
    counters: dict[int, list[int]] = {}
    for packet in packets:
        for event in map(decode, packet.get(11, ())):
            (track,), (kind,), (t,) = event[11], event[9], packet[8]
            assert track in tracks
            if kind in (1, 2):
                assert t >= last.get(track, 0), "begins and ends of a track come in order of time"
                last[track] = t
                depth[track] += 1 if kind == 1 else -1
                assert depth[track] >= 0
            if kind == 1:
                slices.setdefault(track, []).append(event[23][0].decode())
            if kind == 4:
                counters.setdefault(track, []).append(event[30][0])
    assert not any(depth.values()), "every slice that begins ends"
    tables = trace.tables()
    assert len(slices[STEPS]) == tables["steps"].rows
    assert len(slices[TOOLS]) == sum(c != NEVER for c in tables["nodes"].numbers("called"))
    assert sum(len(s) for t, s in slices.items() if t >= BRANCHES) == tables["nodes"].rows
    assert max(counters[RESIDENT]) == tables["steps"].numbers("resident").max()
    assert max(counters[PAGES]) == tables["steps"].numbers("pages").max()


@pytest.mark.parametrize("out", ["run.parquet", "run.zip"])
def test_parquet(trace: Trace, tmp_path: Path, out: str) -> None:
    size = export(trace, "parquet", tmp_path / out)
    folder = tmp_path / out
    if out.endswith(".zip"):
        assert size == folder.stat().st_size
        folder = tmp_path / "unpacked"
        zipfile.ZipFile(tmp_path / out).extractall(folder)
    else:
        assert size == sum(f.stat().st_size for f in folder.iterdir())
    tables = trace.tables()
    assert json.loads((folder / "meta.json").read_text())["page_size"] == 16
    for name, table in tables.items():
        found = pq.read_table(folder / f"{name}.parquet")
        assert found.num_rows == table.rows and found.column_names == list(table)
    tokens = pq.read_table(folder / "tokens.parquet")
    died = tables["tokens"].numbers("died")
    assert tokens["died"].null_count == (died == NEVER).sum()
    assert np.array_equal(tokens["died"].drop_null().to_numpy(), died[died != NEVER])
    assert set(tokens["field"].unique().to_pylist()) >= {"prompt", "thought", "structure"}
    nodes = pq.read_table(folder / "nodes.parquet")
    assert nodes["parent"][0].as_py() is None and nodes["title"].to_pylist() == tables[
        "nodes"
    ].texts("title")
    reasons = pq.read_table(folder / "pages.parquet")["reason"].to_pylist()
    assert "pruned" in reasons and "ended" in reasons


def test_html_is_the_page_of_the_widgets(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = types.ModuleType("widgets.page")

    def render_page(tables: Tables, title: str) -> str:
        return f"<title>{title}</title> {tables['tokens'].rows} tøkens"

    page.render_page = render_page  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "widgets.page", page)
    out = tmp_path / "run.html"
    assert export(trace, "html", out) == out.stat().st_size
    rows = trace.tables()["tokens"].rows
    assert out.read_text() == f"<title>SYNTHETIC tree</title> {rows} tøkens"


def test_a_running_trace_exports_too(tmp_path: Path) -> None:
    recorder = Recorder(None, text_of)
    for event in tim_run(120)[:200]:
        recorder.emit(event)
    assert export(recorder.live, "perfetto", tmp_path / "a.pftrace") > 1000


def test_an_unknown_form_is_refused(trace: Trace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="html, parquet, perfetto was wanted, 'csv' came"):
        export(trace, "csv", tmp_path / "a")


def test_an_empty_trace_exports(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.wbt", text_of)
    recorder.emit(ev.RunResumed(ev.Step(0), 0.0))
    recorder.close()
    assert export(tmp_path / "a.wbt", "perfetto", tmp_path / "a.pftrace")
    assert export(tmp_path / "a.wbt", "parquet", tmp_path / "a.parquet")
