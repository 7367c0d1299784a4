"""The wire: a decoder written from the format's description alone, and the pacing of a feed."""

import base64
import gzip
import json
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.unit.trace.synthetic import text_of, tim_run
from widgets.wire import RATE_HZ, SILENCE_S, Feed, Message, encode, frame, page_data
from workbench import events as ev
from workbench.trace import META, TABLES, Recorder, Tables
from workbench.trace.build import TableBuilder

SIZES = {"u1": 1, "u2": 2, "u4": 4, "i4": 4, "f4": 4, "f8": 8}
CODES = {"u1": "B", "u2": "H", "u4": "I", "i4": "i", "f4": "f", "f8": "d"}


class View:
    """What a browser does with messages, in plain Python."""

    def __init__(self) -> None:
        self.columns: dict[tuple[str, str], list[Any]] = {}
        self.seq: int | None = None
        self.resyncs = 0

    def take(self, message: Message) -> dict[str, Any]:
        header = json.loads(json.dumps(message.header, allow_nan=False))
        payload = message.payload
        assert header["wire"] == 1 and len(payload) == header["bytes"]
        assert set(header["meta"]) >= set(META)
        if header["kind"] == "delta" and header["from"] != self.seq:
            self.resyncs += 1
            return {"kind": "resync", "why": f"expected {self.seq}"}
        if header["kind"] == "snapshot":
            assert header["from"] is None
            self.columns = {}
        patches = False
        for entry in header["columns"]:
            assert not (patches and "start" in entry), "appends come before patches"
            values = self._values(entry, payload)
            key = (entry["table"], entry["column"])
            if "start" in entry:
                column = self.columns.setdefault(key, [])
                assert len(column) == entry["start"]
                column += values
            else:
                patches = True
                rows = self._numbers(payload, entry["rows"], entry["count"], "u4")
                for row, value in zip(rows, values, strict=True):
                    self.columns[key][row] = value
        for table, rows in header["tables"].items():
            for column in TABLES[table]:
                assert len(self.columns[table, column]) == rows
        self.seq = header["seq"]
        return {"kind": "ack", "seq": self.seq}

    def _numbers(self, payload: bytes, at: int, count: int, dtype: str) -> list[Any]:
        assert at % 8 == 0 and at + count * SIZES[dtype] <= len(payload)
        return list(struct.unpack_from(f"<{count}{CODES[dtype]}", payload, at))

    def _values(self, entry: dict[str, Any], payload: bytes) -> list[Any]:
        if entry["dtype"] not in ("str", "bytes"):
            return self._numbers(payload, entry["at"], entry["count"], entry["dtype"])
        offsets = self._numbers(payload, entry["at"], entry["count"] + 1, "u4")
        assert entry["text"] % 8 == 0 and offsets[0] == 0 and offsets[-1] == entry["length"]
        texts = payload[entry["text"] : entry["text"] + entry["length"]]
        parts = [texts[a:b] for a, b in pairwise(offsets)]
        return [p.decode() for p in parts] if entry["dtype"] == "str" else parts


def shows(view: View, tables: Tables) -> bool:
    whole = {
        (t, c): list(v) if isinstance(v, list) else v.tolist()
        for t in tables
        for c, v in tables[t].items()
    }
    return repr(view.columns) == repr({key: whole[key] for key in view.columns}) and len(
        whole
    ) == len(view.columns)


def test_snapshot_then_deltas() -> None:
    events = tim_run(500, forks=True, experts=4, pages=600)
    builder, view = TableBuilder(), View()
    seen: int | None = None
    for start in range(0, len(events), 23):
        delta = builder.apply(events[start : start + 23]).delta(seen)
        assert view.take(encode(delta)) == {"kind": "ack", "seq": delta.revision}
        seen = delta.revision
    assert shows(view, builder.tables)


def test_empty_tables_make_a_whole_snapshot() -> None:
    message = encode(TableBuilder().tables.delta(None))
    view = View()
    view.take(message)
    assert set(view.columns) == {(t, c) for t, columns in TABLES.items() for c in columns}


def test_frame_and_page_data() -> None:
    tables = TableBuilder().apply(tim_run(200))
    message = encode(tables.delta(None))
    data = frame(message)
    assert data[:4] == b"WBW1"
    (length,) = struct.unpack_from("<I", data, 4)
    assert (8 + length) % 8 == 0
    assert json.loads(data[8 : 8 + length]) == json.loads(json.dumps(message.header))
    assert data[8 + length :] == message.payload
    page = page_data(tables.delta(None))
    assert gzip.decompress(base64.b64decode(page)) == data
    assert page == page_data(tables.delta(None)), "the same trace makes the same page"


def test_meta_that_json_cannot_hold() -> None:
    tables = TableBuilder().tables
    tables.meta["limit"] = float("inf")
    assert encode(tables.delta(None)).header["meta"]["limit"] is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def live() -> tuple[Recorder, list[ev.Event], Clock, Feed]:
    recorder, clock = Recorder(None, text_of), Clock()
    return recorder, tim_run(600), clock, Feed(recorder.live, clock)


Live = tuple[Recorder, list[ev.Event], Clock, Feed]


def test_no_more_than_thirty_messages_a_second(live: Live) -> None:
    recorder, events, clock, feed = live
    view, sent = View(), 0
    for event in events[:1000]:
        recorder.emit(event)
        clock.now += 0.001
        if message := feed.poll():
            sent += 1
            assert feed.answer(view.take(message))
    assert 25 <= sent <= RATE_HZ * 1.0 + 1
    clock.now += 1
    if message := feed.poll():
        view.take(message)
    assert shows(view, recorder.live.tables())


def test_nothing_new_sends_nothing(live: Live) -> None:
    recorder, events, clock, feed = live
    recorder.emit(events[0])
    message = feed.poll()
    assert message and feed.answer({"kind": "ack", "seq": message.header["seq"]})
    clock.now += 1
    assert feed.poll() is None


def test_a_slow_view_gets_one_joined_delta(live: Live) -> None:
    recorder, events, clock, feed = live
    view = View()
    on_the_way = []
    for event in events[:600]:
        recorder.emit(event)
        clock.now += 0.002
        if message := feed.poll():
            on_the_way.append(message)
    assert len(on_the_way) == 2, "two unanswered, then silence"
    for message in on_the_way:
        feed.answer(view.take(message))
    clock.now += 0.1
    joined = feed.poll()
    assert joined and joined.header["kind"] == "delta"
    feed.answer(view.take(joined))
    assert view.resyncs == 0 and shows(view, recorder.live.tables())


def test_a_silent_view_gets_a_snapshot(live: Live) -> None:
    recorder, events, clock, feed = live
    for event in events[:400]:
        recorder.emit(event)
        clock.now += 0.002
        feed.poll()
    clock.now += SILENCE_S
    message = feed.poll()
    assert message and message.header["kind"] == "snapshot"
    view = View()
    view.take(message)
    assert shows(view, recorder.live.tables())


def test_a_view_that_lost_a_message_asks_again(live: Live) -> None:
    recorder, events, clock, feed = live
    view = View()
    for i, event in enumerate(events[:900]):
        recorder.emit(event)
        clock.now += 0.005
        if (message := feed.poll()) and i % 7:  # some get lost
            feed.answer(view.take(message))
    clock.now += SILENCE_S
    while message := feed.poll():
        feed.answer(view.take(message))
        clock.now += 1
    assert shows(view, recorder.live.tables())


def test_other_messages_are_not_ours(live: Live) -> None:
    assert not live[3].answer({"kind": "gesture"})


def test_bytes_of_tokens_need_not_be_text() -> None:
    recorder = Recorder(None, lambda token: "é".encode()[token % 2 :][:1])
    recorder.emit(ev.TokensFed(ev.Step(0), ev.SeqId(0), 0, ev.Origin.PROMPT, (0, 1)))
    view = View()
    view.take(encode(recorder.live.delta(None)))
    assert b"".join(view.columns["vocabulary", "text"]).decode() == "é"
    assert np.array(view.columns["vocabulary", "id"]).tolist() == [0, 1]
