"""`workbench serve`: the web app, with an OpenAI-compatible endpoint on request."""

import argparse
import importlib.util
import ipaddress
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from workbench.cli.output import Failure, Verbs, emit, log
from workbench.cli.run import engine_options, open_session
from workbench.cli.toolbox import tools_of

MOST_ALTERNATIVES = 20  # top_logprobs that a client may ask for


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("serve", parents=[common], help="the web app")
    verb.add_argument("--host", default="127.0.0.1")
    verb.add_argument("--port", type=int, default=0, help="0 takes a free one")
    verb.add_argument("--token", default=None, help="what clients must bear as API key")
    verb.add_argument("--api", action="store_true", help="the OpenAI-compatible endpoint")
    verb.add_argument("--tools", default="", metavar="LIST", help="names that a tree may call")
    verb.add_argument("--parallel", type=int, metavar="N", help="runs at a time (default: 32)")
    verb.add_argument("--queue", type=int, default=256, metavar="N", help="requests that may wait")
    verb.add_argument("--trace", type=Path, metavar="F", help="record all runs there")
    engine_options(verb)
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    if not args.api:
        serve_app(args)
        return
    if not 0 <= args.port < 65536:
        raise Failure(f"--port: 0 to 65535 is wanted, {args.port} came")
    for name, least in (("parallel", 1), ("queue", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise Failure(f"--{name}: at least {least} is wanted, {value} came")
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise Failure(
            "the endpoint was wanted, but starlette and uvicorn are not installed;"
            " install the extra: pip install 'reasoning-workbench[api]'"
        )
    serve_api(args)


def serve_app(args: argparse.Namespace) -> None:
    try:
        there = importlib.util.find_spec("widgets.app.serve") is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise Failure(
            "the web app was wanted, but this version does not have it yet;"
            " use `workbench serve --api` for the OpenAI-compatible endpoint, `workbench lab` for"
            " live views, or `workbench run … --report F.html` for a page"
        )
    importlib.import_module("widgets.app.serve").main(args)


def serve_api(args: argparse.Namespace) -> None:
    from workbench.api.app import Api
    from workbench.api.serve import Endpoint, bind

    tools = tools_of(args.tools)
    token = args.token
    if token is None and not loopback(args.host):
        token = secrets.token_urlsafe(24)  # others can reach it: never open by default
    told = {"token": token} if token != args.token else {}
    try:
        bound = bind(args.host, args.port)
    except OSError as error:
        raise Failure(
            f"the address {args.host}:{args.port} was wanted: {error.strerror or error};"
            " choose another with --host and --port"
        ) from error
    signal.signal(signal.SIGTERM, ended)
    recorded = args.trace is not None
    with (
        bound,
        open_session(args, args.trace, record=recorded, record_top=MOST_ALTERNATIVES) as session,
    ):
        api = Api(session, tools=tools, parallel=args.parallel, queue=args.queue)
        Endpoint(api, bound, token=token, ready=lambda url: announce(url, told, args)).run()


def announce(url: str, told: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        emit({"url": url, "model": args.model, **told})
        return
    print(url, flush=True)
    for name, value in told.items():
        log(f"{name}: {value}")


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ended(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the server in order: the trace is sealed."""
    sys.exit(0)
