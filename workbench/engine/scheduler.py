"""Who runs in the next step: a pure function from numbers to a plan, and the plan is a value.

Decodes go first, then waiting text in chunks under a token budget, oldest branch first within
each. When pages are short, branches younger than the one in need, and idle ones, give theirs up:
youngest first, since the oldest have the most to lose and the most sharers. So the oldest branch
that wants to run always can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Candidate(NamedTuple):
    """A branch that wants to run: entries [start, start + todo) wait. A tuple, like `Run`, since
    one is made for each row of each step."""

    seq: int
    start: int
    todo: int
    slots: int  # taken along its own pages, the gap before a split included
    held: int  # pages in its block table
    extra: int = 0  # pages needed before the first entry is written
    sampled: bool = True  # the one entry was sampled: a decode

    def need(self, n: int, page_size: int) -> int:
        """Pages that running `n` of its entries takes."""
        return self.extra + max(0, -(-(self.slots + n) // page_size) - self.held)

    def fits(self, pages: int, page_size: int) -> int:
        """Entries that `pages` more pages serve."""
        if pages < self.extra:
            return 0
        return min(self.todo, max(0, (self.held + pages - self.extra) * page_size - self.slots))


@dataclass(frozen=True, slots=True)
class Victim:
    """A branch that could give up its pages; `frees` of them nobody else holds."""

    seq: int
    frees: int
    idle: bool  # it doesn't want to run


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to share out."""

    pages: int  # free, or idle in the prefix cache
    page_size: int
    rows: int
    chunk: int  # tokens of waiting text a step


class Run(NamedTuple):
    """Entries [start, stop) of a branch."""

    seq: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"s{self.seq}:{self.start}..{self.stop}"


@dataclass(frozen=True, slots=True)
class Plan:
    decode: tuple[Run, ...] = ()
    prefill: tuple[Run, ...] = ()
    preempt: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    starved: int | None = None  # nobody else has a page to give, and still it cannot run

    @property
    def runs(self) -> tuple[Run, ...]:
        return self.decode + self.prefill

    def __str__(self) -> str:
        def branches(seqs: Sequence[int]) -> str:
            return "[" + ", ".join(f"s{seq}" for seq in seqs) + "]"

        parts = []
        if self.prefill:
            parts.append("prefill=[" + ", ".join(map(str, self.prefill)) + "]")
        if self.decode:
            parts.append("decode=" + branches([run.seq for run in self.decode]))
        for name in ("preempt", "waiting"):
            if getattr(self, name):
                parts.append(f"{name}={branches(getattr(self, name))}")
        if self.starved is not None:
            parts.append(f"starved=s{self.starved}")
        return f"Plan({', '.join(parts)})"


def plan(candidates: Sequence[Candidate], victims: Sequence[Victim], room: Room) -> Plan:
    """The next step's rows. `candidates` and `victims` come oldest first; reads only."""
    free, chunk, size = room.pages, room.chunk, room.page_size
    usual = len(candidates) <= room.rows and all(c.sampled for c in candidates)
    if usual and sum([c.need(1, size) for c in candidates]) <= free:
        return Plan(tuple([Run(c.seq, c.start, c.start + 1) for c in candidates]))
    decode: list[Run] = []
    prefill: list[Run] = []
    waiting: list[int] = []
    preempt: list[int] = []
    starved: int | None = None
    chosen: set[int] = set()
    ordered = [c for c in candidates if c.sampled] + [c for c in candidates if not c.sampled]
    oldest = min((c.seq for c in candidates), default=None)

    for candidate in ordered:
        seq = candidate.seq
        n = 1 if candidate.sampled else min(candidate.todo, chunk)
        if not n or len(chosen) == room.rows or seq in preempt:
            waiting.append(seq)
            continue
        if candidate.need(n, size) > free:
            for victim in reversed(victims):
                spared = victim.seq in chosen or victim.seq in preempt or victim.seq == seq
                if spared or not (victim.idle or victim.seq > seq):
                    continue
                preempt.append(victim.seq)
                free += victim.frees
                if candidate.need(n, size) <= free:
                    break
            n = min(n, candidate.fits(free, size))
        if not n:
            waiting.append(seq)
            if seq == oldest and not chosen and not preempt:
                starved = seq
            continue
        free -= candidate.need(n, size)
        chosen.add(seq)
        run = Run(seq, candidate.start, candidate.start + n)
        if candidate.sampled:
            decode.append(run)
        else:
            prefill.append(run)
            chunk -= n
    return Plan(tuple(decode), tuple(prefill), tuple(preempt), tuple(waiting), starved)
