"""`workbench run PROMPT`: one run, with progress, a summary, a trace and a page."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from workbench.cli.output import Failure, Progress, Verbs, emit, log, pairs
from workbench.cli.toolbox import tools_of
from workbench.cli.trace import existing


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("run", parents=[common], help="one run of a strategy")
    verb.add_argument("prompt", nargs="?", help="the task; `-` reads it from standard input")
    verb.add_argument("--strategy", default="tim")
    verb.add_argument("--param", action="append", metavar="k=v", help="of the strategy; repeatable")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--budget", action="append", metavar="k=v", help="sampled=, computed=, seconds=, pages= …"
    )
    verb.add_argument("--tools", default="", metavar="LIST", help="names that a tree may call")
    verb.add_argument("--trace", type=Path, metavar="F", help="record the run there")
    verb.add_argument("--report", type=Path, metavar="F.html", help="a self-contained page")
    verb.add_argument(
        "--resume", type=Path, metavar="TRACE", help="go on from a killed run's trace"
    )
    engine_options(verb)
    verb.set_defaults(handler=run)


def engine_options(verb: argparse.ArgumentParser) -> None:
    """What `open_workbench` takes, for every verb that opens one."""
    verb.add_argument("--model", default="smollm2-135m-instruct")
    verb.add_argument("--backend", default="auto")
    verb.add_argument("--weights", default="auto")
    verb.add_argument("--dtype", default="auto")
    verb.add_argument("--window", type=int, metavar="N", help="tokens a branch may hold in memory")
    verb.add_argument("--pages", type=int, metavar="N", help="pages of the pool")
    verb.add_argument("--page-size", type=int, default=16, metavar="N")
    verb.add_argument(
        "--lookup", type=int, default=0, metavar="D",
        help="draft D tokens a step from the text so far; what is sampled stays the same",
    )  # fmt: skip
    verb.add_argument(
        "--adapter", action="append", metavar="NAME=DIR", help="a LoRA (PEFT) under that name"
    )


def run(args: argparse.Namespace) -> None:
    if (args.prompt is None) == (args.resume is None):
        raise Failure("either a prompt or --resume TRACE was wanted; `-` reads from standard input")
    if args.report and not (args.trace or args.resume):
        raise Failure("--report needs a recorded run; add --trace F")
    if args.resume:
        existing(args.resume)
    prompt = sys.stdin.read().strip() if args.prompt == "-" else args.prompt
    tools = tools_of(args.tools)
    budget, params = pairs(args.budget, "--budget"), pairs(args.param, "--param")
    # a resumed run is told whole, in a file of its own: the killed one's stays as it was left
    trace = args.trace or (args.resume and args.resume.with_suffix(f".resumed{args.resume.suffix}"))
    session = open_session(args, trace)
    try:
        if args.resume:
            job = session.resume(args.resume, tools)
        else:
            job = session.run(
                prompt,
                strategy=args.strategy,
                seed=args.seed,
                budget=budget,
                tools=tools,
                **params,
            )
        result = follow(job)
    except KeyboardInterrupt:
        session.close(interrupted=True)
        raise
    finally:
        session.close()
    found = finish(result, trace, args.report)
    if args.json:
        emit(found)
    else:
        print(result.answer)
        log(summary(found))
    if found["finish"] == "error":
        raise Failure(f"the run ended by an error: {result.error}")


def open_session(args: argparse.Namespace, trace: Path | None, **more: Any) -> Any:
    from workbench import open_workbench

    adapters = adapters_of(args.adapter)  # a wrong one is told before the model is loaded
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
    log(f"loading {args.model}")
    session = open_workbench(
        model=args.model,
        backend=args.backend,
        weights=args.weights,
        dtype=args.dtype,
        pages=args.pages,
        page_size=args.page_size,
        window=args.window,
        lookup=args.lookup,
        trace=trace,
        **more,
    )
    for name, path in adapters.items():
        session.model.load_adapter(name, path)
    return session


def adapters_of(items: list[str] | None) -> dict[str, Path]:
    """`NAME=DIR` arguments: which adapter stands under which name."""
    found = {}
    for item in items or ():
        name, equals, path = item.partition("=")
        if not equals or not (Path(path) / "adapter_config.json").is_file():
            raise Failure(
                f"--adapter: NAME=DIR with a PEFT adapter in DIR was wanted, {item!r} came; write"
                " e.g. tim-smollm2=out/tim-smollm2"
            )
        found[name] = Path(path)
    return found


def follow(job: Any) -> Any:
    """Wait for a run with live counts on standard error. Ctrl-C cancels it and goes on up."""
    progress = Progress()
    start = time.monotonic()
    try:
        while not job.done:
            progress.show(live(job, time.monotonic() - start))
            time.sleep(0.05)
    except KeyboardInterrupt:
        job.cancel()
        raise
    finally:
        progress.done()
    return job.wait()


def live(job: Any, seconds: float) -> str:
    counts = job.counts()
    return (
        f"{seconds:5.1f} s  {counts['sampled']:,} sampled  {counts['resident']:,} in memory"
        f"  {counts['pages']:,} pages  {counts['pruned']:,} pruned  {counts['nodes']:,} nodes"
    )


def finish(result: Any, trace: Path | None, report: Path | None) -> dict[str, Any]:
    """The run's JSON, its page written if one was asked for."""
    found = dict(result.summary)
    found["trace"] = str(trace) if trace else None
    found["report"] = None
    if report is not None:
        assert trace is not None, "a report is made of a trace"
        from workbench.trace.export import export

        report.parent.mkdir(parents=True, exist_ok=True)
        export(trace, "html", report)
        found["report"] = str(report)
    return found


def summary(found: dict[str, Any]) -> str:
    """A run in six lines for people."""
    tokens, kv, tree = found["tokens"], found["kv"], found["tree"]
    lines = [
        f"finish      {found['finish']}",
        f"tokens      {tokens['sampled']:,} sampled, {tokens['computed']:,} computed,"
        f" {tokens['reused']:,} reused",
        f"speed       {found['tok_s']:.1f} tok/s, first token after {found['ttft_s']:.2f} s",
        f"memory      peak {kv['peak_tokens']:,} tokens in {kv['peak_pages']:,} pages"
        f" of {kv['page_size']}; {kv['pruned_tokens']:,} pruned,"
        f" {kv['reencoded_tokens']:,} re-encoded",
        f"tree        {tree['nodes']:,} nodes, depth {tree['depth']}",
    ]
    lines += [f"{key:11} {found[key]}" for key in ("trace", "report") if found.get(key)]
    return "\n".join(lines)
