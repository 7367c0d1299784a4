"""`workbench serve`: the web app, with an OpenAI-compatible endpoint on request."""

import argparse
import importlib.util

from workbench.cli.output import Failure, Verbs


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("serve", parents=[common], help="the web app")
    verb.add_argument("--host", default="127.0.0.1")
    verb.add_argument("--port", type=int, default=0)
    verb.add_argument("--token", default=None)
    verb.add_argument("--api", action="store_true", help="also the OpenAI-compatible endpoint")
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    missing = "the OpenAI-compatible endpoint" if args.api else "the web app"
    room = "workbench.api" if args.api else "widgets.app"
    try:
        there = importlib.util.find_spec(room + ".serve") is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise Failure(
            f"{missing} was wanted, but this version does not have it yet;"
            " use `workbench lab` for live views, or `workbench run … --report F.html` for a page"
        )
    importlib.import_module(room + ".serve").main(args)
