"""Flat lines with tool calls inside: the control that a tree is measured against.

The same work as a tree's, written as plain text: a line `694 node(694)=>` stops, the runtime puts
the result in, and the text goes on. All of it stays in memory, or the oldest whole lines leave
when `window` tokens are over, as a sliding window would have it; survivors are encoded again.
"""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar

from workbench.engine.protocols import Stop, Until, Verdict
from workbench.reasoning.chain import open_root
from workbench.reasoning.strategy import Answer, Context, Strategy, Task, at_least, register
from workbench.reasoning.tree import Node
from workbench.tools.contract import Outcome, failure
from workbench.words import Field, Finish, NodeKind, Origin

CALL = re.compile(r"(\w+)\(([^()\n]*)\)=>$")
ANSWER = "answer: "


@register
@dataclass(frozen=True)
class Lines(Strategy):
    """`window`: tokens of lines kept at most, None for all. `peak`: tokens of prompt and lines
    together, None for any number; lines go in time, so that one as long as any before still fits.
    When either is over, the oldest lines go until half of what lines may take is left."""

    name: ClassVar[str] = "lines"
    window: int | None = None
    peak: int | None = None
    adapter: str | None = "cot-smollm2"
    scale: float = 1.0
    max_tokens: int = 65_536

    def __post_init__(self) -> None:
        at_least(1, self, "window", "peak", "max_tokens")

    async def run(self, ctx: Context, task: Task) -> Answer:
        adapter = self.adapter if self.adapter and ctx.has_adapter(self.adapter) else None
        turn = f"<|im_start|>user\n{task.prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = list(task.ids) if task.ids is not None else ctx.encode(turn)
        branch = await ctx.open(ids, adapter=adapter, scale=self.scale)
        root = open_root(ctx, task, branch, len(ids))
        return await _Writing(self, ctx, task, branch, root, len(ids)).run()


@dataclass(slots=True)
class _Writing:
    """One text being written on one branch."""

    lines: Lines
    ctx: Context
    task: Task
    branch: Any
    root: Node
    start: int  # stream index of the first line
    begun: int = field(init=False)  # of the present line
    longest: int = 0  # tokens of a line so far
    line: bytearray = field(default_factory=bytearray)
    kept: deque[tuple[int, int]] = field(default_factory=deque)  # whole lines in memory
    answer: str = ""
    sampled: int = 0

    def __post_init__(self) -> None:
        self.begun = self.start

    async def run(self) -> Answer:
        while True:
            left = self.lines.max_tokens - self.sampled
            if left <= 0:
                return self._end(Finish.LENGTH)
            [decoded] = await self.ctx.decode(
                self.branch, until=Until(max_tokens=left), monitor=self._follow
            )
            if decoded.finish is not Finish.MONITOR:
                return self._end(decoded.finish)
            if call := CALL.search(self.line.decode("utf-8", "replace")):
                await self._call(call[1], call[2])
            else:
                await self._slide()

    def _follow(self, branch: Any, token: int) -> Verdict | None:
        self.sampled += 1
        if self.ctx.is_end(token):
            return None
        text = self.ctx.token_bytes(token)
        self.line += text
        if b"\n" in text:
            self._close_line(len(branch.tokens))
            return Stop("line") if self._over() else None
        return Stop("call") if CALL.search(self.line.decode("utf-8", "replace")) else None

    async def _call(self, name: str, argument: str) -> None:
        tool = self.task.tool(name)
        node = self.ctx.tree.open(self.root, NodeKind.STEP, self.branch.seq, self.begun)
        self.ctx.tree.set_title(node, self.line.decode("utf-8", "replace"))
        outcome: Outcome
        if tool is None or not (names := list(tool.parameters.get("properties", ()))):
            outcome = failure(f"there is no tool {name!r} that takes one argument")
        else:
            arguments = {names[0]: argument}
            outcome = await self.ctx.tool(node, self.branch, tool, name, arguments)
        ids = self.ctx.encode(outcome.text)
        start = len(self.branch.tokens)
        await self.ctx.feed(self.branch, ids, origin=Origin.TOOL)
        self.ctx.tree.set_field(node, Field.CALL, self.begun, start)
        self.ctx.tree.set_field(node, Field.RESULT, start, start + len(ids))
        self.ctx.tree.close(node, start + len(ids), outcome.text)
        self.line += outcome.text.encode()

    def _close_line(self, stop: int) -> None:
        said = self.line.decode("utf-8", "replace").strip()
        if said.startswith(ANSWER):
            self.answer = said.removeprefix(ANSWER)
        self.kept.append((self.begun, stop))
        self.longest = max(self.longest, stop - self.begun)
        self.begun = stop
        self.line.clear()

    def _over(self) -> bool:
        window, peak = self.lines.window, self.lines.peak
        if window is not None and self._held() > window:
            return True
        return peak is not None and self.start + self._held() + self.longest > peak

    def _held(self) -> int:
        return sum(stop - start for start, stop in self.kept)

    async def _slide(self) -> None:
        window, peak = self.lines.window, self.lines.peak
        rooms = [window] if window is not None else []
        if peak is not None:
            rooms.append(peak - self.start)
        first = self.kept[0][0]
        stop = first
        while len(self.kept) > 1 and self._held() > min(rooms) // 2:
            stop = self.kept.popleft()[1]
        if stop > first:
            await self.ctx.prune(self.branch, [(first, stop)], cause="window")

    def _end(self, finish: Finish) -> Answer:
        self._close_line(len(self.branch.tokens))
        self.ctx.tree.close(self.root, len(self.branch.tokens), self.answer)
        return Answer(self.answer, finish)
