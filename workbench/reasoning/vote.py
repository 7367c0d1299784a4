"""Majority vote (self-consistency, 2203.11171): n forks of one prefill, the most frequent
answer."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from workbench.engine.protocols import Sampler, Until
from workbench.reasoning.answers import extract_answer
from workbench.reasoning.chain import follow, open_root, prompt_ids
from workbench.reasoning.segments import StepTracker
from workbench.reasoning.strategy import Answer, Context, Strategy, Task, at_least, register
from workbench.words import Finish, NodeKind


@register
@dataclass(frozen=True)
class Vote(Strategy):
    """`n` voters. Among answers with equal counts the one that came first in order of voters
    wins."""

    name: ClassVar[str] = "vote"
    n: int = 8
    instruction: str = "Think step by step. Write the final result after 'Answer:'."
    max_tokens: int = 256
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, self, "n", "max_tokens")

    async def run(self, ctx: Context, task: Task) -> Answer:
        ids = prompt_ids(ctx, task, self.instruction)
        trunk = await ctx.open(ids)
        root = open_root(ctx, task, trunk, len(ids))
        voters = await ctx.fork(trunk, self.n)
        nodes = [ctx.tree.open(root, NodeKind.BRANCH, v.seq, len(ids)) for v in voters]
        steps = {
            v.seq: StepTracker(ctx.tree, node, v.seq) for v, node in zip(voters, nodes, strict=True)
        }
        decoded = await ctx.decode(
            voters,
            until=Until(max_tokens=self.max_tokens),
            sampler=Sampler(self.temperature, self.top_k, self.top_p, self.min_p),
            monitor=follow(ctx, steps),
        )
        answers = []
        for voter, node in zip(voters, nodes, strict=True):
            answers.append(extract_answer(steps[voter.seq].end(len(voter.tokens))))
            ctx.tree.set_title(node, answers[-1])
            ctx.tree.close(node, len(voter.tokens), answers[-1])
        counts = Counter(answer for answer in answers if answer)
        winner, votes = counts.most_common(1)[0] if counts else ("", 0)
        ctx.note(f"votes: {dict(counts.most_common())}; {votes} of {self.n} for {winner!r}", root)
        ctx.tree.close(root, len(ids), winner)
        cut = all(d.finish is Finish.LENGTH for d in decoded)
        return Answer(winner, Finish.LENGTH if cut else Finish.STOP)
