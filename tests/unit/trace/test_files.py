"""Files that were cut, flipped, killed or filled up."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.trace.synthetic import text_of, tim_run
from workbench.events import Event, Noted, TokenKnown
from workbench.trace import Recorder, Trace, TraceError
from workbench.trace.files import CHUNK, TraceFile, scan


def write(path: Path, events: list[Event], chunk_events: int = 100) -> list[Event]:
    recorder = Recorder(path, text_of, chunk_events=chunk_events, flush_s=1e9)
    for event in events:
        recorder.emit(event)
    recorder.close()
    return list(recorder.live.events())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    path = tmp_path_factory.mktemp("trace") / "run.wbt"
    return path, write(path, tim_run(150))


def test_a_whole_file(recorded: tuple[Path, list[Event]]) -> None:
    path, events = recorded
    trace = Trace.open(path)
    assert list(trace.events()) == events
    assert trace.complete and trace.lost_bytes == 0
    assert trace.recovered_bytes == path.stat().st_size


def test_cut_at_every_byte_of_the_last_chunks(
    recorded: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    path, events = recorded
    data = path.read_bytes()
    places = scan(path).places
    before = places[-1].offset - CHUNK.size
    held = sum(place.events for place in places[:-1])
    cut = tmp_path / "cut.wbt"
    for size in range(before, len(data)):
        cut.write_bytes(data[:size])
        trace = Trace.open(cut)
        assert (trace.recovered_bytes, trace.lost_bytes) == (before, size - before)
        assert not trace.complete
    assert list(trace.events()) == events[:held]
    assert trace.tables()["tokens"].rows


def test_every_byte_of_a_chunk_flipped(recorded: tuple[Path, list[Event]], tmp_path: Path) -> None:
    path, events = recorded
    data = path.read_bytes()
    place = scan(path).places[-2]
    start = place.offset - CHUNK.size
    held = sum(p.events for p in scan(path).places[:-2])
    flipped = tmp_path / "flipped.wbt"
    end = place.offset + place.length
    for at in (*range(start, place.offset + 8), *range(place.offset + 8, end, 7), end - 1):
        flipped.write_bytes(data[:at] + bytes((data[at] ^ 0x10,)) + data[at + 1 :])
        trace = Trace.open(flipped)
        assert trace.recovered_bytes == start and trace.lost_bytes == len(data) - start
    assert list(trace.events()) == events[:held]


def test_a_damaged_header_says_so(recorded: tuple[Path, list[Event]], tmp_path: Path) -> None:
    path, _ = recorded
    data = path.read_bytes()
    bad = tmp_path / "bad.wbt"
    for at, match in (
        (0, "wanted a workbench trace"),
        (8, "newer|damaged"),
        (12, "header"),
        (40, "header is damaged"),
    ):
        bad.write_bytes(data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :])
        with pytest.raises(TraceError, match=match):
            Trace.open(bad)
    for size in (0, 5, 19, 60):
        bad.write_bytes(data[:size])
        with pytest.raises(TraceError):
            Trace.open(bad)


KILLED = """
import sys
from pathlib import Path
from tests.unit.trace.synthetic import text_of, tim_run
from workbench.trace import Recorder
recorder = Recorder(Path(sys.argv[1]), text_of, chunk_events=50, flush_s=1e9)
events = tim_run(4000)
print("ready", flush=True)
for event in events:
    recorder.emit(event)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "killed.wbt"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    while path.stat().st_size < 20_000:
        assert child.poll() is None, "the child ended before it was killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    trace = Trace.open(path)
    found = [e for e in trace.events() if not isinstance(e, TokenKnown)]
    whole = tim_run(4000)
    assert len(found) > 200 and found == whole[: len(found)]
    assert not trace.complete


def test_resume_goes_on_behind_the_last_whole_chunk(tmp_path: Path) -> None:
    path = tmp_path / "resumed.wbt"
    events = tim_run(150)
    write(path, events[:300])
    os.truncate(path, path.stat().st_size - 3)
    held = list(Trace.open(path).events())
    recorder = Recorder(path, text_of, resume=True)
    for event in events[300:]:
        recorder.emit(event)
    recorder.close()
    trace = Trace.open(path)
    assert trace.lost_bytes == 0 and trace.complete
    found = list(trace.events())
    assert found[: len(held)] == held == list(recorder.live.events())[: len(held)]
    known = [e.token for e in trace.events(TokenKnown)]
    assert len(known) == len(set(known))


def test_a_full_disk_is_told_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "full.wbt"
    events = tim_run(150)
    room = 6000
    pwrite = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset + len(data) > room:
            pwrite(fd, data[: max(0, room - offset)], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    recorder = Recorder(path, text_of, chunk_events=100, flush_s=1e9)
    for event in events:
        recorder.emit(event)
    recorder.close()
    assert (
        sum("No space left" in r.message for r in caplog.records) == 2
    )  # once, and once at the end
    told = [e for e in recorder.live.events(Noted) if "goes on in memory" in e.text]
    assert len(told) == 1
    kept = [e for e in recorder.live.events() if not isinstance(e, TokenKnown | Noted)]
    assert kept[: len(events)] == events
    trace = Trace.open(path)
    assert trace.lost_bytes == 0 and not trace.complete


def test_chunks_kept_in_memory_reach_the_file_when_it_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "full.wbt"
    events = tim_run(150)
    append = TraceFile.append

    def full(self: TraceFile, data: bytes, n: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = Recorder(path, text_of, chunk_events=100, flush_s=1e9)
    for event in events[:250]:
        recorder.emit(event)
    monkeypatch.setattr(TraceFile, "append", full)
    for event in events[250:]:
        recorder.emit(event)
    recorder.flush()
    monkeypatch.setattr(TraceFile, "append", append)
    recorder.close()
    trace = Trace.open(path)
    assert trace.complete
    assert [e for e in trace.events() if not isinstance(e, TokenKnown | Noted)][
        : len(events)
    ] == events
