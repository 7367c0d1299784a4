"""`workbench train RECIPE`: make a small adapter again."""

import argparse
import difflib
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from workbench.cli.output import Failure, Verbs, emit, log


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("train", parents=[common], help="train a small adapter")
    verb.add_argument("recipe")
    verb.add_argument("--out", default="runs/train", help="folder of the result")
    verb.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    verb.add_argument("--steps", type=int, help="fewer or more steps than the recipe's")
    verb.add_argument("--seconds", type=float, help="no more steps than fit in this time")
    verb.add_argument(
        "--workers", type=int, help="processes that make batches (the cores less two, 8 at most)"
    )
    verb.add_argument(
        "--replay",
        type=int,
        metavar="N",
        help="no training: N problems a family led along their right text, with the weights in OUT",
    )
    speeds = ("plain", "compiled", "graph")
    verb.add_argument("--speed", choices=speeds, help="how a step runs; graph where CUDA is")
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    import torch

    from workbench.bench.rows import place
    from workbench.train.recipes import RECIPES, replay, train

    if args.recipe not in RECIPES:
        near = difflib.get_close_matches(args.recipe, RECIPES, 3) or sorted(RECIPES)
        raise Failure(f"recipe {args.recipe!r} is not known; did you mean {', '.join(near)}?")
    recipe = RECIPES[args.recipe]
    if args.steps:
        recipe = replace(recipe, steps=args.steps)
    out = Path(args.out)
    if args.replay:
        for replayed in replay(recipe, out / "adapter_model.safetensors", args.replay):
            emit(asdict(replayed))
        return
    if args.resume and not (out / "state.pt").exists():
        raise Failure(f"a checkpoint was wanted in {out}, none is there; leave --resume out")
    workers = args.workers or max(1, min(8, (os.cpu_count() or 2) - 2))
    for row in train(recipe, out, args.resume, workers, args.seconds, args.speed):
        log(f"step {row.step}: {row.tokens / row.seconds:,.0f} tokens/s")
        emit(asdict(row)) if args.json else log(str(asdict(row)))
    weights = out / "adapter_model.safetensors"
    emit({
        "out": str(weights),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "recipe": args.recipe,
        "validation": json.loads((out / "validation.json").read_text()),
        **place(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    })  # fmt: skip
