"""Moving stored entries: out of the pool and back, and to other places in it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.engine.errors import PoolTooSmall
from workbench.engine.memory import Memory
from workbench.engine.sequence import Branch
from workbench.words import FreeReason

if TYPE_CHECKING:
    from workbench.engine.engine import Engine

Move = tuple[int, int, int]  # stored entries [start, stop) become those from the third on


def make_room(engine: "Engine", pages: int, branch: Branch, spare: Branch | None = None) -> None:
    """See that `pages` can be had for `branch`: take from the youngest of the others what is
    missing."""
    memory = engine.memory
    others = [
        b
        for b in memory.branches.values()
        if b is not branch and b is not spare and engine.movable(b)
    ]
    while memory.available < pages:
        if not others:
            raise PoolTooSmall(
                f"{pages} pages are needed to rearrange {branch!r}, {memory.available} can be had "
                f"of {memory.pages.pages}: give the pool more pages, or unpin some"
            )
        youngest = max(others, key=lambda b: b.seq)
        others.remove(youngest)
        engine.preempt(youngest)


def recall(engine: "Engine", branch: Branch, spare: Branch | None = None) -> None:
    """Bring a swapped-out branch back now."""
    if branch.saved is not None:
        make_room(engine, len(branch.pages), branch, spare)
        engine.memory.swap_in(branch)


def relayout(engine: "Engine", branch: Branch, split: int) -> None:
    """Let the entries from `split` on begin on a page of their own, and no others."""
    first = min(branch.split, split)
    stored = branch.stored
    moves = [(first, stored, first)] if stored > first else []
    relocate(engine, branch, first, moves, stored, split)


def relocate(
    engine: "Engine", branch: Branch, first: int, moves: Sequence[Move], total: int, split: int
) -> None:
    """Carry out `moves`, none of which touches an entry before `first`; K turns by as many
    positions as its entry moves. `total` entries are stored afterwards, laid out with `split`."""
    memory, size = engine.memory, engine.memory.page_size
    sources = [memory.slots(branch, start, stop) for start, stop, _ in moves]
    before, branch.split = branch.split, split
    begin, past = branch.place(first, size) // size, branch.pages_for(total, size)
    memory.withdraw(branch, begin)
    try:
        make_room(engine, _new_pages(memory, branch, begin, past), branch)
    except PoolTooSmall:
        branch.split = before
        raise
    replaced = []
    for place in range(begin, past):
        if place >= len(branch.pages):
            memory.allocate(branch, place)
        elif not memory.writable(branch.pages[place]):
            stays = place * size < branch.place(first, size)  # entries before `first` lie there
            replaced.append(memory.replace(branch, place, copy=stays))
    for source, (start, stop, to) in zip(sources, moves, strict=True):
        memory.move(source, memory.slots(branch, to, to + stop - start), to - start)
    gone = branch.pages[past:]
    del branch.pages[past:]
    branch.stored, branch.island = total, None
    for page in reversed([*replaced, *gone]):
        memory.drop_page(branch, page, FreeReason.MOVED)
    for place in range(max(0, begin - 1), past):
        memory.tell_fill(branch, place)


def _new_pages(memory: Memory, branch: Branch, begin: int, past: int) -> int:
    held = branch.pages[begin:past]
    return past - begin - len(held) + sum(not memory.writable(page) for page in held)
