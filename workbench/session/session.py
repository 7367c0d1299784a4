"""A session: one model, one pool, one recorder; runs share them. All of it works on the session's
thread."""

import asyncio
import atexit
import itertools
import json
import platform
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from workbench.commands import Command
from workbench.engine.engine import Engine
from workbench.engine.errors import EngineError, RequestCancelled
from workbench.events import Event, RunStarted
from workbench.model import load_model
from workbench.model.catalogue import ADAPTERS
from workbench.ops.cpu import CpuOps
from workbench.reasoning import Answer, BudgetSpent, Strategy, Task, Tim, make_strategy
from workbench.reasoning.tree import Tree
from workbench.session.commands import Obey
from workbench.session.context import RunContext, Texts, make_budget
from workbench.session.meter import Listener, Meter, summary
from workbench.session.restore import Recording, refeed
from workbench.session.run import Fork, Result, Run, RunFailed, params_json
from workbench.settings import DEFAULT_MODEL, Settings, fit, resolve
from workbench.tools.contract import Tool
from workbench.trace import LiveTrace, Recorder, Trace
from workbench.words import Finish, NodeId, RequestId, Step

CLOSING = 30.0  # seconds that `close` waits for the thread


def open_workbench(
    model: str | Path = DEFAULT_MODEL,
    *,
    backend: str = "auto",
    dtype: str = "auto",
    weights: str = "auto",
    pages: int | None = None,
    page_size: int = 16,
    window: int | None = None,
    trace: str | Path | None = None,
    record_top: int = 5,
    **more: Any,
) -> "Session":
    """Load a model and start its engine. What is None or "auto" is answered with a reason
    (`session.settings.reasons`); `more` are further fields of `Settings`."""
    asked = Settings(
        str(model), backend, dtype, weights, pages, page_size, window,
        trace=None if trace is None else Path(trace), record_top=record_top, **more,
    )  # fmt: skip
    settings = resolve(asked)
    loaded = load_model(
        settings.model,
        dtype=settings.dtype,
        weights=settings.weights,
        # on a CPU the model chooses between the laptop engine and torch: it knows the file
        backend=asked.backend if settings.backend == "cpu" else settings.backend,
        threads=settings.threads,
    )
    settings = replace(settings, reasons=(*settings.reasons, *loaded.reasons))
    load_shipped_adapters(loaded)
    return Session(loaded, settings)


def load_trace(path: str | Path) -> Trace:
    """A recorded run. Raises TraceError where the file is none."""
    return Trace.open(path)


def _forget(event: Event) -> None:
    """Nothing is recorded."""


def load_shipped_adapters(model: Any) -> None:
    """The adapters in this package, where the model is the one they were trained on."""
    if model.source.name != DEFAULT_MODEL:
        return
    for name in ADAPTERS:
        model.load_adapter(name)


class Session:
    """Made by `open_workbench`. `model` is a `Forward` with a tokenizer and adapters."""

    def __init__(self, model: Any, settings: Settings) -> None:
        facts = model.facts
        layout = model.layout(1, settings.page_size)
        self.settings = fit(
            settings,
            native_window=facts.window,
            bytes_per_token=layout.bytes_per_token,
        )
        self.model = model
        self.texts = Texts(model)
        self.runs: list[Run] = []
        self.views: list[Any] = []
        self._node_ids = (NodeId(i) for i in itertools.count())
        self._calls = itertools.count()
        self._tasks: dict[RequestId, set[asyncio.Task[Any]]] = {}
        self._recorder = Recorder(self.settings.trace, model.tokenizer.token_bytes)
        self.meter = Meter(self._recorder.emit if settings.record else _forget)
        self._loop = asyncio.new_event_loop()
        self._closed = self._interrupted = False
        self.engine = self._make_engine()
        self._obey = Obey(self)
        self.engine.on_command = self._obey
        self.engine.on_cancel = self._on_cancel
        self._thread = threading.Thread(target=self._work, name="workbench", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread that dies inside the net would abort the interpreter

    # the thread

    def _make_engine(self) -> Engine:
        settings, model = self.settings, self.model
        assert settings.pages is not None
        return Engine(
            model,
            pages=settings.pages,
            page_size=settings.page_size,
            limit=settings.window,
            max_rows=settings.max_rows,
            chunk=settings.chunk,
            emit=self.meter.emit,
            detokenize=model.tokenizer.token_bytes,
            tokenize=model.tokenizer.encode,
            eos=self.texts.eos,
            ops_sample=getattr(model, "sample", CpuOps().sample),
            record_top=settings.record_top,
            record_routing=settings.record_routing,
            lookup=settings.lookup,
            heard=lambda: settings.record or bool(self.meter.listeners),
        )

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self.meter.emit(self._started())
        try:
            self._loop.run_until_complete(self.engine.run())
            pending = asyncio.all_tasks(self._loop)
            if pending:  # they see their branches gone and end
                self._loop.run_until_complete(asyncio.wait(pending, timeout=CLOSING / 6))
                if left := asyncio.all_tasks(self._loop):
                    for task in left:
                        task.cancel()
                    self._loop.run_until_complete(asyncio.wait(left, timeout=1))
        finally:
            self._recorder.close(
                complete=not self._interrupted and all(run.done for run in self.runs)
            )
            self._loop.close()

    def _started(self) -> RunStarted:
        settings, facts = self.settings, self.model.facts
        return RunStarted(
            Step(0),
            datetime.now(UTC).isoformat(timespec="seconds"),
            self.model.source.name,
            self.model.name,
            settings.page_size,
            settings.pages or 0,
            facts.window,
            self.engine.limit,
            facts.layers,
            facts.experts,
            tuple(sorted(self.texts.eos)),
            json.dumps(_versions()),
            json.dumps(settings.reasons),
        )

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._closed:
            work.close()
            raise RunFailed("the session is closed; open another one")
        asyncio.run_coroutine_threadsafe(work, self._loop)

    # runs

    def run(
        self,
        prompt: str,
        strategy: str | Strategy = "tim",
        *,
        seed: int = 0,
        budget: Mapping[str, Any] | None = None,
        tools: Sequence[Tool] = (),
        title: str | None = None,
        ids: Sequence[int] | None = None,
        listener: Listener | None = None,
        **params: Any,
    ) -> Run:
        """Start a strategy on a prompt; returns at once. `params` are the fields of the strategy's
        dataclass, `ids` a prompt that is tokenised already, `listener` is told the run's facts on
        the engine's thread. Raises ValueError for what is unknown."""
        chosen = make_strategy(strategy, params) if isinstance(strategy, str) else strategy
        if not prompt.strip() and ids is None:
            raise ValueError("the prompt is empty; a question or an instruction is wanted")
        make_budget(budget or {})
        task = Task(prompt, tuple(tools), None if ids is None else tuple(ids))
        run = Run(self, chosen, task, seed, dict(budget or {}), title or prompt.strip()[:80])
        run.listener = listener
        self.runs.append(run)
        self._spawn(self._drive(run, None))
        return run

    def resume(self, path: str | Path, tools: Sequence[Tool] = ()) -> Run:
        """Go on where the killed run in a trace stopped: its tokens are fed again, none is sampled
        twice. Tools are not in a trace: give them again. A run without tools in memory records
        here anew."""
        recording = Recording.read(Trace.open(path))
        strategy = make_strategy(recording.strategy, recording.params)
        task = Task(recording.title, tuple(tools), recording.prompt)
        run = Run(self, strategy, task, recording.seed, {}, recording.title)
        self.runs.append(run)
        self._spawn(self._drive(run, recording))
        return run

    async def _drive(self, run: Run, recording: Recording | None) -> None:
        engine = self.engine
        request = engine.new_request(
            title=run.title,
            strategy=run.strategy.name,
            params=params_json(run.strategy),
            seed=run.seed,
        )
        ctx = self._context(run, request)
        run.contexts.append(ctx)
        if run.listener is not None:
            self.meter.listeners[request] = run.listener
        if self._closed or run.unwanted:
            why = "the session was closed" if self._closed else "cancelled before it began"
            engine.end_request(request, Finish.CANCELLED, error=why)
        work = self._begin(run, ctx, recording)
        answer, failure = await self._answer(run, ctx, work)
        while beside := [t for t in self._tasks[request] if t is not asyncio.current_task()]:
            if failure is not None or engine.requests[request].finish is not None:
                break
            await asyncio.wait(beside)
        if run.edited is not None:
            answer = run.edited
        engine.end_request(request, answer.finish, answer.text, answer.error)
        figures = summary(
            engine.requests[request],
            self.meter.of(request),
            answer=answer.text,
            now=engine.t(),
            page_size=self.settings.page_size,
        )
        if run.future.done():
            return
        if failure is not None:
            error = RunFailed(f"{type(failure).__name__}: {failure}")
            error.__cause__ = failure
            run.future.set_exception(error)
        else:
            run.future.set_result(Result(answer.text, answer.finish, answer.error, figures))

    async def _begin(self, run: Run, ctx: RunContext, recording: Recording | None) -> Answer:
        if recording is None:
            return await run.strategy.run(ctx, run.task)
        adapter = run.strategy.adapter if isinstance(run.strategy, Tim) else None
        known = adapter if adapter and ctx.has_adapter(adapter) else None
        branch = await ctx.open(
            recording.prompt, adapter=known, scale=getattr(run.strategy, "scale", 1.0)
        )
        await refeed(ctx, branch, recording)
        return await run.strategy.go_on(ctx, run.task, branch, len(recording.prompt))

    def _context(self, run: Run, request: RequestId) -> RunContext:
        engine = self.engine
        tree = (
            run.contexts[0].tree
            if run.contexts
            else Tree(
                request,
                emit=engine.emit,
                step=lambda: engine.now,
                new_id=lambda: next(self._node_ids),
                resident=lambda seq: engine.memory.branches[seq].resident,
            )
        )
        return RunContext(
            engine, self.texts, request=request, tree=tree, seed=run.seed, calls=self._calls
        )

    async def _answer(
        self, run: Run, ctx: RunContext, work: Coroutine[Any, Any, Answer]
    ) -> tuple[Answer, BaseException | None]:
        """The strategy's answer, or what became of it."""
        task = asyncio.ensure_future(self._within(run, ctx, work))
        self._tasks.setdefault(ctx.request, set()).add(task)
        try:
            return await task, None
        except BudgetSpent as spent:
            return Answer("", Finish.BUDGET, str(spent)), None
        except (RequestCancelled, asyncio.CancelledError) as gone:
            return Answer("", Finish.CANCELLED, str(gone)), None
        except Exception as failure:
            if self.engine.requests[ctx.request].finish is Finish.CANCELLED:
                return Answer("", Finish.CANCELLED, str(failure)), None
            # a strategy is a plug-in: its failure ends its run, not the thread
            text = str(failure) if isinstance(failure, EngineError) else repr(failure)
            return Answer("", Finish.ERROR, text), failure
        finally:
            self._tasks[ctx.request].discard(task)
            for seq, branch in ctx.branches.items():
                ctx.tree.close_all(len(branch.tokens), seq)

    async def _within(self, run: Run, ctx: RunContext, work: Coroutine[Any, Any, Answer]) -> Answer:
        with ctx.budget(**run.budget):
            return await work

    def start_fork(
        self, run: Run, ctx: RunContext, work: Coroutine[Any, Any, Answer], fork: Fork
    ) -> None:
        """Let a fork run to its answer, beside the run that it belongs to."""

        async def beside() -> None:
            answer, failure = await self._answer(run, ctx, work)
            if fork.is_edit:
                run.edited = answer
            if failure is not None:
                fork.result.set_exception(RunFailed(answer.error))
            else:
                fork.result.set_result(answer.text)

        run.forks[fork.seq] = fork
        task = self._loop.create_task(beside())
        tasks = self._tasks.setdefault(ctx.request, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _on_cancel(self, request: RequestId) -> None:
        for task in list(self._tasks.get(request, ())):
            task.cancel()

    # from any thread

    def submit(self, command: Command) -> "Future[dict[str, Any]]":
        """Hand in a command; the future gives its outcome or raises Refused."""
        return self.engine.submit(command)

    def counts(self, run: Run) -> dict[str, int]:
        """Live numbers of a run; all zero before it began."""
        request = self.engine.requests.get(run.contexts[0].request) if run.contexts else None
        spent = self.meter.of(request.id) if request else None
        return {
            "sampled": request.sampled if request else 0,
            "resident": self.meter.resident,
            "pages": self.meter.pages,
            "pruned": request.pruned if request else 0,
            "nodes": spent.nodes if spent else 0,
        }

    @property
    def trace(self) -> LiveTrace:
        return self._recorder.live

    def view(self) -> Any:
        """The composite view of this session's trace, driving this engine."""
        widgets = import_module("widgets")
        return widgets.Composite(self.trace, submit=self.submit)

    def close(self, interrupted: bool = False) -> None:
        """End what runs, seal the trace (not complete when `interrupted`). Safe to call twice."""
        if self._closed:
            return
        self._closed, self._interrupted = True, interrupted
        atexit.unregister(self.close)
        self._loop.call_soon_threadsafe(self.engine.close)
        self._thread.join(CLOSING)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        settings = self.settings
        return (
            f"Session({self.model.source.name}, {self.model.name}, {settings.pages} pages of"
            f" {settings.page_size}, window {self.engine.limit})"
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("reasoning-workbench", "torch", "numpy", "llguidance"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
