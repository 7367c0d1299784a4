"""`workbench demo`: a pointer chain of 20 links, thought as a tree that outruns its window."""

import argparse
from pathlib import Path

from workbench.cli.output import Verbs, emit, log
from workbench.cli.run import engine_options, finish, follow, open_session, summary

SEED = 22  # of the problem: a chain that crosses a hundred, so that the tree has two main tasks


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("demo", parents=[common], help="the main job: trace and page in runs/")
    verb.add_argument("--links", type=int, default=20)
    verb.add_argument("--seed", type=int, default=SEED)
    verb.add_argument("--out", type=Path, default=Path("runs"))
    engine_options(verb)
    verb.set_defaults(handler=run, window=1024)


def run(args: argparse.Namespace) -> None:
    from workbench.tasks.catalogue import task
    from workbench.tools import Lookup

    problem = task("chain", args.links, args.seed)
    trace, report = args.out / "demo.wbt", args.out / "demo.html"
    trace.unlink(missing_ok=True)
    log(f"task        {problem.prompt}")
    session = open_session(args, trace)
    try:
        tools = [Lookup(problem.results, name=problem.tool, parameter=problem.parameter)]
        result = follow(session.run(problem.prompt, strategy="tim", seed=args.seed, tools=tools))
    finally:
        session.close()
    found = finish(result, trace, report)
    right = "right" if result.answer == problem.answer else f"wrong: it is {problem.answer}"
    if args.json:
        emit({**found, "right": result.answer == problem.answer})
    else:
        print(f"answer      {result.answer} ({right})")
        print(summary(found))
        print(f"open {report} in a browser; it needs no network")
