"""`workbench VERB …`: parses, runs one verb, turns its outcome into an exit status.

0 done, 1 failed (one line on standard error; a traceback with `--debug`), 2 wrong usage,
130 interrupted.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from workbench.cli.output import Failure

VERBS = (
    "doctor models logits run demo evaluate bench trace train screenshots serve lab"
).split()  # modules of this room, in the order of the help

OURS = ("workbench", "widgets", "kernels_cupy")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="workbench",
        description="Drive a paged inference runtime and see its reasoning trees and pages.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="JSON lines on standard output")
    common.add_argument("--debug", action="store_true", help="tracebacks instead of one line")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        importlib.import_module(f"workbench.cli.{name}").add(verbs, common)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        args.handler(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("workbench: interrupted; what was recorded is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of standard output has gone: `… | head`
        sys.stderr.close()
        return 1
    except Exception as error:  # the last door: whatever failed becomes one line
        if args.debug:
            traceback.print_exc()
        else:
            print(f"workbench {args.verb}: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, Failure) or type(error).__module__.startswith(OURS):
        return text
    kind = type(error).__name__
    return f"{kind}: {text or 'no message'} (run again with --debug for where)"


if __name__ == "__main__":
    sys.exit(main())
