"""An endpoint on a free port, in this process: a session over a tiny net behind it."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from tests.fakes import FakePool, ScriptedModel
from tests.unit.session.fake_model import FakeModel, FakeTokenizer
from workbench.api.app import Api
from workbench.api.serve import Endpoint, bind
from workbench.forward import ForwardBatch, ForwardOutput
from workbench.model import ModelSource
from workbench.session import Session
from workbench.settings import Settings, resolve


@contextmanager
def served(session: Session, token: str | None = None, **settings: Any) -> Iterator[Endpoint]:
    ready = threading.Event()
    api = Api(session, **settings)
    endpoint = Endpoint(api, bind(), token=token, ready=lambda url: ready.set())
    thread = threading.Thread(target=endpoint.run, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield endpoint
    finally:
        endpoint.stop()
        thread.join(20)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "hi"}], **more}


def ask(endpoint: Endpoint, **more: Any) -> httpx.Response:
    return httpx.post(f"{endpoint.url}/chat/completions", json=body(**more), timeout=60)


def chunks(endpoint: Endpoint, **more: Any) -> list[dict[str, Any]]:
    """What a streamed reply says, `[DONE]` checked and left out."""
    reply = ask(endpoint, stream=True, **more)
    assert reply.status_code == 200, reply.text
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


class SlowModel(FakeModel):
    """Each pass takes a while, so that there is time to hang up; it never wants to end."""

    def __init__(self, seconds: float = 0.02, window: int = 1 << 20) -> None:
        super().__init__(window)
        self.seconds = seconds
        self.bonus[256] = -1e9

    def __call__(
        self, batch: ForwardBatch, pool: FakePool, pulse: Any = lambda: None
    ) -> ForwardOutput:
        time.sleep(self.seconds)
        return super().__call__(batch, pool, pulse)


class Scripted(ScriptedModel):
    """Says what it is told to say behind a text."""

    def __init__(self, scripts: Mapping[str, str]) -> None:
        super().__init__(scripts, window=8192)
        self.tokenizer = FakeTokenizer()
        self.adapters: dict[str, Any] = {}
        self.source = ModelSource("fake", "test", "", "", "none", 0, "Fake")
        self.reasons = ("weights: none",)


def session_of(model: Any, **settings: Any) -> Session:
    settings = {"pages": 512, "page_size": 4, "backend": "cpu", "record_top": 20, **settings}
    return Session(model, resolve(Settings(**settings)))
