"""Commands that need to know nodes, strategies or texts: obeyed here, at the engine's safe
points."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from workbench.commands import AddNote, Command, EditText, ForkAt, ForkNode, PinNode, PruneNode
from workbench.engine.errors import Refused
from workbench.engine.sequence import Branch
from workbench.events import Noted, TokenSampled
from workbench.reasoning.strategy import Strategy
from workbench.reasoning.tree import Node
from workbench.session.context import RunContext
from workbench.session.run import Fork, Run
from workbench.words import NodeId, Origin, SeqId

if TYPE_CHECKING:
    from workbench.session.session import Session


class Obey:
    """The engine's `on_command`. Returns an outcome, or raises Refused with the reason."""

    def __init__(self, session: "Session") -> None:
        self._session = session

    async def __call__(self, command: Command) -> Mapping[str, Any]:
        match command:
            case PruneNode():
                return await self._prune(command)
            case PinNode():
                return self._pin(command)
            case AddNote():
                return self._note(command)
            case ForkNode(node=node, temperature=temperature, seed=seed):
                _, found = self._node(node)
                return await self._fork(
                    ForkAt(found.seq, found.first, temperature=temperature, seed=seed)
                )
            case ForkAt():
                return await self._fork(command)
            case EditText():
                return await self._edit(command)
        raise Refused(f"nobody here obeys {type(command).__name__}")

    async def _prune(self, command: PruneNode) -> Mapping[str, Any]:
        ctx, node = self._node(command.node)
        branch = self._branch(node.seq)[2]
        if node.finished is None:
            raise Refused(_nothing_finished(node))
        spans = node.unpinned()
        start, stop = node.finished
        resident = [i for i in branch.resident if start <= i < stop]
        if not resident:
            raise Refused(f"what is finished of node {node.path!r} has left memory already")
        if not any(a <= i < b for i in resident for a, b in spans):
            raise Refused(f"node {node.path!r} is pinned; unpin it first")
        report = await ctx.prune(branch, spans, mode=command.mode, node=node.id, cause="command")
        return {
            "removed": report.removed,
            "reencoded": report.reencoded,
            "rotated": report.rotated,
            "pages_freed": report.pages_freed,
        }

    def _pin(self, command: PinNode) -> Mapping[str, Any]:
        _, node = self._node(command.node)
        node.pinned = command.pinned
        return {"node": int(node.id), "pinned": node.pinned}

    def _note(self, command: AddNote) -> Mapping[str, Any]:
        engine = self._session.engine
        if command.node is not None:
            self._node(command.node)
        engine.emit(Noted(engine.now, command.node, command.index, command.text))
        return {}

    async def _fork(self, command: ForkAt) -> Mapping[str, Any]:
        run, ctx, branch = self._branch(command.seq)
        start = self._start(run, ctx)
        if not start <= command.index <= len(branch.tokens):
            raise Refused(
                f"token {command.index} cannot be forked at; generated tokens are {start} to"
                f" {len(branch.tokens) - 1}"
            )
        token = command.token
        if token is None and command.rank is not None:
            token = self._alternative(command)
        strategy = _other(run.strategy, command.temperature)
        kept = list(branch.tokens[start : command.index])
        why = strategy.objection(ctx, run.task, kept if token is None else [*kept, token])
        if why:
            raise Refused(f"the strategy cannot go on from there: {why}")
        chosen = () if token is None else (token,)
        seq = await self._branch_off(
            run, ctx, branch, command.index, chosen, strategy, command.seed
        )
        return {"seq": int(seq), "token": token}

    async def _edit(self, command: EditText) -> Mapping[str, Any]:
        run, ctx, branch = self._branch(command.seq)
        start = self._start(run, ctx)
        if not start <= command.start <= command.stop <= len(branch.tokens):
            raise Refused(
                f"tokens [{command.start}, {command.stop}) cannot be edited; generated ones are"
                f" [{start}, {len(branch.tokens)})"
            )
        tokens = tuple(ctx.encode(command.text))
        kept = [*branch.tokens[start : command.start], *tokens]
        why = run.strategy.objection(ctx, run.task, kept)
        if why:
            raise Refused(f"the strategy cannot go on from that text: {why}")
        seq = await self._branch_off(
            run, ctx, branch, command.start, tokens, run.strategy, None, is_edit=True
        )
        self._session.engine.drop(branch, "its text was edited")
        return {"seq": int(seq)}

    async def _branch_off(
        self,
        run: Run,
        ctx: RunContext,
        branch: Branch,
        at: int,
        tokens: tuple[int, ...],
        strategy: Strategy,
        seed: int | None,
        is_edit: bool = False,
    ) -> SeqId:
        """A child that shares the stream before `at`, `tokens` put behind it, on its way to an
        answer."""
        beside = ctx.beside(seed)
        [child] = await beside.fork(branch, 1, at=at)
        if tokens:
            await beside.feed(child, tokens, origin=Origin.FED)
        run.contexts.append(beside)
        work = strategy.go_on(beside, run.task, child, self._start(run, ctx), at)
        fork = Fork(child.seq, at, tokens[0] if tokens else None, is_edit)
        self._session.start_fork(run, beside, work, fork)
        return child.seq

    def _alternative(self, command: ForkAt) -> int:
        assert command.rank is not None
        found = [
            event
            for event in self._session.trace.events(TokenSampled)
            if event.seq == command.seq and event.index == command.index
        ]
        if not found:
            raise Refused(f"token {command.index} was not sampled; name the token to put there")
        ids = found[-1].top_ids
        if not 0 <= command.rank < len(ids):
            raise Refused(f"rank {command.rank} is not recorded; ranks 0 to {len(ids) - 1} are")
        return ids[command.rank]

    def _start(self, run: Run, ctx: RunContext) -> int:
        """Where the text that the strategy reads begins: behind the prompt of the first branch."""
        first = next(iter(run.contexts[0].branches.values()))
        return next(
            (at for at, origin in first.origins if origin is not Origin.PROMPT), len(first.tokens)
        )

    def _node(self, node: NodeId) -> tuple[RunContext, Node]:
        for run in self._session.runs:
            for ctx in run.contexts[:1]:
                if node in ctx.tree.nodes:
                    return ctx, ctx.tree.nodes[node]
        raise Refused(f"there is no node {node}")

    def _branch(self, seq: SeqId) -> tuple[Run, RunContext, Branch]:
        for run in self._session.runs:
            for ctx in run.contexts:
                branch = ctx.branches.get(seq)
                if branch is None:
                    continue
                if branch.gone is not None:
                    raise Refused(
                        f"branch {seq} is gone ({branch.gone}); its memory was given back"
                    )
                return run, ctx, branch
        raise Refused(f"there is no branch {seq}")


def _nothing_finished(node: Node) -> str:
    if not node.open:
        return f"node {node.path!r} has no subtask list; prune one that has"
    if not node.children:
        return f"node {node.path!r} is still open and has no subtasks yet; prune one that has"
    if not node.children[-1].open:
        return f"{node.children[-1].path!r} is the newest of an open list; what is before it can go"
    return (
        f"{node.children[-1].path!r}, the only subtask of node {node.path!r}, is still open;"
        " its conclusion has to be written first"
    )


def _other(strategy: Strategy, temperature: float | None) -> Strategy:
    if temperature is None:
        return strategy
    if "temperature" not in {field.name for field in fields(strategy)}:
        raise Refused(f"strategy {strategy.name!r} has no temperature; fork without one")
    changes: dict[str, Any] = {"temperature": temperature}
    return replace(strategy, **changes)
