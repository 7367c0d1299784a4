"""Sends a source's tables to a view at display rate, from a thread while there is news."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from widgets.wire import RATE_HZ, Feed, Message, Source

LINGER_S = 0.3  # what ends may still have a last message to come


class Pump:
    """Wakes for a view that asks and for a run that goes on; sleeps otherwise.

    Answers may come on any thread: kernels serve widget messages on their main one or on others.
    """

    def __init__(
        self, source: Source, send: Callable[[Message], None], failed: Callable[[Exception], None]
    ) -> None:
        self._source = source
        self._send = send
        self._failed = failed
        self._feed = Feed(source)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wanted = False  # a view asked and has got nothing yet
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def live(self) -> bool:
        return bool(getattr(self._source, "live", False))

    def answer(self, content: Mapping[str, Any]) -> bool:
        """An `ack` or `resync` of a view; False where the message is neither."""
        with self._lock:
            ours = self._feed.answer(content)
            if ours and content.get("kind") == "resync":
                self._wanted = True
        if ours:
            self._wake.set()
            self._start()
        return ours

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _start(self) -> None:
        with self._lock:
            if self._closed or (self._thread and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="workbench-view", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()  # of something happening
        while not self._closed:
            live = self.live
            with self._lock:
                message = self._next()
                if message is not None or self._wanted or live:
                    last = time.monotonic()
                elif time.monotonic() - last > LINGER_S:
                    self._thread = None  # an answer or a new view starts another
                    return
            if message is not None:
                self._send(message)
            self._wake.wait(1 / RATE_HZ)
            self._wake.clear()

    def _next(self) -> Message | None:
        try:
            message = self._feed.poll()
        except Exception as error:  # shown under the view; the next message is a snapshot
            self._failed(error)
            self._feed.restart()
            self._wanted = False
            return None
        if message is not None:
            self._wanted = False
        return message
