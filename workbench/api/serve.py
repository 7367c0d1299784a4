"""The endpoint on a socket: binds it, says when it is ready, ends with its session."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from workbench.api.app import Api, make_app

GRACE = 2.0  # seconds that open replies have when the server is told to end; then they are cut
LAST = 2  # seconds that they have to say so


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], cut: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready, self._cut = ready, cut

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(GRACE, self._cut)
        await super().shutdown(sockets)
        timer.cancel()
        self._cut()  # those that wait for a client too


def bind(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=512)


class Endpoint:
    """`run` serves on a bound socket until a signal or `stop`, and closes it."""

    def __init__(
        self,
        api: Api,
        bound: socket.socket,
        *,
        token: str | None = None,
        ready: Callable[[str], None] = lambda url: None,
    ) -> None:
        self._socket = bound
        where = bound.getsockname()
        named = f"[{where[0]}]" if bound.family == socket.AF_INET6 else where[0]
        self.url = f"http://{named}:{where[1]}/v1"
        config = uvicorn.Config(
            make_app(api, token),
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=int(GRACE) + LAST,
        )
        self._server = _Server(config, lambda: ready(self.url), api.cut)

    def run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """From any thread; open replies are given GRACE seconds."""
        self._server.should_exit = True
