"""`workbench screenshots`: the gallery of every view, light and dark, from a recorded run."""

import argparse
import importlib.util
from pathlib import Path

from workbench.cli.output import Failure, Verbs, emit
from workbench.cli.trace import existing


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("screenshots", parents=[common], help="pictures of every view")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")
    verb.add_argument(
        "--trace", type=Path, default=Path("binder/traces/first_run.wbt"), metavar="F"
    )
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("playwright") is None:
        raise Failure(
            "playwright was wanted to drive a browser, it is not installed;"
            " install the extra: pip install 'reasoning-workbench[test]'"
        )
    from widgets.gallery import shoot
    from workbench.session.editing import judge

    args.out.mkdir(parents=True, exist_ok=True)
    files = [str(path) for path in shoot(existing(args.trace), args.out, judge)]
    if args.json:
        emit({"files": files})
    else:
        print("\n".join(files))
