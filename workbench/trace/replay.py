"""The audit of a trace: every fact is played again on plain lists, and what contradicts is told.

Shares nothing with the reducer that makes the tables. Violations are sentences; only the first of a
kind at a place is told, then the audit goes on with what the fact claims.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from workbench import events as ev
from workbench.trace.replay_pages import PageAudit
from workbench.trace.replay_tree import TreeAudit
from workbench.trace.trace import Trace

MOST = 200  # violations told


class Audit:
    """Feeds facts to the auditors of streams, pages and trees, and keeps their sentences."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._streams = StreamAudit(self._say)
        self._parts = (
            self._streams,
            PageAudit(self._say, self._streams),
            TreeAudit(self._say, self._streams),
        )

    def _say(self, sentence: str) -> None:
        if len(self.violations) < MOST:
            self.violations.append(sentence)

    def run(self, events: Iterable[ev.Event]) -> list[str]:
        handlers: dict[type[ev.Event], list[Callable[[Any], None]]] = {
            cls: [h for part in self._parts if (h := getattr(part, f"on_{name}", None))]
            for name, cls in ev.EVENTS.items()
        }
        for event in events:
            for handler in handlers[type(event)]:
                handler(event)
        for part in self._parts:
            part.end()
        return self.violations


class AuditedBranch:
    """A branch as the facts tell it."""

    def __init__(self, request: int, parent: int | None = None, at: int = 0) -> None:
        self.request = request
        self.parent, self.at = parent, at  # whose stream it shares before which index
        self.tokens: list[int] = []
        self.births: list[int] = []  # number of the fact that brought each token
        self.resident: list[int] = []
        self.cuts: list[tuple[int, int, int]] = []  # (fact number, start, stop)
        self.computed = 0  # resident tokens that a token sampled in this step was computed from
        self.live = True
        self.away = False  # preempted

    def truncate(self, index: int) -> None:
        """The stream ends at `index` now."""
        del self.tokens[index:], self.births[index:]
        self.resident = [i for i in self.resident if i < index]
        self.cuts = [(n, a, min(b, index)) for n, a, b in self.cuts if a < index]


class StreamAudit:
    """Streams, residency, prunes and step counts."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.branches: dict[int, AuditedBranch] = {}
        self.known: dict[int, bytes] = {}
        self.complete = self.ended = False
        self._fact = 0
        self._step: int | None = None
        self._t = 0.0
        self._sampled = 0

    def text(self, seq: int, start: int, stop: int) -> bytes:
        tokens = self.branches[seq].tokens[start:stop]
        return b"".join(self.known.get(token, b"") for token in tokens)

    def on_TokenKnown(self, e: ev.TokenKnown) -> None:
        if e.token in self.known:
            self.say(f"step {e.step}: token {e.token} is told twice")
        self.known[e.token] = e.text

    def on_BranchOpened(self, e: ev.BranchOpened) -> None:
        self._fact += 1
        if e.seq in self.branches:
            self.say(f"step {e.step}: branch {e.seq} is opened twice")
        branch = self.branches[e.seq] = AuditedBranch(e.request, e.parent, e.at)
        parent = self.branches.get(e.parent) if e.parent is not None else None
        if e.parent is not None and parent is None:
            self.say(
                f"step {e.step}: branch {e.seq} is forked from {e.parent}, which nobody opened"
            )
        if parent is None:
            return
        if e.at > len(parent.tokens):
            self.say(
                f"step {e.step}: branch {e.seq} is forked at {e.at}, but branch {e.parent} has "
                f"{len(parent.tokens)} tokens"
            )
        now = e.at >= len(parent.tokens)
        fact = self._fact if now else parent.births[e.at]
        branch.tokens, branch.births = parent.tokens[: e.at], parent.births[: e.at]
        branch.cuts = [(n, a, min(b, e.at)) for n, a, b in parent.cuts if n < fact and a < e.at]
        gone = {i for _, a, b in branch.cuts for i in range(a, b)}
        branch.resident = [i for i in range(len(branch.tokens)) if i not in gone]

    def _branch(self, seq: int, step: int, what: str) -> AuditedBranch | None:
        branch = self.branches.get(seq)
        if branch is None or not branch.live:
            state = "nobody opened" if branch is None else "was dropped"
            self.say(f"step {step}: {what} of branch {seq}, which {state}")
            return None
        return branch

    def on_TokensFed(self, e: ev.TokensFed) -> None:
        self._fact += 1
        if branch := self._branch(e.seq, e.step, "tokens are fed into the stream"):
            self._append(branch, e.step, e.seq, e.index, e.tokens)

    def on_TokenSampled(self, e: ev.TokenSampled) -> None:
        self._fact += 1
        self._sampled += 1
        if branch := self._branch(e.seq, e.step, "a token is sampled for the stream"):
            self._append(branch, e.step, e.seq, e.index, (e.token,))
            branch.computed = len(branch.resident) - 1
        if list(e.top_logprobs) != sorted(e.top_logprobs, reverse=True):
            self.say(
                f"step {e.step}: the alternatives of token {e.index} of branch {e.seq} are unsorted"
            )

    def _append(
        self, branch: AuditedBranch, step: int, seq: int, index: int, tokens: tuple[int, ...]
    ) -> None:
        length = len(branch.tokens)
        if index != length:
            self.say(
                f"step {step}: token {index} of branch {seq} comes when it has {length} tokens"
            )
        if index < length:
            branch.truncate(index)
        for token in tokens:
            if token not in self.known:
                self.say(f"step {step}: token id {token} of branch {seq} has no text")
                self.known[token] = b""
        branch.resident += range(len(branch.tokens), len(branch.tokens) + len(tokens))
        branch.tokens += tokens
        branch.births += [self._fact] * len(tokens)

    def on_Pruned(self, e: ev.Pruned) -> None:
        self._fact += 1
        branch = self._branch(e.seq, e.step, "a prune")
        if branch is None:
            return
        where = f"step {e.step}: the prune [{e.start}, {e.stop}) of branch {e.seq}"
        branch.computed = 0
        if e.cause == "edit":
            branch.truncate(e.start)
            return
        before = len(branch.resident)
        since = 0 if e.cause == "earlier" else self._fact
        branch.cuts.append((since, e.start, e.stop))
        branch.resident = [i for i in branch.resident if not e.start <= i < e.stop]
        if e.cause == "earlier":
            return
        after = len(branch.resident)
        if before - after != e.removed:
            self.say(
                f"{where} tells of {e.removed} removed tokens, {before - after} were in memory"
            )
        if (before, after) != (e.length_before, e.length_after):
            self.say(
                f"{where} tells of {e.length_before} tokens before and {e.length_after} after, "
                f"the stream has {before} and {after}"
            )
        behind = sum(i >= e.stop for i in branch.resident)
        if e.reencoded + e.rotated > behind:
            self.say(f"{where} moves {e.reencoded + e.rotated} survivors, {behind} lie behind it")

    def on_BranchDropped(self, e: ev.BranchDropped) -> None:
        if branch := self._branch(e.seq, e.step, "a drop"):
            branch.live = False

    def on_BranchPreempted(self, e: ev.BranchPreempted) -> None:
        if branch := self._branch(e.seq, e.step, "a preemption"):
            branch.away = True

    def on_BranchRestored(self, e: ev.BranchRestored) -> None:
        if branch := self._branch(e.seq, e.step, "a restoration"):
            branch.away = False

    def on_StepEnded(self, e: ev.StepEnded) -> None:
        if self._sampled != e.sampled:
            self.say(f"step {e.step}: it tells of {e.sampled} sampled tokens, {self._sampled} came")
        if self._step is not None and e.step <= self._step:
            self.say(f"step {e.step} ends after step {self._step}")
        if e.t < self._t:
            self.say(f"step {e.step} starts at {e.t:.6f} s, before the end of the last")
        self._sampled, self._step, self._t = 0, e.step, e.t

    def on_RunEnded(self, e: ev.RunEnded) -> None:
        self.ended, self.complete = True, e.complete

    def end(self) -> None:
        if self.complete:
            for seq, branch in self.branches.items():
                if branch.live:
                    self.say(f"the run is complete, but branch {seq} was never dropped")


def audit(events: Iterable[ev.Event]) -> list[str]:
    """What contradicts itself in a run's facts, as sentences; empty when nothing does."""
    return Audit().run(events)


def replay(path: Path | str) -> dict[str, Any]:
    """`workbench trace replay`: `{"ok", "violations"}`. A damaged end is a violation too."""
    trace = Trace.open(path)
    violations = audit(trace.events())
    if trace.lost_bytes:
        violations.append(f"{trace.lost_bytes} bytes at the end of the file could not be read")
    return {"ok": not violations, "violations": violations}
