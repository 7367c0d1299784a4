"""The endpoint's routes and its two guards: the token, and OpenAI's shape for every error."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.api.body import read_request
from workbench.api.errors import ApiError, unauthorized
from workbench.api.gate import Gate
from workbench.api.live import Completion
from workbench.api.plan import models
from workbench.api.remote import Course, Parked
from workbench.session import Run, Session
from workbench.tools import Tool

MAX_BODY = 8 << 20  # bytes


class Api:
    """What the routes share. `tools` are those that a strategy may call on this server."""

    def __init__(
        self,
        session: Session,
        *,
        tools: Sequence[Tool] = (),
        parallel: int | None = None,
        queue: int = 256,
        patience: float = 120.0,
    ) -> None:
        """`patience`: seconds that a run waits for the result of a client's tool."""
        self.session, self.tools = session, tuple(tools)
        self.gate = Gate(parallel or session.settings.max_rows, queue)
        self.runs: set[Run] = set()
        self.parked = Parked(patience, self.end)
        self.started = int(time.time())
        self.fingerprint = f"workbench-{session.model.name}"

    def end(self, course: Course) -> None:
        """The run is over, or nobody wants it any more."""
        course.run.cancel()
        if course.run in self.runs:
            self.runs.discard(course.run)
            self.session.runs.remove(course.run)

    def cut(self) -> None:
        """End what runs: its clients are told."""
        for run in self.runs:
            run.cancel()

    async def chat(self, request: Request) -> Response:
        return Completion(self, read_request(await body_of(request)))

    async def models(self, request: Request) -> Response:
        data = [self._model(name) for name in models(self.session)]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in models(self.session):
            raise ApiError(
                f"model {name!r} is not served here; {', '.join(models(self.session))} are",
                "model",
                status=404,
                code="model_not_found",
            )
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "workbench"}

    async def health(self, request: Request) -> Response:
        gate = self.gate
        return JSONResponse({"ok": True, "running": gate.running, "waiting": gate.waiting})


def make_app(api: Api, token: str | None = None) -> ASGIApp:
    routes = [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/health", api.health),
    ]
    handlers: Any = {ApiError: _told, HTTPException: _http}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return app if token is None else Guard(app, token)


class Guard:
    """Refuses whoever does not bear the token; /health stays open."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            came = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(came, self._wanted):
                error = unauthorized()
                await JSONResponse(error.body, error.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _told(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body, error.status)


async def _http(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}; /v1/chat/completions takes"
    told = ApiError(f"{message} POST, /v1/models GET", status=error.status_code)
    return JSONResponse(told.body, told.status, headers=error.headers)


async def body_of(request: Request) -> Any:
    """The body as JSON. Raises ApiError for another type (a page of some other site cannot send
    this one unasked), for one that is too large, and for what is no JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            f"content-type: application/json is wanted, {kind or 'nothing'} came", status=415
        )
    raw = bytearray()
    try:
        async for part in request.stream():
            raw += part
            if len(raw) > MAX_BODY:
                raise ApiError(f"the body is over {MAX_BODY >> 20} MiB; shorten it", status=413)
    except ClientDisconnect:
        raise ApiError("the client went before its body was whole") from None
    try:
        body = json.loads(raw, parse_constant=_no_number)
        json.dumps(body, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
        return body
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is no JSON: {error}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
