"""`workbench bench KIND`: side by side with peers in one run, a row a measurement."""

import argparse
import importlib

from workbench.cli.output import Failure, Verbs, emit, log, table

KINDS = {
    "engine": "workbench.bench.engine",
    "decode": "workbench.bench.decode",
    "step": "kernels_cupy.bench_step",
    "pressure": "workbench.bench.pressure",
    "inbox": "workbench.bench.inbox",
    "calls": "workbench.bench.calls",
    "masks": "workbench.bench.masks",
    "laptop": "workbench.bench.laptop",
    "trace": "workbench.bench.trace",
    "widgets": "workbench.bench.widgets",
    "kernels": "kernels_cupy.bench",
    "moe": "kernels_cupy.bench",
}
PARTS = {"moe": "moe"}  # the part of its room that a kind is
COLUMNS = ("metric", "shape", "impl", "value", "unit", "peer", "ratio", "floor_ratio")


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("bench", parents=[common], help="side by side with peers")
    verb.add_argument("what", choices=sorted(KINDS))
    verb.add_argument("--part", default=None, help="one part of it")
    verb.add_argument("--shape", default=None, help="decode, pressure: qwen3-8b or qwen3-30b-a3b")
    verb.add_argument("--batches", default=None, help="decode: as in 1,8,64")
    verb.add_argument("--quick", action="store_true", help="a short run, for its correctness")
    verb.add_argument("--out", default=None, help="inbox: a folder for its recordings")
    verb.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    verb.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine in use"
    )
    verb.add_argument("--backend", default="auto", help="calls, widgets: as of `run`")
    verb.add_argument("--threads", type=int, default=1)
    verb.add_argument("--model", default="smollm2-135m-instruct")
    verb.set_defaults(handler=run)


def command(args: argparse.Namespace) -> str:
    """What makes these rows again."""
    said = ["workbench", "bench", args.what]
    for option in ("shape", "part", "batches"):
        if (value := getattr(args, option)) and PARTS.get(args.what) != value:
            said += [f"--{option}", value]
    return " ".join([*said, *(["--quick"] if args.quick else []), "--json"])


def run(args: argparse.Namespace) -> None:
    try:
        room = importlib.import_module(KINDS[args.what])
    except ModuleNotFoundError as error:
        raise Failure(
            f"bench {args.what} was wanted, but {error.name} is not there; see CHANGELOG.md for"
            " what this version measures, and `workbench doctor` for what this machine offers"
        ) from error
    args.part = args.part or PARTS.get(args.what)
    rows = []
    for row in room.rows(args):
        rows.append(row)
        if args.json:
            emit({**row, "command": command(args)})
        else:
            log(f"{row['metric']} {row['impl']}: {row['value']:.4g} {row['unit']}")
    if not args.json and rows:
        table(rows, COLUMNS)
        print(f"{rows[0]['machine']}, {rows[0]['device']}, commit {rows[0]['commit']}")
