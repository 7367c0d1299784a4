"""A client that hangs up frees its pages within one step, whatever it was waiting for."""

import json
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.unit.api.serving import SlowModel, ask, body, served, session_of
from workbench.api.serve import Endpoint
from workbench.events import CommandAccepted, PageReleased, RequestEnded, TokenSampled
from workbench.session import Session
from workbench.words import Finish

STEP = 0.1  # seconds of a pass


def dial(endpoint: Endpoint, **more: object) -> socket.socket:
    """A request over a bare socket."""
    at = urlsplit(endpoint.url)
    assert at.hostname is not None
    line = socket.create_connection((at.hostname, at.port), timeout=30)
    raw = json.dumps(body(**more)).encode()
    head = (
        f"POST {at.path}/chat/completions HTTP/1.1\r\nHost: {at.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    line.sendall(head.encode() + raw)
    return line


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


def held(session: Session) -> int:
    return session.engine.memory.pages.held


@pytest.mark.parametrize("stream", [True, False])
def test_pages_are_free_within_one_step(stream: bool) -> None:
    with session_of(SlowModel(STEP)) as session, served(session) as endpoint:
        line = dial(endpoint, stream=stream)
        if stream:
            seen = b""
            while seen.count(b"data: ") < 4:
                seen += line.recv(4096)
        wait_for(
            lambda: len(list(session.trace.events(TokenSampled))) >= 3 or session.engine.now > 4
        )
        assert held(session) > 0
        step = session.engine.now
        line.close()
        wait_for(lambda: session.engine.requests[0].finish is not None)
        assert session.engine.requests[0].finish is Finish.CANCELLED
        assert held(session) == 0 and session.engine.now <= step + 1
        wait_for(lambda: not session.runs)
        assert ask(endpoint, max_tokens=2).status_code == 200  # it goes on with others
        session.engine.audit()
        session.close()
        [cancel] = session.trace.events(CommandAccepted)
        released = [e for e in session.trace.events(PageReleased) if e.seq == 0]
        [ended] = [e for e in session.trace.events(RequestEnded) if e.request == 0]
        assert cancel.step == ended.step <= step + 1
        assert {event.step for event in released} == {ended.step}


def test_a_neighbour_goes_on() -> None:
    with session_of(SlowModel(0.02)) as session, served(session) as endpoint:
        replies = []
        asked = {"max_tokens": 40, "temperature": 0}
        alone = ask(endpoint, **asked).json()["choices"]
        neighbour = threading.Thread(
            target=lambda: replies.append(ask(endpoint, **asked).json()["choices"])
        )
        neighbour.start()
        line = dial(endpoint, stream=True)
        line.recv(200)
        line.close()
        neighbour.join(30)
        assert replies == [alone]


def test_who_waits_in_the_queue_may_leave_it() -> None:
    with session_of(SlowModel(0.02)) as session, served(session, parallel=1) as endpoint:
        first, second = dial(endpoint, stream=True), None
        wait_for(lambda: session.runs)
        second = dial(endpoint, stream=True)
        time.sleep(0.2)
        second.close()
        time.sleep(0.2)
        first.close()
        wait_for(lambda: not session.runs)
        assert ask(endpoint, max_tokens=1).status_code == 200
        assert len(session.engine.requests) == 2  # the second one never became a request


def test_a_tree_ends_with_its_client() -> None:
    with session_of(SlowModel(0.02)) as session, served(session) as endpoint:
        line = dial(endpoint, stream=True, model="fake/tim", temperature=1.0)
        while b"reasoning_content" not in line.recv(4096):
            pass
        line.close()
        wait_for(lambda: session.engine.requests[0].finish is not None)
        assert session.engine.requests[0].finish is Finish.CANCELLED and held(session) == 0


def test_a_server_that_stops_cuts_what_runs_and_says_so() -> None:
    with session_of(SlowModel(0.02)) as session:
        with served(session) as endpoint:
            line = dial(endpoint, stream=True)
            line.recv(200)
            endpoint.stop()
            told = b""
            while more := line.recv(65536):
                told += more
        assert b"the run was cancelled" in told and told.rstrip().endswith(b"0")
        assert session.engine.requests[0].finish is Finish.CANCELLED and held(session) == 0
        line.close()
