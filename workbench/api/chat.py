"""Plain chat as a strategy: one prefill, `n` forks of it, each decoded under the request's grammar.

What a fork said and why it ended is told by events alone: its tokens as they are sampled, and its
end as `BranchDropped` with the finish as reason, which also frees its pages while others go on.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

from workbench.api.tools import NO_TOOLS, OPEN, ToolUse
from workbench.engine.grammar import GrammarError, GrammarMatcher, Vocabulary, lark
from workbench.engine.protocols import GREEDY, Sampler, Until
from workbench.reasoning import Answer, Context, Strategy, Task
from workbench.reasoning.chain import open_root
from workbench.reasoning.tree import Node
from workbench.words import Finish, NodeKind


@dataclass(frozen=True)
class Chat(Strategy):
    """`schema` is llguidance's form of the reply's JSON schema; `max_tokens` None goes on to the
    window."""

    name: ClassVar[str] = "chat"
    vocabulary: Vocabulary = field(kw_only=True, repr=False)
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampler: Sampler = GREEDY
    schema: str | None = None
    tools: ToolUse = NO_TOOLS

    async def run(self, ctx: Context, task: Task) -> Answer:
        assert task.ids is not None, "chat is given its prompt as tokens"
        branch = await ctx.open(task.ids)
        root = open_root(ctx, task, branch, len(task.ids))
        branches = [branch]
        if self.n > 1:
            branches += await ctx.fork(branch, self.n - 1)
        ends = await asyncio.gather(*(self._speak(ctx, one, root) for one in branches))
        ctx.tree.close_all(len(branch.tokens), branch.seq)
        return Answer("", Finish.LENGTH if Finish.LENGTH in ends else Finish.STOP)

    async def _speak(self, ctx: Context, branch: Any, root: Node) -> Finish:
        start = len(branch.tokens)
        node = root
        if self.n > 1:
            node = ctx.tree.open(root, NodeKind.BRANCH, branch.seq, start)
        finish = await self._decode(ctx, branch, start)
        if node is not root:
            ctx.tree.close(node, len(branch.tokens))
        ctx.drop(branch, str(finish))
        return finish

    async def _decode(self, ctx: Context, branch: Any, start: int) -> Finish:
        matcher = self._matcher()
        watches = self.tools.offered and matcher is None
        # a forced call is never cut by a stop text
        stops = (*self.stop, OPEN) if watches else () if self.tools.offered else self.stop
        [decoded] = await ctx.decode(
            branch,
            until=Until(max_tokens=self.max_tokens, stop_text=stops),
            sampler=self.sampler,
            grammar=matcher,
        )
        if not (watches and decoded.finish is Finish.STOP and decoded.why == OPEN):
            return decoded.finish
        left = None
        if self.max_tokens is not None:
            left = self.max_tokens - (len(branch.tokens) - start)
            if left <= 0:
                return Finish.LENGTH
        [called] = await ctx.decode(
            branch,
            until=Until(max_tokens=left),
            sampler=self.sampler,
            grammar=self._calls(ctx, decoded.text),
        )
        return called.finish

    def _matcher(self) -> GrammarMatcher | None:
        if self.schema is not None:
            return GrammarMatcher(self.vocabulary, self.schema, "response_format")
        if self.tools.offered and self.tools.choice == "required":
            return lark(self.vocabulary, self.tools.grammar())
        return None

    def _calls(self, ctx: Context, said: str) -> GrammarMatcher | None:
        """The grammar of calls, past what the token with the tag's end brought beyond it; None
        where that is no beginning of a call."""
        matcher = lark(self.vocabulary, self.tools.grammar())
        try:
            for token in ctx.encode(said.partition(OPEN)[2]):
                matcher.consume(token)
        except GrammarError:
            return None
        return matcher
