"""`workbench eval`: accuracy and cost of strategies on tasks, a row a seed and one over all."""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench.cli import eval_workers
from workbench.cli.output import Failure, Verbs, emit, pairs, table
from workbench.cli.run import engine_options

COLUMNS = (
    "task", "level", "arm", "params", "seed", "n", "accuracy", "ci95", "tok_s", "peak_kv_tokens",
    "wall_s",
)  # fmt: skip


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("eval", parents=[common], help="accuracy and cost on a task")
    verb.add_argument("--strategy", default="tim")
    verb.add_argument("--task", default="chain")
    verb.add_argument("--level", type=int, default=8, help="size of a problem")
    verb.add_argument("--n", type=int, default=4, help="problems a seed")
    verb.add_argument("--seeds", type=int, default=1, help="draws of the problems")
    verb.add_argument("--param", action="append", metavar="k=v")
    verb.add_argument("--budget", action="append", metavar="k=v")
    verb.add_argument("--tools", default="", help="further tools beside the task's own")
    verb.add_argument("--arms", metavar="LIST", help="of tim,flat,window,base, or all of them: all")
    verb.add_argument(
        "--plan",
        action="append",
        type=Path,
        metavar="F",
        help="cells as a JSON list, most wanted first; --arms picks of it",
    )
    verb.add_argument("--rows", type=Path, metavar="F.jsonl", help="a row a problem; goes on there")
    verb.add_argument("--slots", type=int, help="runs in the batch at once (128 on a GPU, else 8)")
    verb.add_argument("--jobs", type=int, default=1, help="processes that share the problems")
    verb.add_argument(
        "--devices", metavar="LIST", help="GPUs that the processes take turns at (all of them)"
    )
    verb.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="what still runs then is given up; 0: tell the rows only",
    )
    verb.add_argument("--list", action="store_true", help="only tell the tasks and their levels")
    verb.add_argument(
        "--peaks", type=Path, metavar="F", help="rows of trees beside: they size the windows"
    )
    verb.add_argument("--curves", action="store_true", help="rows tell what was in memory when")
    verb.add_argument("--share", default="0/1", help=argparse.SUPPRESS)  # a worker's, of --jobs
    engine_options(verb)
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    if args.list:
        return tell_tasks(args.json)
    for name in ("n", "seeds", "jobs", "slots"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise Failure(f"--{name}: at least 1 was wanted, {value} came")
    place, workers = (int(part) for part in args.share.split("/"))
    plan = cells(args)
    if workers > 1:
        eval_workers.worker(args, plan, place, workers)
    elif args.jobs > 1:
        with tempfile.TemporaryDirectory() as folder:
            args.rows = args.rows or Path(folder) / "rows.jsonl"
            tell(args, plan, eval_workers.together(args, plan))
    else:
        if args.devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = args.devices  # nothing has looked for GPUs yet
        tell(args, plan, eval_workers.worker(args, plan, 0, 1))


def tell_tasks(as_json: bool) -> None:
    """The tasks, and the levels that are trained on, validated on, and never seen."""
    from workbench.tasks.catalogue import task
    from workbench.tasks.splits import SPLITS

    rows = [
        {
            "task": name, "kind": split.kind, "tool": task(name, split.train[1], 0).tool or None,
            "train": list(split.train), "validation": list(split.validation),
            "held_out": split.held_out,
        }
        for name, split in SPLITS.items()
    ]  # fmt: skip
    if as_json:
        for row in rows:
            emit(row)
    else:
        spans = (
            {k: "{}..{}".format(*v) for k, v in r.items() if isinstance(v, list)} for r in rows
        )
        table([row | span for row, span in zip(rows, spans, strict=True)], tuple(rows[0]))


def cells(args: argparse.Namespace) -> "list[Any]":
    """The plan, in the order of its importance."""
    from workbench.bench.arms import ARMS, FAULTS, Arm, Cell
    from workbench.reasoning import make_strategy
    from workbench.tasks.catalogue import task

    def cell(one: dict[str, Any]) -> Cell:
        arm = one["arm"]
        known = ARMS.get(arm) or Arm(arm, arm)
        params = one.get("params", {})
        given = {k: v for k, v in params.items() if k != FAULTS}
        make_strategy(known.strategy, {**known.params, **given})
        task(one["task"], one["level"], 0)
        seeds = one.get("seeds", 1)
        draws = tuple(range(seeds) if isinstance(seeds, int) else seeds)
        return Cell(one["task"], one["level"], known, one["n"], draws, params)

    names = args.arms.split(",") if args.arms else [args.strategy]
    if args.arms == "all":
        names = list(ARMS)
    elif args.arms and (unknown := sorted(set(names) - set(ARMS))):
        raise Failure(f"--arms: some of {', '.join(ARMS)} were wanted, {unknown[0]!r} came")
    if args.plan:
        try:
            found = [one for path in args.plan for one in json.loads(path.read_text())]
            planned = [cell(one) for one in found]
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise Failure(
                f"--plan: a JSON list of cells with task, level, arm and n was wanted;"
                f" {', '.join(map(str, args.plan))} gave {error!r}"
            ) from error
        return [one for one in planned if not args.arms or one.arm.name in names]
    params = pairs(args.param, "--param")
    return [
        cell({
            "task": args.task, "level": args.level, "arm": name, "n": args.n, "seeds": args.seeds,
            # of several arms, only a tree's parameters may be given
            "params": params if not args.arms or name == "tim" else {},
        })
        for name in names
    ]  # fmt: skip


def tell(args: argparse.Namespace, plan: Sequence[Any], rows: dict[str, Any]) -> None:
    found = list(summed(args.model, plan, rows, args.jobs))
    if args.json:
        for row in found:
            emit(row)
        return
    shown = [{**row, "seed": "all" if row["seed"] is None else row["seed"]} for row in found]
    table(shown, COLUMNS)


def summed(
    model: str, plan: Sequence[Any], rows: dict[str, Any], jobs: int
) -> Iterator[dict[str, Any]]:
    """Rows a seed and one over all, cell by cell, what has no row yet left out; then one over the
    families of a kind that were asked at one level."""
    from workbench.bench.eval_rows import cell_row
    from workbench.tasks.splits import SPLITS

    kinds: dict[tuple[Any, ...], list[Any]] = {}
    for cell in plan:
        asked = [item for item in cell.items() if item.key in rows]
        for seed in cell.seeds:
            of_seed = [rows[item.key] for item in asked if item.seed == seed]
            if of_seed:
                yield cell_row(cell, seed, of_seed, model, jobs)
        if asked:
            yield cell_row(cell, None, [rows[item.key] for item in asked], model, jobs)
            kind = SPLITS[cell.task].kind if cell.task in SPLITS else "other"
            alike = (kind, cell.level, cell.arm.name, json.dumps(cell.params, sort_keys=True))
            kinds.setdefault(alike, []).append((cell, asked))
    for (kind, *_), found in kinds.items():
        if len({cell.task for cell, _ in found}) > 1:
            pooled = [rows[item.key] for _, asked in found for item in asked]
            families = len({cell.task for cell, _ in found})
            row = cell_row(found[0][0], None, pooled, model, jobs)
            yield {**row, "task": f"{kind}, {families} families"}
    yield from pruned_or_not(plan, rows)


def pruned_or_not(plan: Sequence[Any], rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Trees as trained against trees of which nothing is pruned, on the problems that both had."""
    from workbench.bench.eval_rows import paired

    ways: dict[str, dict[str, Any]] = {"{}": {}, '{"threshold": null}': {}}
    for cell in plan:
        way = ways.get(json.dumps(cell.params)) if cell.arm.name == "tim" else None
        if way is not None:
            way |= {item.problem_key: rows[item.key] for item in cell.items() if item.key in rows}
    pruned, kept = ways.values()
    if set(pruned) & set(kept):
        yield {"task": "pruned against unpruned", "seed": None, **paired(pruned, kept)}
