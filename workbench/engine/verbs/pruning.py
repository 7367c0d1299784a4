"""prune: spans leave the working memory, survivors close the ranks."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from workbench.engine.checks import alive
from workbench.engine.errors import BadArgument, BranchBusy
from workbench.engine.protocols import PruneReport
from workbench.engine.relocate import recall, relocate
from workbench.engine.sequence import ALL, Branch, Removal
from workbench.events import Pruned
from workbench.words import FreeReason, NodeId, PruneMode

if TYPE_CHECKING:
    from workbench.engine.engine import Engine

Hole = tuple[int, int]  # entries [start, stop) that leave


def prune(
    engine: "Engine", branch: Branch, spans: Sequence[tuple[int, int]], mode: PruneMode,
    node: NodeId | None, cause: str,
) -> PruneReport:  # fmt: skip
    alive(engine, branch)
    if branch.island is not None:
        raise BranchBusy(f"{branch!r} is being edited; await that first")
    for start, stop in spans:
        if not 0 <= start <= stop <= len(branch.tokens):
            raise BadArgument(f"a span lies in [0, {len(branch.tokens)}], got [{start}, {stop})")
    holes, kept = _holes(engine, branch, spans)
    removed = sum(stop - start for start, stop in holes)
    if not removed:
        return PruneReport(0, 0, 0, 0, kept, branch.length)
    if removed == branch.length:
        raise BadArgument(
            f"pruning all {removed} resident tokens would leave nothing to go on from"
        )
    recall(engine, branch)
    before, held = branch.length, engine.memory.pages.held
    streams = [(branch.resident[a], branch.resident[b - 1] + 1) for a, b in holes]
    behind = max(0, branch.stored - holes[0][0]) - _within(holes, branch.stored)
    if mode is PruneMode.ROTATE:
        _rotate(engine, branch, holes)
    else:
        _reencode(engine, branch, holes)
    pure = branch.pure
    _close_ranks(branch, holes)
    if mode is PruneMode.REENCODE and pure > holes[0][0]:
        # What made survivors impure went with their old K/V; vectors, places and attachments stay.
        placed = holes[0][0] if branch.positions is not None else ALL
        branch.pure = min(placed, branch.split, branch.first_vector())
    branch.removals.extend(Removal(len(branch.tokens), a, b) for a, b in streams)
    branch.logits, branch.hidden = None, {}
    report = PruneReport(
        removed,
        reencoded=behind if mode is PruneMode.REENCODE else 0,
        rotated=behind if mode is PruneMode.ROTATE else 0,
        pages_freed=held - engine.memory.pages.held,
        kept=kept,
        length=branch.length,
    )
    _count(engine, branch, report)
    _tell(engine, branch, report, streams, holes, before, mode, node, cause)
    return report


def _holes(
    engine: "Engine", branch: Branch, spans: Iterable[tuple[int, int]]
) -> tuple[list[Hole], int]:
    """Entries that leave, as ascending ranges that don't touch, and how many stay for being
    pinned."""
    doomed: set[int] = set()
    for start, stop in spans:
        doomed.update(range(branch.entry(start), branch.entry(stop)))
    pinned = engine.memory.pages.pinned
    wanted = len(doomed)
    if pinned and branch.saved is None:
        for place, page in enumerate(branch.pages):
            if page in pinned:
                doomed.difference_update(range(*_entries(engine, branch, place)))
    holes: list[Hole] = []
    for entry in sorted(doomed):
        if holes and holes[-1][1] == entry:
            holes[-1] = (holes[-1][0], entry + 1)
        else:
            holes.append((entry, entry + 1))
    return holes, wanted - len(doomed)


def _entries(engine: "Engine", branch: Branch, place: int) -> Hole:
    """Entries that the page at `place` holds."""
    size = engine.memory.page_size
    start, stop = place * size, (place + 1) * size
    if branch.split != ALL and start >= branch.split:
        pad = branch.pad(size)
        return start - pad, min(stop - pad, branch.stored)
    return start, min(stop, branch.split, branch.stored)


def _within(holes: Sequence[Hole], entries: int) -> int:
    return sum(max(0, min(stop, entries) - start) for start, stop in holes)


def _reencode(engine: "Engine", branch: Branch, holes: Sequence[Hole]) -> None:
    def why(place: int) -> FreeReason:
        start, stop = _entries(engine, branch, place)
        pruned = any(a < stop and b > start for a, b in holes)
        return FreeReason.PRUNED if pruned else FreeReason.REENCODED

    first = holes[0][0]
    engine.memory.cut(branch, min(first, branch.stored), why)
    branch.split = _new_split(branch, holes)
    if branch.pages:
        engine.memory.tell_fill(branch, len(branch.pages) - 1)


def _rotate(engine: "Engine", branch: Branch, holes: Sequence[Hole]) -> None:
    first, stored = holes[0][0], branch.stored
    branch.pure = min(branch.pure, first)
    if stored <= first:
        branch.split = _new_split(branch, holes)
        return
    moves, to = [], first
    for (_, start), (stop, _) in zip(holes, [*holes[1:], (stored, stored)], strict=True):
        stop = min(stop, stored)
        if stop > start:
            moves.append((start, stop, to))
            to += stop - start
    relocate(engine, branch, first, moves, to, _new_split(branch, holes))


def _new_split(branch: Branch, holes: Sequence[Hole]) -> int:
    return branch.split if branch.split == ALL else branch.split - _within(holes, branch.split)


def _close_ranks(branch: Branch, holes: Sequence[Hole]) -> None:
    """The survivors' lists. Positions move up by as many as were removed before each."""
    if branch.positions is not None:
        gone, moved = 0, branch.positions[: holes[0][0]]
        for (start, stop), (following, _) in zip(
            holes, [*holes[1:], (branch.length, 0)], strict=True
        ):
            gone += stop - start
            moved.extend(p - gone for p in branch.positions[stop:following])
        branch.positions = moved
    for start, stop in reversed(holes):
        del branch.resident[start:stop]


def _count(engine: "Engine", branch: Branch, report: PruneReport) -> None:
    record = engine.requests[branch.request]
    record.pruned += report.removed
    record.reencoded += report.reencoded
    record.rotated += report.rotated


def _tell(
    engine: "Engine", branch: Branch, report: PruneReport, streams: Sequence[tuple[int, int]],
    holes: Sequence[Hole], before: int, mode: PruneMode, node: NodeId | None, cause: str,
) -> None:  # fmt: skip
    """A fact for each hole; the first bears what the survivors and pages cost."""
    first = True
    for (start, stop), (a, b) in zip(streams, holes, strict=True):
        engine.tell(
            Pruned(
                engine.now, engine.t(), branch.seq, node, start, stop, b - a,
                report.reencoded if first else 0, report.rotated if first else 0,
                report.pages_freed if first else 0, mode, before, before - (b - a), cause,
            )
        )  # fmt: skip
        before -= b - a
        first = False
