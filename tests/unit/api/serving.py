"""An endpoint on a free port, in this process: a session over a tiny net behind it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from workbench.api.app import Api, make_app
from workbench.api.serve import Endpoint
from workbench.session import Session


@contextmanager
def served(session: Session, token: str | None = None, **settings: Any) -> Iterator[Endpoint]:
    ready = threading.Event()
    app = make_app(Api(session, **settings), token)
    endpoint = Endpoint(app, "127.0.0.1", 0, lambda url: ready.set())
    thread = threading.Thread(target=endpoint.run, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield endpoint
    finally:
        endpoint.stop()
        thread.join(20)


def ask(endpoint: Endpoint, **body: Any) -> httpx.Response:
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], **body}
    return httpx.post(f"{endpoint.url}/chat/completions", json=body, timeout=60)
