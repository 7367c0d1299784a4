"""Plain chain of thought: one prompt, one stream, steps cut at blank lines."""

from dataclasses import dataclass
from typing import Any, ClassVar

from workbench.engine.protocols import Sampler, Until, Verdict
from workbench.reasoning.answers import extract_answer
from workbench.reasoning.segments import StepTracker
from workbench.reasoning.strategy import Answer, Context, Strategy, Task, at_least, register
from workbench.reasoning.tree import Node
from workbench.words import Field, Finish, NodeKind


@register
@dataclass(frozen=True)
class Chain(Strategy):
    """`instruction` is put behind the prompt, empty for none."""

    name: ClassVar[str] = "chain"
    instruction: str = "Think step by step. Write the final result after 'Answer:'."
    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        at_least(1, self, "max_tokens")

    async def run(self, ctx: Context, task: Task) -> Answer:
        ids = prompt_ids(ctx, task, self.instruction)
        branch = await ctx.open(ids)
        return await self.go_on(ctx, task, branch, len(ids))

    async def go_on(
        self, ctx: Context, task: Task, branch: Any, start: int, at: int | None = None
    ) -> Answer:
        if at is None:
            root = open_root(ctx, task, branch, start)
        else:
            root = ctx.tree.open(ctx.tree.roots[0], NodeKind.BRANCH, branch.seq, at)
        first = start if at is None else max(at, start)
        steps = StepTracker(ctx.tree, root, branch.seq)
        shared = ctx.text(branch.tokens[start:first])
        for index, token in enumerate(branch.tokens[first:], first):
            if not ctx.is_end(token):
                steps.push(index, ctx.token_bytes(token))
        left = self.max_tokens - (len(branch.tokens) - start)
        ended = len(branch.tokens) > start and ctx.is_end(branch.tokens[-1])
        finish = Finish.STOP if ended else Finish.LENGTH
        if left > 0 and not ended:
            [decoded] = await ctx.decode(
                branch,
                until=Until(max_tokens=left),
                sampler=self.sampler,
                monitor=follow(ctx, {branch.seq: steps}),
            )
            finish = decoded.finish
        text = shared + steps.end(len(branch.tokens))
        answer = extract_answer(text)
        ctx.tree.close(root, len(branch.tokens), answer)
        return Answer(answer, finish)

    @property
    def sampler(self) -> Sampler:
        return Sampler(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty
        )


def prompt_ids(ctx: Context, task: Task, instruction: str) -> list[int]:
    if task.ids is not None:
        return list(task.ids)
    text = f"{task.prompt}\n{instruction}" if instruction else task.prompt
    return ctx.chat([{"role": "user", "content": text}])


def open_root(ctx: Context, task: Task, branch: Any, start: int) -> Node:
    root = ctx.tree.open(None, NodeKind.ROOT, branch.seq, 0)
    ctx.tree.set_title(root, task.prompt)
    ctx.tree.set_field(root, Field.PROMPT, 0, start)
    return root


def follow(ctx: Context, trackers: dict[Any, StepTracker]) -> Any:
    """A monitor that hands each sampled token to its branch's tracker."""

    def monitor(branch: Any, token: int) -> Verdict | None:
        if not ctx.is_end(token):
            trackers[branch.seq].push(len(branch.tokens) - 1, ctx.token_bytes(token))
        return None

    return monitor
