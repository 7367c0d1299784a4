"""The engine: one pool, one net, many branches; a step is choose, launch, settle.

Everything here runs on one thread with one event loop, the strategies' own. Verbs change a
branch's lists at once and leave the computing to the next steps; only `submit` may be called
from other threads.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal
from weakref import WeakSet

from torch import Tensor

from workbench.commands import Command
from workbench.engine.ahead import Ahead
from workbench.engine.errors import (
    BadArgument,
    StepFailed,
)
from workbench.engine.inbox import Inbox
from workbench.engine.ledger import Ledger
from workbench.engine.lookup import Lookup
from workbench.engine.memory import Memory
from workbench.engine.philox import child_seed
from workbench.engine.protocols import (
    GREEDY,
    NOTHING,
    TOKEN,
    CommandHandler,
    Decoded,
    Fed,
    Feedback,
    Matcher,
    Monitor,
    Peek,
    PruneReport,
    Sampler,
    Scorer,
    Token,
    Until,
    Want,
)
from workbench.engine.request import Request
from workbench.engine.safepoint import Control
from workbench.engine.sampler import Sample
from workbench.engine.sequence import Branch
from workbench.engine.stepping import choose, launch, settle
from workbench.engine.verbs import attaching, opening, pruning, running, scoring
from workbench.events import (
    Event,
    RequestEnded,
    RequestOpened,
    Waited,
)
from workbench.forward import PLAIN, Forward, Override, StopFlag
from workbench.words import Finish, FreeReason, NodeId, Origin, PruneMode, RequestId, SeqId, Step

Branches = Branch | Sequence[Branch]


class Engine:
    """Runs branches of any number of requests over one paged pool."""

    def __init__(
        self,
        forward: Forward,
        *,
        pages: int,
        page_size: int = 16,
        limit: int | None = None,
        max_rows: int = 32,
        chunk: int = 512,
        emit: Callable[[Event], None],
        detokenize: Callable[[int], bytes],
        tokenize: Callable[[str], list[int]],
        eos: Collection[int],
        ops_sample: Sample,
        record_top: int = 5,
        record_routing: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        heard: Callable[[], bool] = lambda: True,
        lookup: int = 0,
    ) -> None:
        """`pages` × `page_size` tokens of KV; `limit` resident tokens a branch may hold (the
        net's window when None); `max_rows` branches and `chunk` tokens of waiting text a step.
        `emit` gets every fact, on the engine's thread; of sampled tokens only while `heard` says
        that somebody wants to know. `detokenize` gives a token's bytes. `lookup`: tokens that a row
        may draft from its own text and run beside the next one; 0: none.
        Raises ValueError where the backend cannot serve the pool's geometry."""
        if lookup < 0:
            raise BadArgument(f"lookup must be at least 0, got {lookup}")
        if max_rows < 1 or chunk < 1:
            raise BadArgument(f"max_rows and chunk must be at least 1, got {max_rows} and {chunk}")
        self.forward = forward
        self.limit = min(limit or forward.facts.window, forward.facts.window)
        self.max_rows, self.chunk = max_rows, chunk
        self.tell, self.detokenize, self.tokenize = emit, detokenize, tokenize
        self.eos, self.sample = frozenset(eos), ops_sample
        self.record_top = record_top
        self.record_routing = record_routing and forward.facts.experts > 0
        self.clock, self.started = clock, clock()
        self.heard = heard

        self.memory: Memory = Memory(forward.new_pool(forward.layout(pages, page_size)), self)
        self.inbox = Inbox()
        self.control = Control(self)
        self.ledger = Ledger(self)
        self.ahead = Ahead(self, bool(getattr(forward, "ahead", False)))
        self.lookup = Lookup(self, lookup)
        self.on_command: CommandHandler | None = None  # obeys what the engine itself does not
        self.on_cancel: Callable[[RequestId], None] | None = None  # its branches went already

        self.now = Step(0)
        self.began = 0.0  # seconds since the start, of the step in progress
        self.requests: dict[RequestId, Request] = {}
        self.active: dict[SeqId, Branch] = {}  # branches with a job
        self.scores: dict[Any, float] = {}
        self.served: WeakSet[Override] = WeakSet()  # that the backend was found to carry out
        self._nets: list[Override] = [PLAIN]
        self._next_seq = 0
        self._closing = False
        self._wake = asyncio.Event()

    # ---- the loop ----

    def step(self) -> bool:
        """Obey what has arrived and run one pass. False when there was nothing to run."""
        self.control.obey()
        if self.control.paused:
            self.ahead.drop()
            return False
        self.began = self.t()
        choice = choose(self)
        if choice.empty:
            self.ahead.drop()
            return False
        flight = launch(self, choice)
        if flight is None:
            return True
        settle(self, flight)
        self.now = Step(self.now + 1)
        self.control.stepped()
        return True

    async def run(self) -> None:
        """Step while anything can run, wait while nothing can; until `close`."""
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self.inbox.wake = partial(loop.call_soon_threadsafe, self._wake.set)
        while not self._closing:
            self._wake.clear()
            try:
                ran = self.step()
            except Exception as fault:  # ours: nobody may wait for an engine that is gone
                self.fail_all(fault)
                raise
            if ran:
                await asyncio.sleep(0)
                continue
            began, waits_on = self.t(), self.control.waits_on
            await self._wake.wait()
            seconds = self.t() - began
            if seconds >= 1e-3:
                self.tell(Waited(self.now, began, seconds, waits_on))
        self._closing = False
        self.inbox.wake = lambda: None

    def fail_all(self, fault: Exception) -> None:
        """Answer everybody who waits with the fault."""
        for branch in self.active.values():
            if branch.job is not None:
                branch.job.fail(StepFailed(f"the engine failed: {fault!r}"))

    def close_loop(self) -> None:
        """Let `run` return after the step in progress; branches stay as they are."""
        self._closing = True
        self.wake()

    def close(self) -> None:
        """End every request and let `run` return."""
        for request in [r.id for r in self.requests.values() if r.finish is None]:
            self.end_request(request, Finish.CANCELLED, error="the engine was closed")
        self.close_loop()

    def wake(self) -> None:
        self._wake.set()

    @property
    def pulse(self) -> StopFlag:
        """Asked by the net between two layers: the step is given up when somebody wants to stop."""
        return self.inbox.stop

    def submit(self, command: Command) -> "Future[dict[str, Any]]":
        """Hand in a command from any thread. Obeyed at the next safe point; the future gives its
        outcome or raises Refused with the reason."""
        return self.inbox.put(command)

    def t(self) -> float:
        """Seconds since the engine was made."""
        return self.clock() - self.started

    def emit(self, event: Event) -> None:
        """Tell a fact; strategies tell theirs (nodes, tools, notes) here too, so that stepping
        to the next node works."""
        self.tell(event)
        self.control.saw(event)

    def audit(self) -> None:
        """Raise AuditError, with a sentence, when pages, references and branches disagree."""
        self.memory.audit()

    # ---- requests ----

    def new_request(self, *, title: str, strategy: str, params: str, seed: int) -> RequestId:
        """A request owns branches; `seed` begins all their random streams."""
        request = RequestId(len(self.requests))
        self.requests[request] = Request(request, title, seed, self.t())
        self.tell(RequestOpened(self.now, self.t(), request, title, strategy, params, seed))
        return request

    def end_request(
        self, request: RequestId, finish: Finish, answer: str = "", error: str = ""
    ) -> None:
        """Drop the request's branches and tell its end. Nothing happens when it has ended
        already."""
        record = self.requests[request]
        if record.finish is not None:
            return
        record.finish = finish
        branches = [b for b in self.memory.branches.values() if b.request == request]
        for branch in sorted(branches, key=lambda b: -b.seq):
            opening.let_go(self, branch, f"request ended: {finish}", FreeReason.ENDED)
        self.tell(RequestEnded(self.now, self.t(), request, finish, answer, error))

    # ---- the verbs ----

    async def open(
        self, prompt: str | Sequence[int] | Tensor, *, request: RequestId,
        override: Override = PLAIN, share: bool = True, want: Want = NOTHING,
    ) -> Branch:  # fmt: skip
        """A branch on `prompt`: text, token ids, or input vectors [N, M]. Returns when it is
        computed.

        With `share`, whole pages of equal text under the same override are reused and offered
        for reuse. Raises BadArgument (empty prompt), PromptTooLong, PoolTooSmall, Unserved,
        RequestCancelled.
        """
        return await opening.open_branch(self, prompt, request, override, share, want)

    async def fork(
        self, branch: Branch, n: int = 1, *, at: int | None = None, override: Override | None = None
    ) -> list[Branch]:
        """`n` branches that share the stream before index `at` (its end when None), each with a
        random stream of its own. A child sees what the parent had in memory when token `at` was
        about to be produced: what is still stored is shared, what was pruned since is computed
        again. Under another override everything is computed again. Pages are copied when first
        written."""
        return await opening.fork(self, branch, n, at, override)

    async def feed(
        self, branch: Branch, what: str | Sequence[int] | Tensor, *, origin: Origin = Origin.FED,
        positions: Sequence[int] | None = None, want: Want = NOTHING,
    ) -> Fed:  # fmt: skip
        """Put text, token ids or vectors [N, M] behind the stream, at the next positions or at
        `positions`. Without `want` nothing is computed now: the tokens join the branch's next pass.
        Raises WindowFull, BranchBusy, BranchGone."""
        return await running.feed(self, branch, what, origin, positions, want)

    async def decode(
        self, branches: Branches, *, until: Until, sampler: Sampler = GREEDY,
        grammar: Matcher | Sequence[Matcher | None] | None = None, feedback: Feedback = TOKEN,
        monitor: Monitor | None = None, want: Want = NOTHING,
    ) -> list[Decoded]:  # fmt: skip
        """Sample each branch until `until` (or the window) ends it; one that ends never blocks
        the rest. Several branches need a matcher each. The last sampled token stays pending: it
        is computed with the branch's next pass. Returns in the order of `branches`."""
        return await running.decode(
            self, branches, until, sampler, grammar, feedback, monitor, want
        )

    def stream(
        self, branch: Branch, *, until: Until, sampler: Sampler = GREEDY,
        grammar: Matcher | None = None, feedback: Feedback = TOKEN, monitor: Monitor | None = None,
    ) -> AsyncIterator[Token]:  # fmt: skip
        """`decode` of one branch, token by token. Leaving the loop early ends the decode."""
        return running.stream(self, branch, until, sampler, grammar, feedback, monitor)

    async def peek(self, branch: Branch, want: Want = NOTHING) -> Peek:
        """The next token's distribution and what `want` names; the stream is unchanged."""
        return await running.peek(self, branch, want)

    async def score(
        self, branches: Branches, scorer: Scorer, *, prefix: bool = True
    ) -> list[float]:
        """Each branch's score. With `prefix`, a score is a function of the stream alone: equal
        streams under one override are judged once."""
        return await scoring.score(self, branches, scorer, prefix)

    def drop(self, branches: Branches, reason: str) -> None:
        """End branches and give their pages back; a running decode ends as cancelled."""
        opening.drop(self, branches, reason)

    async def edit(
        self, branch: Branch, start: int, stop: int, tokens: Sequence[int] = (), *,
        reuse: Literal["recompute", "reposition"] = "recompute",
    ) -> Branch:  # fmt: skip
        """Replace stream tokens [start, stop) by `tokens`; what follows stays, with new indexes.

        ``recompute``: what follows is computed again, as in a fresh open on the edited ids.
        ``reposition``: what follows keeps its K/V, K turned to the new positions (approximate).
        """
        return await opening.edit(self, branch, start, stop, tokens, reuse)

    async def prune(
        self, branch: Branch, spans: Sequence[tuple[int, int]], *,
        mode: PruneMode = PruneMode.REENCODE, node: NodeId | None = None, cause: str = "strategy",
    ) -> PruneReport:  # fmt: skip
        """Take stream tokens out of working memory (2507.16784 section 3; modes: see PruneMode).
        Pages change hands at once; survivors to be encoded again join the branch's next pass.
        Tokens on pinned pages stay. At least one token has to stay."""
        return pruning.prune(self, branch, spans, mode, node, cause)

    def attach(self, branch: Branch, others: Sequence[Branch], *, start: int = 0) -> None:
        """From now on `branch` reads the growing caches of `others` from their resident entry
        `start` on, as if their texts stood one after the other behind its own first `start`
        entries, and its own rest behind them (Hogwild!, 2504.06261, token-wise layout). What it
        computes enters no prefix cache."""
        attaching.attach(self, branch, others, start)

    def detach(self, branch: Branch) -> None:
        """`branch` reads only its own cache again."""
        attaching.detach(self, branch)

    # ---- what the verbs share ----

    def new_branch(
        self, request: RequestId, *, parent: Branch | None = None, override: Override = PLAIN,
        share: bool = True,
    ) -> Branch:  # fmt: skip
        record = self.requests[request]
        if parent is None:
            seed = child_seed(record.seed, record.branches)
            record.branches += 1
        else:
            seed = child_seed(parent.seed, parent.children)
            parent.children += 1
        net = self.net_of(override)
        branch = Branch(
            SeqId(self._next_seq), request, seed=seed, parent=parent.seq if parent else None,
            override=override, net=net, share=share,
        )  # fmt: skip
        branch.chain = self.memory.prefix.root(net) if share else None
        self._next_seq += 1
        self.memory.branches[branch.seq] = branch
        return branch

    def net_of(self, override: Override) -> int:
        """The number of the override's net: pages of one are never read by another."""
        for net, known in enumerate(self._nets):
            if known.same_net(override):
                return net
        self._nets.append(override)
        return len(self._nets) - 1

    def movable(self, branch: Branch) -> bool:
        """Its pages may be taken: nobody reads them, none is pinned, it has some."""
        pinned = self.memory.pages.pinned
        return (
            bool(branch.pages)
            and branch.saved is None
            and not (pinned and pinned.intersection(branch.pages))
            and not any(
                r.branch is branch for b in self.memory.branches.values() for r in b.reading
            )
        )

    def preempt(self, branch: Branch) -> None:
        """Take a branch's pages: contents are saved where tokens alone don't give them back."""
        if branch.purely_resident:
            self.memory.forget(branch)
            self.ledger.forgotten(branch)
        else:
            self.memory.swap_out(branch)
