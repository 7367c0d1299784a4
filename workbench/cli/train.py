"""`workbench train RECIPE`: a recipe of `workbench/train/`."""

import argparse
import importlib
import pkgutil

from workbench.cli.output import Failure, Verbs


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("train", parents=[common], help="train a small adapter")
    verb.add_argument("recipe")
    verb.add_argument("--out", default="runs/train", help="folder of the result")
    verb.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    verb.set_defaults(handler=run)


def recipes() -> list[str]:
    try:
        room = importlib.import_module("workbench.train")
    except ModuleNotFoundError:
        return []
    return [m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_")]


def run(args: argparse.Namespace) -> None:
    known = recipes()
    if args.recipe not in known:
        there = (
            f"there are {', '.join(known)}" if known else "this version has no training recipe yet"
        )
        raise Failure(f"recipe {args.recipe!r} was wanted, but {there}; see CHANGELOG.md")
    importlib.import_module(f"workbench.train.{args.recipe}").main(args)
