"""The endpoint on a socket: binds it, says when it is ready, ends with its session."""

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

GRACE = 3  # seconds that open replies have when the server is told to end


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class Endpoint:
    """`run` serves until a signal or `stop`. Raises OSError where the address is taken."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, ready: Callable[[str], None] = lambda url: None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=512)
        where = self._socket.getsockname()
        named = f"[{where[0]}]" if family == socket.AF_INET6 else where[0]
        self.url = f"http://{named}:{where[1]}/v1"
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", timeout_graceful_shutdown=GRACE
        )
        self._server = _Server(config, lambda: ready(self.url))

    def run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self, signal: int = 0, frame: FrameType | None = None) -> None:
        """From any thread; open replies are given GRACE seconds."""
        self._server.should_exit = True
