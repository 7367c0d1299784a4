"""Tables against a simulator that keeps plain lists of what is resident where."""

import random

import numpy as np
import pytest

from tests.unit.trace.simulator import Simulator
from tests.unit.trace.synthetic import TimRun, tim_run
from workbench import events as ev
from workbench.trace import GOES_ON, NEVER, NOBODY, Delta, Tables
from workbench.trace.build import TableBuilder
from workbench.trace.projections import page_map
from workbench.words import Field, FreeReason, NodeId, Origin, PageId, Phase, PruneMode, SeqId


def program(seed: int, length: int = 60, page_size: int = 4) -> Simulator:
    """A random program of open, feed, sample, fork, prune, edit and drop."""
    chance = random.Random(seed)
    sim = Simulator(pages=400, page_size=page_size, seed=seed)
    sim.watched = True
    sim.open([chance.randrange(40, 99) for _ in range(chance.randrange(3, 20))])
    for _ in range(length):
        live = [b for b in sim.branches.values() if b.live and len(b.resident) > 2]
        if not live:
            sim.open([50, 51, 52, 53])
            continue
        branch = chance.choice(live)
        n = len(branch.tokens)
        match chance.choice("sssssffpppkked"):
            case "s":
                group = chance.sample(live, chance.randrange(1, len(live) + 1))
                sim.sample(group, [chance.randrange(40, 99) for _ in group])
            case "f":
                sim.feed(
                    branch,
                    [chance.randrange(40, 99) for _ in range(chance.randrange(1, 9))],
                    Origin.TOOL,
                    Phase.EXTEND,
                )
            case "p":
                start = chance.randrange(0, n - 1)
                sim.prune(branch, start, chance.randrange(start + 1, n), None)
            case "k":
                if len(live) < 5:
                    sim.fork(branch, chance.choice([None, chance.randrange(1, n)]))
            case "e":
                sim.edit(branch, chance.randrange(1, n), [chance.randrange(40, 99)])
            case "d":
                if len(live) > 1:
                    sim.drop(branch)
    return sim


def alive(tables: Tables, step: int) -> np.ndarray:
    tokens = tables["tokens"]
    return np.flatnonzero((tokens.numbers("born") <= step) & (tokens.numbers("died") > step))


@pytest.mark.parametrize("seed", range(40))
def test_residency_and_pages_at_every_step(seed: int) -> None:
    sim = program(seed)
    tables = TableBuilder().apply(sim.events)
    pages = tables["pages"]
    page, begin, end = (pages.numbers(c) for c in ("page", "from", "to"))
    counts = tables["refcounts"]
    stay, when, count = (counts.numbers(c) for c in ("stay", "step", "count"))
    for step in range(len(sim.held)):
        assert set(alive(tables, step).tolist()) == sim.resident[step], f"step {step}"
        here = np.flatnonzero((begin <= step) & (end > step))
        assert sorted(page[here].tolist()) == sorted(sim.held[step])
        latest: dict[int, int] = {}
        for s, n in zip(stay[when <= step].tolist(), count[when <= step].tolist(), strict=True):
            latest[int(page[s])] = n
        assert {p: latest[p] for p in sim.counts[step]} == sim.counts[step]


@pytest.mark.parametrize("seed", range(40))
def test_what_lies_on_a_page(seed: int) -> None:
    sim = program(seed)
    tables = TableBuilder().apply(sim.events)
    pages = tables["pages"]
    branch_row = {int(seq): row for row, seq in enumerate(tables["branches"].numbers("id"))}
    running = np.flatnonzero(pages.numbers("to") == NEVER)
    for stay in running.tolist():
        cell = {name: pages.cell(name, stay) for name in ("page", "branch", "place", "used")}
        owner = next(
            (b for b in sim.branches.values() if branch_row[b.seq] == cell["branch"]), None
        )
        if owner is None or not owner.live:
            continue
        stored = len(owner.resident) - owner.pending
        assert owner.table[cell["place"]] == cell["page"]
        assert cell["used"] == min(sim.page_size, stored - cell["place"] * sim.page_size)


def test_nodes_of_tokens_and_pages_of_a_tree() -> None:
    run = TimRun(3000, page_size=8, seed=3, pages=1024)
    tables = TableBuilder().apply(run.run())
    nodes, tokens, pages = tables["nodes"], tables["tokens"], tables["pages"]
    node, field = tokens.numbers("node"), tokens.numbers("field")
    first, last = nodes.numbers("first"), nodes.numbers("last")
    parent, depth = nodes.numbers("parent"), nodes.numbers("depth")
    for row in range(nodes.rows):
        span = np.arange(first[row], last[row])
        assert len(span)
        for token in span[:: max(1, len(span) // 7)].tolist():
            up = node[token]
            while up != row and up != NOBODY:
                up = parent[up]
            assert up == row, (
                "a token between first and last belongs to the node or to one below it"
            )
        if row:
            assert depth[row] == depth[parent[row]] + 1
            assert first[parent[row]] <= first[row] and last[row] <= last[parent[row]]
    assert set(np.unique(field)) == {
        Field.STRUCTURE,
        Field.PROMPT,
        Field.THOUGHT,
        Field.CALL,
        Field.RESULT,
        Field.CONCLUSION,
    }
    lists = np.flatnonzero(nodes.numbers("list_first") != NEVER)
    assert len(lists) and (nodes.numbers("pruned")[lists] != NEVER).all()
    inside = tokens.numbers("died")[nodes.numbers("list_first")[lists[0]]]
    assert inside <= nodes.numbers("pruned")[lists[0]]
    # a page's node is that of the first token it holds, checked where a stay began and ended in one
    # piece
    assert (pages.numbers("node")[pages.numbers("used") > 0] != NOBODY).any()


@pytest.mark.parametrize("seed", range(12))
def test_slots_taken_are_the_tokens_told(seed: int) -> None:
    """After each step the fill of the held pages adds up to what the step told of."""
    builder, batch = TableBuilder(), []
    for event in program(seed).events:
        batch.append(event)
        if isinstance(event, ev.StepEnded):
            tables = builder.apply(batch)
            batch = []
            held = page_map(tables).taken.values()
            assert sum(page.used for page in held if page.refcount) == event.resident


def test_unpruned_line_counts_what_left() -> None:
    sim = Simulator(page_size=4)
    branch = sim.open(list(range(40, 60)))
    sim.prune(branch, 4, 12, None)
    sim.prune(branch, 2, 14, None)
    tables = TableBuilder().apply(sim.events)
    steps = tables["steps"]
    assert steps.numbers("resident").tolist() == [20, 12, 8]
    assert steps.numbers("unpruned").tolist() == [20, 20, 20]


def test_a_pruned_page_begins_a_new_stay() -> None:
    sim = Simulator(page_size=4)
    branch = sim.open(list(range(40, 50)))  # pages of 4, 4, 2
    sim.prune(branch, 2, 7, None)
    pages = TableBuilder().apply(sim.events)["pages"]
    rows = [
        tuple(int(pages.cell(c, r)) for c in ("page", "place", "from", "to", "used", "reason"))
        for r in range(pages.rows)
    ]
    assert rows[:3] == [
        (0, 0, 0, 1, 4, FreeReason.PRUNED),
        (1, 1, 0, 1, 4, FreeReason.PRUNED),
        (2, 2, 0, 1, 2, FreeReason.PRUNED),
    ]
    went_on = [row for row in rows[3:] if row[0] == 0]
    assert went_on == [(0, 0, 1, NEVER, 4, GOES_ON)]


def test_prefix_cache_keeps_a_page_as_nobodys() -> None:
    sim = Simulator(page_size=4)
    branch = sim.open([40, 41, 42, 43])
    sim.emit(ev.PageReleased(sim.step, PageId(0), SeqId(0), 0, FreeReason.ENDED))
    sim.emit(ev.PageCached(sim.step, PageId(0)))
    sim.emit(ev.BranchDropped(sim.step, SeqId(0), "ended"))
    branch.live, branch.table = False, []
    sim.end_step(Phase.WAIT, 0)
    sim.emit(ev.BranchOpened(sim.step, sim.t, SeqId(1), ev.RequestId(0), None, 0, 4))
    sim.emit(ev.PageShared(sim.step, PageId(0), SeqId(1), 0, 1))
    sim.end_step(Phase.PREFILL, 1)
    sim.emit(ev.PageReleased(sim.step, PageId(0), SeqId(1), 0, FreeReason.ENDED))
    sim.emit(ev.PageCached(sim.step, PageId(0)))
    sim.emit(ev.PageFreed(sim.step, PageId(0), FreeReason.EVICTED))
    pages = TableBuilder().apply(sim.events)["pages"]
    assert pages.numbers("branch").tolist() == [0, NOBODY, 1, NOBODY]
    assert pages.numbers("reason").tolist() == [GOES_ON, GOES_ON, GOES_ON, FreeReason.EVICTED]
    assert pages.numbers("from").tolist() == [0, 1, 2, 3]


def test_preemption_ends_and_begins_stays() -> None:
    sim = Simulator(page_size=4)
    branch = sim.open([40, 41, 42, 43])
    sim.emit(ev.BranchPreempted(sim.step, SeqId(0), "recompute", 1))
    sim._release(branch, branch.table.pop(), FreeReason.PREEMPTED)
    sim.end_step(Phase.WAIT, 0)
    builder = TableBuilder()
    tables = builder.apply(sim.events)
    assert tables["branches"].texts("state") == ["preempted"]
    assert tables["pages"].numbers("reason").tolist() == [FreeReason.PREEMPTED]
    seen = len(sim.events)
    sim.emit(ev.BranchRestored(sim.step, SeqId(0), "recompute", 1))
    sim._store(branch, 0, 4)
    sim.end_step(Phase.REENCODE, 4)
    tables = builder.apply(sim.events[seen:])
    assert tables["branches"].texts("state") == ["running"]
    assert tables["pages"].numbers("used").tolist() == [4, 4]


class View:
    """Applies messages as a view does: what a snapshot and deltas add up to."""

    def __init__(self) -> None:
        self.columns: dict[tuple[str, str], list[object]] = {}
        self.revision: int | None = None

    def take(self, delta: Delta) -> None:
        assert delta.since == self.revision or delta.since is None
        if delta.since is None:
            self.columns.clear()
        for a in delta.appends:
            column = self.columns.setdefault((a.table, a.column), [])
            assert len(column) == a.start
            column.extend(a.values if isinstance(a.values, list) else a.values.tolist())
        for p in delta.patches:
            values = p.values if isinstance(p.values, list) else p.values.tolist()
            for row, value in zip(p.rows.tolist(), values, strict=True):
                self.columns[p.table, p.column][row] = value
        self.revision = delta.revision


@pytest.mark.parametrize("every", [1, 7, 400])
def test_snapshot_and_deltas_add_up(every: int) -> None:
    events = tim_run(500, forks=True, experts=4, seed=5, pages=600)
    builder, view = TableBuilder(), View()
    sizes = []
    for start in range(0, len(events), every):
        tables = builder.apply(events[start : start + every])
        delta = tables.delta(view.revision)
        sizes.append(
            sum(len(a.values) for a in delta.appends) + sum(len(p.rows) for p in delta.patches)
        )
        view.take(delta)
    whole = View()
    whole.take(TableBuilder().apply(events).delta(None))
    assert repr(view.columns) == repr(whole.columns)  # NaN equals itself as text
    if every == 1:
        assert np.median(sizes) < 100, "an update costs what is new, not what is there"


def test_old_revision_gets_a_snapshot() -> None:
    builder = TableBuilder()
    events = tim_run(300)
    first = builder.apply(events[:5]).delta(None)
    for event in events[5:120]:
        builder.apply([event]).delta(builder.tables.revision - 1)
    assert builder.tables.delta(first.revision).since is None
    assert builder.tables.delta(builder.tables.revision).appends == ()


def test_a_node_opened_after_its_first_token() -> None:
    sim = Simulator()
    branch = sim.open([40, 41])
    sim.sample([branch], [50])
    sim.emit(
        ev.NodeOpened(
            sim.step, NodeId(7), None, SeqId(0), ev.RequestId(0), ev.NodeKind.ROOT, "", 2, 0, 0
        )
    )
    sim.emit(
        ev.NodeOpened(
            sim.step,
            NodeId(8),
            NodeId(7),
            SeqId(0),
            ev.RequestId(0),
            ev.NodeKind.TASK,
            "1",
            3,
            1,
            0,
        )
    )
    sim.sample([branch], [51])
    sim.sample([branch], [52])
    sim.emit(ev.NodeClosed(sim.step, NodeId(8), 4, "done"))
    tables = TableBuilder().apply(sim.events)
    assert tables["tokens"].numbers("node").tolist() == [-1, -1, 0, 1, 0]
    assert tables["nodes"].numbers("first").tolist() == [2, 3]
    assert tables["nodes"].numbers("last").tolist() == [NEVER, 4]
    assert tables["nodes"].numbers("id").tolist() == [7, 8]


def test_rotate_moves_pages_that_stay() -> None:
    sim = Simulator(page_size=4)
    branch = sim.open(list(range(40, 52)))
    sim.emit(
        ev.Pruned(
            sim.step, sim.t, SeqId(0), None, 0, 4, 4, 0, 8, 1, PruneMode.ROTATE, 12, 8, "command"
        )
    )
    branch.resident = list(range(4, 12))
    page = branch.table.pop()
    sim._release(branch, page, FreeReason.MOVED)
    sim.end_step(Phase.WAIT, 0)
    pages = TableBuilder().apply(sim.events)["pages"]
    assert pages.numbers("page").tolist() == [0, 1, 2, 0, 1]
    assert pages.numbers("to").tolist() == [1, 1, 1, NEVER, NEVER]
