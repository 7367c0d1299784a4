"""TIM: a Thread-2 tree grown inside one request, whose finished lists leave the working memory.

After 2507.16784. Depth first, one stream: thought, a tool call answered inside, subtasks,
conclusion. When a subtask list is finished it is queued; while the queue is longer than
`threshold`, the oldest list is pruned (FIFO). The grammar, the tree and stop conditions follow the
full emitted text.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from workbench.engine.protocols import Matcher, Sampler, Stop, Until, Verdict
from workbench.reasoning.strategy import Answer, Context, Strategy, Task, at_least, register
from workbench.reasoning.structures import Structure
from workbench.reasoning.tracker import Progress, TreeTextError, TreeTracker
from workbench.reasoning.tree import Node
from workbench.tools.contract import Outcome, compact, failure
from workbench.words import Field, Finish, NodeKind, Origin, PruneMode

SHIPPED = "tim-smollm2"
INSTRUCTIONS = (
    'Think as JSON: {"reasoning":[TASK,...],"answer":"..."}. A TASK has "thought", then "tooluse"'
    ' {"tool_name","parameters","tool_result"} or "subtasks" [TASK,...] where useful,'
    ' then "conclusion".'
)


@register
@dataclass(frozen=True)
class Tim(Strategy):
    """`threshold`: finished lists kept in memory, None for all of them. `adapter`: a LoRA of the
    model's that knows the form of trees, used where it is loaded; without one the model is told in
    words. `structure`: the task types that every tree is made of, declared by the user."""

    name: ClassVar[str] = "tim"
    threshold: int | None = 0
    mode: Literal["reencode", "rotate"] = "reencode"
    trigger: Literal["owner_closed", "list_closed"] = "owner_closed"
    grammar: bool = True
    adapter: str | None = SHIPPED
    scale: float = 1.0
    max_depth: int = 24
    max_tokens: int = 65_536
    max_text: int | None = 400  # tokens of one thought, conclusion or answer
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    structure: Structure | None = None

    def __post_init__(self) -> None:
        if self.structure is not None and not self.grammar:
            raise ValueError("tim.structure is held by the grammar; leave grammar on")
        at_least(0, self, "threshold")
        at_least(1, self, "max_depth", "max_tokens", "max_text")

    async def run(self, ctx: Context, task: Task) -> Answer:
        adapter = self.adapter if self.adapter and ctx.has_adapter(self.adapter) else None
        ids = list(task.ids) if task.ids is not None else self.prompt(ctx, task, adapter)
        branch = await ctx.open(ids, adapter=adapter, scale=self.scale)
        return await self.go_on(ctx, task, branch, len(ids))

    async def go_on(
        self, ctx: Context, task: Task, branch: Any, start: int, at: int | None = None
    ) -> Answer:
        return await _Growth(self, ctx, task, branch, start, at).run()

    def prompt(self, ctx: Context, task: Task, adapter: str | None) -> list[int]:
        """The adapter was trained on bare ChatML turns, without the template's default system
        text."""
        if adapter is not None:
            turn = f"<|im_start|>user\n{task.prompt}<|im_end|>\n<|im_start|>assistant\n"
            return ctx.encode(turn)
        tools = "".join(
            f"\nTool {tool.name}: {tool.description} Parameters: {compact(tool.parameters)}"
            for tool in task.tools
        )
        types = f"\n{self.structure.told}" if self.structure is not None else ""
        system = {"role": "system", "content": INSTRUCTIONS + tools + types}
        return ctx.chat([system, {"role": "user", "content": task.prompt}])

    def matcher(self, ctx: Context, task: Task) -> Matcher | None:
        if not self.grammar:
            return None
        return ctx.tree_matcher(task.tools, self.max_depth, self.max_text, self.structure)

    def objection(self, ctx: Context, task: Task, emitted: Sequence[int]) -> str:
        matcher = self.matcher(ctx, task)
        if matcher is None:
            return ""
        try:
            for token in emitted:
                matcher.consume(token)
        except ValueError as error:
            return str(error)
        return ""

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.temperature, self.top_k, self.top_p, self.min_p)


@dataclass(slots=True)
class _Growth:
    """One tree being grown on one branch."""

    tim: Tim
    ctx: Context
    task: Task
    branch: Any
    start: int  # stream index of the tree's first token
    at: int | None  # where a fork left its parent
    matcher: Matcher | None = None
    tracker: TreeTracker = field(init=False)
    finished: deque[Node] = field(default_factory=deque)  # owners of finished lists still in memory
    progress: Progress = field(default_factory=Progress)
    sampled: int = 0
    broken: str = ""

    async def run(self) -> Answer:
        self._catch_up()
        if self.tracker.done and self.ctx.is_end(self.branch.tokens[-1]):
            return self._end(Finish.STOP)
        while not self.broken:
            if self.progress.wants_result is not None:
                await self._call(self.progress.wants_result)
            await self._prune()
            left = self.tim.max_tokens - self.sampled
            if left <= 0:
                return self._end(Finish.LENGTH)
            [decoded] = await self.ctx.decode(
                self.branch,
                until=Until(max_tokens=left),
                sampler=self.tim.sampler,
                grammar=self.matcher,
                monitor=self._follow,
            )
            if decoded.finish is Finish.MONITOR:
                continue
            return self._end(Finish.STOP if self.tracker.done else decoded.finish)
        return self._end(Finish.ERROR)

    def _catch_up(self) -> None:
        """Read what the branch already holds of the tree. Lists that have left memory are queued
        too: to prune them again removes nothing, and one that was missed leaves now."""
        self.matcher = self.tim.matcher(self.ctx, self.task)
        tree, seq = self.ctx.tree, self.branch.seq
        emitted = self.branch.tokens[self.start :]
        if self.at is not None:
            self.tracker = TreeTracker.replayed(tree, seq)
        else:
            root = tree.open(None, NodeKind.ROOT, seq, 0)
            tree.set_title(root, self.task.prompt)
            tree.set_field(root, Field.PROMPT, 0, self.start)
            self.tracker = TreeTracker(tree, root, seq)
        for index, token in enumerate(emitted, self.start):
            if self.matcher is not None:
                self.matcher.consume(token)
            if not self.ctx.is_end(token):
                self._note(self.tracker.push(index, self.ctx.token_bytes(token)))
        if self.at is not None:
            self.tracker.graft(tree, self.branch.parent, self.at)

    def _follow(self, branch: Any, token: int) -> Verdict | None:
        """The engine's monitor: reads each sampled token, stops where the runtime has to act."""
        self.sampled += 1
        if self.ctx.is_end(token):
            return None
        return self._read(len(branch.tokens) - 1, token)

    def _read(self, index: int, token: int) -> Verdict | None:
        try:
            self._note(self.tracker.push(index, self.ctx.token_bytes(token)))
        except TreeTextError as error:
            self.broken = str(error)
            return Stop("malformed tree")
        if self.progress.wants_result is not None:
            return Stop("tool")
        return Stop("prune") if self._over() else None

    def _note(self, progress: Progress) -> None:
        self.progress = progress
        done = progress.closed if self.tim.trigger == "owner_closed" else progress.listed
        if done:
            self.finished.extend(node for node in done if node.span is not None)

    def _over(self) -> bool:
        return self.tim.threshold is not None and len(self.finished) > self.tim.threshold

    async def _prune(self) -> None:
        while self._over():
            node = self.finished.popleft()
            spans = node.unpinned()
            if spans:
                await self.ctx.prune(
                    self.branch,
                    spans,
                    mode=PruneMode(self.tim.mode),
                    node=node.id,
                    cause="threshold",
                )

    async def _call(self, node: Node) -> None:
        name, arguments = self.tracker.call
        outcome = await self.ctx.tool(node, self.branch, self.task.tool(name), name, arguments)
        ids = self._accepted(outcome)
        start = len(self.branch.tokens)
        await self.ctx.feed(self.branch, ids, origin=Origin.TOOL)
        for index, token in enumerate(ids, start):
            self._note(self.tracker.push(index, self.ctx.token_bytes(token)))

    def _accepted(self, outcome: Outcome) -> Sequence[int]:
        """The result's tokens, the matcher advanced through them; an error object where the grammar
        cannot read the result."""
        ids = self.ctx.encode(outcome.text)
        for count, token in enumerate(ids):
            try:
                if self.matcher is not None:
                    self.matcher.consume(token)
            except ValueError:
                assert self.matcher is not None
                self.matcher.rollback(count)
                return self._accepted(failure("the result is no JSON that the tree can hold"))
        return ids

    def _end(self, finish: Finish) -> Answer:
        self.ctx.tree.close_all(len(self.branch.tokens), self.branch.seq)
        return Answer(self.tracker.answer, finish, self.broken)
