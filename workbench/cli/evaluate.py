"""`workbench eval`: accuracy and cost of a strategy on a task, a row a seed and one over all."""

import argparse
import math
import time
from statistics import mean
from typing import Any

from workbench.cli.output import Failure, Progress, Verbs, emit, pairs, table
from workbench.cli.run import engine_options, open_session
from workbench.cli.toolbox import tools_of

COLUMNS = ("task", "level", "seed", "n", "accuracy", "ci95", "tok_s", "peak_kv_tokens", "wall_s")
Z95 = 1.959964


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("eval", parents=[common], help="accuracy and cost on a task")
    verb.add_argument("--strategy", default="tim")
    verb.add_argument("--task", default="chain")
    verb.add_argument("--level", type=int, default=8, help="size of a problem")
    verb.add_argument("--n", type=int, default=4, help="problems a seed")
    verb.add_argument("--seeds", type=int, default=1)
    verb.add_argument("--param", action="append", metavar="k=v")
    verb.add_argument("--budget", action="append", metavar="k=v")
    verb.add_argument("--tools", default="", help="further tools beside the task's own")
    engine_options(verb)
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    for name in ("n", "seeds"):
        if getattr(args, name) < 1:
            raise Failure(f"--{name}: at least 1 was wanted, {getattr(args, name)} came")
    session = open_session(args, None)
    rows: list[dict[str, Any]] = []
    total: list[dict[str, Any]] = []
    try:
        for seed in range(args.seeds):
            outcomes = [one(session, args, seed, i) for i in range(args.n)]
            total += outcomes
            rows.append(row(args, seed, outcomes))
            if args.json:
                emit(rows[-1])
        rows.append(row(args, None, total))
    finally:
        session.close()
    if args.json:
        emit(rows[-1])
    else:
        table([{**r, "seed": "all" if r["seed"] is None else r["seed"]} for r in rows], COLUMNS)


def one(session: Any, args: argparse.Namespace, seed: int, place: int) -> dict[str, Any]:
    """One problem, asked and judged."""
    from workbench.tasks.catalogue import task
    from workbench.tools import Lookup

    problem = task(args.task, args.level, seed * 100_003 + place)
    tools = tools_of(args.tools)
    if problem.tool:
        tools.append(Lookup(problem.results, name=problem.tool, parameter=problem.parameter))
    Progress(plain_every=0).show(f"{args.task} seed {seed}, {place + 1} of {args.n}")
    start = time.perf_counter()
    result = session.run(
        problem.prompt,
        strategy=args.strategy,
        seed=seed,
        budget=pairs(args.budget, "--budget"),
        tools=tools,
        **pairs(args.param, "--param"),
    ).wait()
    return {
        "right": result.answer.strip() == problem.answer,
        "wall_s": time.perf_counter() - start,
        **result.summary,
    }


def row(
    args: argparse.Namespace, seed: int | None, outcomes: list[dict[str, Any]]
) -> dict[str, Any]:
    right = sum(o["right"] for o in outcomes)
    wall = sum(o["wall_s"] for o in outcomes)
    tokens = {k: sum(o["tokens"][k] or 0 for o in outcomes) for k in outcomes[0]["tokens"]}
    return {
        "task": args.task,
        "level": args.level,
        "strategy": args.strategy,
        "params": pairs(args.param, "--param"),
        "model": args.model,
        "n": len(outcomes),
        "seed": seed,
        "accuracy": right / len(outcomes),
        "ci95": wilson(right, len(outcomes)),
        "tokens": tokens,
        "tok_s": tokens["sampled"] / wall,
        "peak_kv_tokens": max(o["kv"]["peak_tokens"] for o in outcomes),
        "mean_peak_kv_tokens": mean(o["kv"]["peak_tokens"] for o in outcomes),
        "wall_s": wall,
    }


def wilson(right: int, n: int) -> list[float]:
    """Wilson's 95 % interval of a share: honest at 0 and at n of n too."""
    p, z2 = right / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return [max(0.0, middle - half), min(1.0, middle + half)]
