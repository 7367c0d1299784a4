"""`workbench models list|get`: the catalogue, and fetching from it into the cache, checked."""

import argparse
from dataclasses import asdict
from typing import Any

from workbench.cli.output import Verbs, emit, note, table

FIELDS = ("name", "source", "path", "sha256", "license", "parameters", "architecture")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("models", help="the catalogue of models")
    kinds = verb.add_subparsers(dest="kind", required=True, metavar="list|get")
    kinds.add_parser("list", parents=[common], help="the catalogue").set_defaults(handler=listing)
    get = kinds.add_parser("get", parents=[common], help="fetch into the cache, checked")
    get.add_argument("name")
    get.set_defaults(handler=fetch)


def row(source: Any) -> dict[str, Any]:
    known = asdict(source)
    return {k: str(known[k]) if k == "path" and known[k] else known.get(k) for k in FIELDS}


def listing(args: argparse.Namespace) -> None:
    from workbench.model import catalogue

    rows = [row(source) for source in catalogue()]
    if args.json:
        for line in rows:
            emit(line)
    else:
        table(rows, ("name", "parameters", "architecture", "license", "source", "path"))


def fetch(args: argparse.Namespace) -> None:
    from workbench.model import fetch as get

    note(f"{args.name}: looking into the cache, else fetching")
    found = row(get(args.name))
    if args.json:
        emit(found)
    else:
        print(f"{found['name']}: {found['path']} (sha256 {str(found['sha256'])[:12]}…)")
