"""`workbench trace info|replay|export`: what a recorded run holds, audited and given to others."""

import argparse
from pathlib import Path

from workbench.cli.output import Failure, Verbs, emit, table

FORMATS = ("html", "perfetto", "parquet")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("trace", help="look into a recorded run")
    kinds = verb.add_subparsers(dest="kind", required=True, metavar="info|replay|export")
    for name, handler in (("info", info), ("replay", replay), ("export", export)):
        kind = kinds.add_parser(name, parents=[common], help=handler.__doc__)
        kind.add_argument("file", type=Path, metavar="F")
        kind.set_defaults(handler=handler)
        if name == "export":
            kind.add_argument("--to", choices=FORMATS, required=True)
            kind.add_argument("--out", type=Path, required=True, metavar="P")


def existing(path: Path) -> Path:
    if not path.is_file():
        raise Failure(
            f"a trace was wanted, {path} is no file; `workbench run … --trace F` makes one"
        )
    return path


def info(args: argparse.Namespace) -> None:
    """what a trace holds"""
    from workbench.trace import Trace

    found = Trace.open(existing(args.file)).info()
    if args.json:
        emit(found)
        return
    table([{"fact": k, "count": v} for k, v in sorted(found["events"].items())], ("fact", "count"))
    for key in ("requests", "tokens", "steps", "complete", "recovered_bytes", "lost_bytes"):
        print(f"{key:16} {found[key]}")


def replay(args: argparse.Namespace) -> None:
    """rebuild every projection and audit it"""
    from workbench.trace import replay as audit

    found = audit(existing(args.file))
    if args.json:
        emit(found)
    else:
        print("ok" if found["ok"] else "\n".join(found["violations"]))
    if not found["ok"]:
        raise Failure(f"a consistent trace was wanted, {len(found['violations'])} violations came")


def export(args: argparse.Namespace) -> None:
    """a self-contained page, or another tool's format"""
    from workbench.trace.export import export as write

    args.out.parent.mkdir(parents=True, exist_ok=True)
    size = write(existing(args.file), args.to, args.out)
    if args.json:
        emit({"out": str(args.out), "bytes": size})
    else:
        print(f"{args.out}: {size:,} bytes")
