"""The runtime as one run's strategy sees it: the engine's verbs bound to its request, and
services."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from workbench.engine.engine import Engine
from workbench.engine.grammar import Vocabulary
from workbench.engine.protocols import (
    GREEDY,
    NOTHING,
    TOKEN,
    Decoded,
    Fed,
    Feedback,
    Matcher,
    Monitor,
    Peek,
    PruneReport,
    Sampler,
    Scorer,
    Stop,
    Until,
    Verdict,
    Want,
)
from workbench.engine.sequence import Branch
from workbench.engine.tree_grammar import ToolShape, TreeGrammar, TreeShape
from workbench.events import Noted, ToolCalled, ToolReturned
from workbench.forward import PLAIN, Override
from workbench.reasoning.strategy import Budget, BudgetSpent
from workbench.reasoning.structures import Structure
from workbench.reasoning.tree import Node, Tree
from workbench.session.typed import typed_grammar
from workbench.tools.contract import MAX_CHARS, TIMEOUT, Outcome, Tool, invoke
from workbench.words import Finish, NodeId, Origin, PruneMode, RequestId, SeqId

OVER_BUDGET = "budget"


class Texts:
    """A model's tokenizer and grammars, shared by the runs of a session."""

    def __init__(self, model: Any) -> None:
        tokenizer = model.tokenizer
        self.tokenizer = tokenizer
        self.adapters: Mapping[str, Any] = model.adapters
        self.eos = frozenset(tokenizer.eos)
        self.vocabulary = Vocabulary(
            [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)],
            self.eos,
            tokenizer.encode,
            frozenset(tokenizer.special),
            model.facts.vocabulary,
        )
        self.tree_grammar = lru_cache(maxsize=16)(self._tree_grammar)

    def _tree_grammar(
        self, tools: str, max_depth: int, max_text: int | None, structure: Structure | None
    ) -> TreeGrammar:
        shapes = tuple(ToolShape(name, schema) for name, schema in json.loads(tools))
        if structure is None:
            return TreeGrammar(self.vocabulary, TreeShape(shapes, max_depth, max_text))
        return typed_grammar(self.vocabulary, shapes, max_depth, max_text, structure)


@dataclass(slots=True)
class _Frame:
    """A budget that is in force, and what had been spent when it began."""

    limits: Budget
    sampled: int
    computed: int
    scorer: int
    since: float


class RunContext:
    """Implements `reasoning.strategy.Context`."""

    def __init__(
        self,
        engine: Engine,
        texts: Texts,
        *,
        request: RequestId,
        tree: Tree,
        seed: int,
        calls: Iterator[int],
        tool_timeout: float = TIMEOUT,
        tool_chars: int = MAX_CHARS,
    ) -> None:
        self.engine, self.texts = engine, texts
        self.request, self.tree, self.seed = request, tree, seed
        self.spent = engine.requests[request]
        self.branches: dict[SeqId, Branch] = {}
        self._calls = calls
        self._tool_timeout, self._tool_chars = tool_timeout, tool_chars
        self._frames: list[_Frame] = []
        self._draw_seed: int | None = None

    def beside(self, seed: int | None) -> "RunContext":
        """A context for a fork of this run: same request, tree and budgets; `seed` for its
        draws."""
        twin = RunContext(
            self.engine, self.texts, request=self.request, tree=self.tree, seed=self.seed,
            calls=self._calls, tool_timeout=self._tool_timeout, tool_chars=self._tool_chars,
        )  # fmt: skip
        twin._frames = list(self._frames)
        twin._draw_seed = seed
        return twin

    # text

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.texts.tokenizer.encode(text)
        return ids

    def text(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        text: bytes = self.texts.tokenizer.token_bytes(token)
        return text

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        ids: list[int] = self.texts.tokenizer.chat(messages)
        return ids

    def is_end(self, token: int) -> bool:
        return token in self.texts.eos

    # verbs

    async def open(
        self,
        prompt: Any,
        *,
        adapter: str | None = None,
        scale: float = 1.0,
        override: Override | None = None,
    ) -> Branch:
        if override is None:
            override = PLAIN if adapter is None else Override(adapter=adapter, scale=scale)
        branch = await self.engine.open(prompt, request=self.request, override=override)
        self.branches[branch.seq] = branch
        return branch

    async def fork(
        self, branch: Branch, n: int = 1, *, at: int | None = None, override: Override | None = None
    ) -> list[Branch]:
        children = await self.engine.fork(branch, n, at=at, override=override)
        self.branches |= {child.seq: child for child in children}
        return children

    async def feed(
        self, branch: Branch, what: Any, *, origin: Origin = Origin.FED, want: Want = NOTHING
    ) -> Fed:
        return await self.engine.feed(branch, what, origin=origin, want=want)

    async def decode(
        self,
        branches: Branch | Sequence[Branch],
        *,
        until: Until,
        sampler: Sampler = GREEDY,
        grammar: Matcher | Sequence[Matcher | None] | None = None,
        feedback: Feedback = TOKEN,
        monitor: Monitor | None = None,
        want: Want = NOTHING,
    ) -> list[Decoded]:
        """As the engine's, within the budgets in force. Raises BudgetSpent when one ends it."""
        self._check()
        if self._draw_seed is not None:
            sampler = replace(sampler, seed=self._draw_seed)
        count = 1 if isinstance(branches, Branch) else len(branches)
        left = self._left("sampled")
        share = None if left is None else max(1, left // count)
        clipped = share is not None and (until.max_tokens is None or share < until.max_tokens)
        if clipped:
            until = replace(until, max_tokens=share)
        decoded = await self.engine.decode(
            branches,
            until=until,
            sampler=sampler,
            grammar=grammar,
            feedback=feedback,
            monitor=self._watch(monitor) if self._frames else monitor,
            want=want,
        )
        if clipped and any(d.finish is Finish.LENGTH for d in decoded):
            raise BudgetSpent(f"sampled: {share} tokens were left and are used up")
        if any(d.finish is Finish.MONITOR and d.why == OVER_BUDGET for d in decoded):
            self._check()
        return decoded

    async def peek(self, branch: Branch, want: Want) -> Peek:
        return await self.engine.peek(branch, want)

    async def score(
        self, branches: Branch | Sequence[Branch], scorer: Scorer, *, prefix: bool = True
    ) -> list[float]:
        self._check()
        return await self.engine.score(branches, scorer, prefix=prefix)

    def drop(self, branches: Any, reason: str) -> None:
        self.engine.drop(branches, reason)

    async def edit(
        self, branch: Branch, start: int, stop: int, tokens: Sequence[int] = (), **how: Any
    ) -> Branch:
        return await self.engine.edit(branch, start, stop, tokens, **how)

    async def prune(
        self,
        branch: Branch,
        spans: Sequence[tuple[int, int]],
        *,
        mode: PruneMode = PruneMode.REENCODE,
        node: NodeId | None = None,
        cause: str = "strategy",
    ) -> PruneReport:
        return await self.engine.prune(branch, spans, mode=mode, node=node, cause=cause)

    def attach(self, branch: Branch, others: Sequence[Branch], *, start: int = 0) -> None:
        self.engine.attach(branch, others, start=start)

    def detach(self, branch: Branch) -> None:
        self.engine.detach(branch)

    # services

    def has_adapter(self, name: str) -> bool:
        return name in self.texts.adapters

    def tree_matcher(
        self,
        tools: Sequence[Tool],
        max_depth: int,
        max_text: int | None,
        structure: Structure | None = None,
    ) -> Matcher:
        shapes = json.dumps([[tool.name, tool.parameters] for tool in tools])
        return self.texts.tree_grammar(shapes, max_depth, max_text, structure).matcher()

    async def tool(
        self, node: Node, branch: Branch, tool: Tool | None, name: str, arguments: Any
    ) -> Outcome:
        """Call a tool for `node`; both facts are recorded. The branch keeps its pages meanwhile."""
        call = next(self._calls)
        parameters = json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)
        t = self.engine.t()
        self.engine.emit(
            ToolCalled(self.engine.now, t, node.id, branch.seq, call, name, parameters)
        )
        seconds = getattr(tool, "timeout", self._tool_timeout)
        outcome = await invoke(tool, arguments, timeout=seconds, max_chars=self._tool_chars)
        self.engine.emit(
            ToolReturned(
                self.engine.now, self.engine.t(), node.id, branch.seq, call, outcome.ok,
                outcome.text, outcome.seconds,
            )
        )  # fmt: skip
        return outcome

    def note(self, text: str, node: Node | None = None) -> None:
        index = max((len(b.tokens) for b in self.branches.values()), default=0) - 1
        self.engine.emit(Noted(self.engine.now, node.id if node else None, index, text))

    @contextmanager
    def budget(self, **limits: float) -> Iterator[None]:
        """Within the block no more than `limits` is spent; blocks nest. Raises BudgetSpent at the
        next verb once one is used up. Keys: sampled, computed, scorer, seconds, pages."""
        spent, wanted = self.spent, make_budget(limits)
        if wanted == Budget():
            yield
            return
        frame = _Frame(wanted, spent.sampled, spent.computed, spent.scorer, time.perf_counter())
        self._frames.append(frame)
        try:
            yield
        finally:
            self._frames.remove(frame)

    def _left(self, what: str) -> int | None:
        lefts = [
            getattr(frame.limits, what) - (getattr(self.spent, what) - getattr(frame, what))
            for frame in self._frames
            if getattr(frame.limits, what) is not None
        ]
        return min(lefts) if lefts else None

    def _over(self) -> str | None:
        for what in ("sampled", "computed", "scorer"):
            left = self._left(what)
            if left is not None and left <= 0:
                return f"{what}: the budget is used up ({-left} over)"
        now = time.perf_counter()
        for frame in self._frames:
            if frame.limits.seconds is not None and now - frame.since >= frame.limits.seconds:
                return f"seconds: {frame.limits.seconds:g} s have passed"
            held = self.engine.memory.pages.held
            if frame.limits.pages is not None and held > frame.limits.pages:
                return f"pages: {held} are held, at most {frame.limits.pages} are allowed"
        return None

    def _check(self) -> None:
        over = self._over()
        if over is not None:
            raise BudgetSpent(over)

    def _watch(self, monitor: Monitor | None) -> Monitor:
        def watched(branch: Branch, token: int) -> Verdict | None:
            verdict = monitor(branch, token) if monitor is not None else None
            if verdict is None and self._over() is not None:
                return Stop(OVER_BUDGET)
            return verdict

        return watched


def make_budget(limits: Mapping[str, Any]) -> Budget:
    """Raises ValueError for a limit that is unknown or no number."""
    known = [field.name for field in fields(Budget)]
    values: dict[str, Any] = {}
    for name, value in limits.items():
        if name not in known:
            raise ValueError(f"budget {name!r} is not known; known: {', '.join(known)}")
        if value is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"budget {name}: a number is wanted, {value!r} came") from None
        if number <= 0:
            raise ValueError(f"budget {name}: more than 0 is wanted, {value} came")
        values[name] = number if name == "seconds" else int(number)
    return Budget(**values)
