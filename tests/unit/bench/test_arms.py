"""Arms, slips, rows that outlive a kill, windows as large as the tree was."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.session.fake_model import fake_session
from workbench.bench.arms import ARMS, Cell, most_tokens, pieces_of, slip
from workbench.bench.eval_rows import cell_row, key_of, paired, read_rows
from workbench.bench.evaluate import Worker
from workbench.session.run import RunFailed
from workbench.tasks.catalogue import FAMILIES, task
from workbench.tasks.gold import Piece, Problem, flat_pieces, tree_pieces

TREE, FLAT = ARMS["tim"], ARMS["flat"]
LONG = {"max_tokens": 40}  # the fake model ends no text by itself


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize("family", ["chain", "expression", "blocks", "maze"])
@pytest.mark.parametrize("arm", [TREE, FLAT], ids=["tree", "flat"])
def test_a_right_text_never_slips_and_a_cut_one_ends(family: str, arm: object) -> None:
    problem = task(family, 7, 3)
    pieces = list(tree_pieces(problem) if arm is TREE else flat_pieces(problem))
    text = "".join(piece.text for piece in pieces)
    assert slip(text, pieces)[0] == ""
    for cut in random.Random(family).sample(range(len(text)), 20):
        assert slip(text[:cut], pieces) == ("end", cut)


def test_a_slip_is_named_by_what_it_spoils() -> None:
    """The text is spoiled by hand where the words of the format say what stands there."""
    problem = task("expression", 3, 1)
    pieces = list(tree_pieces(problem))
    text = "".join(piece.text for piece in pieces)

    def spoiled(before: str) -> str:
        at = text.index(before) + len(before)
        return text[:at] + "#" + text[at + 1 :]

    assert slip(spoiled('"thought":"'), pieces)[0] == "thought"
    assert slip(spoiled('"parameters":{"id":"'), pieces)[0] == "argument"
    assert slip(spoiled('"conclusion":"'), pieces)[0] == "conclusion"
    assert slip(spoiled('"answer":"'), pieces)[0] == "answer"
    assert slip(text.replace("subtasks", "conclusion", 1), pieces)[0] == "structure"
    lines = list(flat_pieces(problem))
    flat = "".join(piece.text for piece in lines)
    first = flat.index("node(")
    assert slip("#" + flat[1:], lines)[0] == "thought"
    assert slip(flat[: first + 5] + "#", lines)[0] == "argument"
    assert slip(flat[: flat.rindex("answer: ") + 8] + "#", lines)[0] == "answer"


@pytest.mark.parametrize("make", [tree_pieces, flat_pieces])
def test_a_slip_without_a_call(make: Callable[[Problem], Iterator[Piece]]) -> None:
    problem = task("robot", 5, 1)
    pieces = list(make(problem))
    text = "".join(piece.text for piece in pieces)
    [one, *_] = [w for t in problem.reasoning for w in t.walk() if not w.subtasks]
    assert slip(text.replace(one.thought, f"{one.thought[:-1]}#", 1), pieces)[0] == "thought"
    assert slip(text.replace(one.thought, f"{one.thought}#", 1), pieces)[0] == "thought"
    assert slip(text.replace(one.conclusion, f"{one.conclusion}#", 1), pieces)[0] == "conclusion"
    assert slip(text + "#", pieces)[0] == "structure"


def test_the_cap_leaves_room_for_every_right_text() -> None:
    for family in FAMILIES:
        problem = task(family, 5, 2)
        if problem.reasoning:
            pieces = pieces_of(problem, TREE)
            sampled = sum(len(piece.text.encode()) for piece in pieces if not piece.fed)
            assert most_tokens(pieces, bytes_of) >= 1.25 * sampled


def test_rows_outlive_a_kill(tmp_path: Path) -> None:
    cells = [Cell("chain", 3, TREE, 3, params=LONG), Cell("chain", 3, FLAT, 3, params=LONG)]
    items = [item for cell in cells for item in cell.items()]
    out = tmp_path / "rows.jsonl"
    with fake_session(record=False) as session:
        begun = Worker(session, 2, out=out).carry_out(items)
        first = [next(begun) for _ in range(2)]
        begun.close()
        out.write_text(out.read_text() + '{"task": "chain", "lev')  # killed while it wrote
        known = read_rows([out])
        assert set(known) == {key_of(row) for row in first}
    with fake_session(record=False) as session:
        rest = list(Worker(session, 2, dict(known), out).carry_out(items))
    assert {key_of(row) for row in [*first, *rest]} == {item.key for item in items}
    assert len(first) + len(rest) == len(items)


def test_a_window_waits_for_the_tree_and_is_as_large() -> None:
    window = Cell("chain", 3, ARMS["window"], 2)
    with fake_session() as session:
        worker = Worker(session, 2, rows={})
        with pytest.raises(ValueError, match="put tim into the plan"):
            list(worker.carry_out(window.items()))
        tree = Cell("chain", 3, TREE, 2)
        rows = list(worker.carry_out([*window.items(), *tree.items()]))
    assert [row["arm"] for row in rows[:1]] == ["tim"]
    assert sorted(row["arm"] for row in rows) == ["tim", "tim", "window", "window"]


def test_a_window_takes_its_size_from_rows_that_others_write() -> None:
    asked = []

    def beside() -> list[dict[str, object]]:
        asked.append(1)
        tree = {"task": "chain", "level": 3, "seed": 0, "place": 0, "arm": "tim", "params": {}}
        return [{**tree, "finish": "stop", "peak": 300}] if len(asked) > 1 else []

    with fake_session() as session:
        worker = Worker(session, 2, beside=beside)
        [row] = worker.carry_out(Cell("chain", 3, ARMS["window"], 1).items())
    assert len(asked) == 2 and row["arm"] == "window"


def test_time_ends_an_evaluation() -> None:
    with fake_session() as session:
        cell = Cell("chain", 3, TREE, 5)
        rows = list(Worker(session, 1, seconds=0.0).carry_out(cell.items()))
    assert {row["finish"] for row in rows} <= {"cut"}


def test_a_failing_engine_gives_no_wrong_answers(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    cell = Cell("chain", 3, TREE, 20, params=LONG)
    with fake_session() as session:
        session.engine.forward = None  # type: ignore[assignment]
        with pytest.raises(RunFailed, match="the last 8 runs failed"):
            list(Worker(session, 2, out=out).carry_out(cell.items()))
    assert len(out.read_text().splitlines()) == 8
    assert read_rows([out]) == {}


def test_what_was_given_up_is_told_and_run_again(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    cell = Cell("chain", 3, TREE, 1, params={"max_tokens": 100_000, "max_text": None})
    with fake_session() as session:
        list(Worker(session, 1, out=out, seconds=0.5, curves=True).carry_out(cell.items()))
    [row] = map(json.loads, out.read_text().splitlines())
    assert row["finish"] == "cut" and row["sampled"] > 0
    assert read_rows([out]) == {}
    lengths = [length for length, _ in row["curve"]]
    assert lengths == sorted(lengths) and all(held <= length for length, held in row["curve"])


def test_a_long_run_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.bench.evaluate.NOTE_S", 0.1)
    out, told = tmp_path / "rows.jsonl", list[str]()
    cell = Cell("chain", 3, TREE, 1, params={"max_tokens": 100_000, "max_text": None})
    with fake_session() as session:
        worker = Worker(session, 1, out=out, seconds=0.8, curves=True, tell=told.append)
        [cut] = worker.carry_out(cell.items())
    [row] = map(json.loads, (tmp_path / "rows.running").read_text().splitlines())
    assert row["finish"] == "running" and 0 < row["sampled"] <= cut["sampled"]
    assert row["curve"] == cut["curve"][: len(row["curve"])] != []
    assert (row["slip"], row["slip_at"]) == (cut["slip"], cut["slip_at"]) and told


def test_a_request_s_own_peak_is_what_it_has_alone() -> None:
    prompts = ["a" * (10 + 30 * n) for n in range(3)]
    how = {"strategy": "chain", "max_tokens": 30, "seed": 1}
    alone = []
    for prompt in prompts:
        with fake_session() as session:
            alone.append(session.run(prompt, **how).wait().summary["kv"]["peak_tokens"])
    with fake_session() as session:
        runs = [session.run(prompt, **how) for prompt in prompts]
        assert [run.wait().summary["kv"]["own_peak_tokens"] for run in runs] == alone


def test_pairs_count_what_they_differ_in() -> None:
    ours = {str(n): {"right": n < 8, "peak": 30} for n in range(10)}
    theirs = {str(n): {"right": n in (0, 1, 2, 3, 9), "peak": 120} for n in range(11)}
    found = paired(ours, theirs)
    assert (found["gained"], found["lost"], found["difference"]) == (4, 1, 0.3)
    assert (found["n"], found["peak_share"]) == (10, 0.25)
    assert found["ci95"][0] == pytest.approx(0.3 - 1.959964 * ((0.5 - 0.09) / 10) ** 0.5)


def test_a_cell_counts_errors_by_kind() -> None:
    cell = Cell("chain", 3, TREE, 3)
    row = dict.fromkeys(("sampled", "computed", "reused", "peak", "reencoded", "calls"), 10)
    row |= {"backend": "fake", "device": "none"}
    rows = [{**row, "right": slipped == "", "slip": slipped, "share_s": 0.5, "prefix": prefix}
            for slipped, prefix in (("", 1.0), ("structure", 0.5), ("structure", 0.0))]  # fmt: skip
    found = cell_row(cell, None, rows, "net", jobs=1)
    assert found["prefix_accuracy"] == 0.5
    assert (found["errors"], found["tok_s"]) == ({"structure": 2}, 20.0)
    json.dumps(found)


@pytest.mark.model
def test_a_window_never_holds_more_than_the_tree_did() -> None:
    from workbench import open_workbench

    cells = [Cell("expression", 21, ARMS[name], 2) for name in ("tim", "flat", "window")]
    with open_workbench(record=False, record_top=0, pages=600) as session:
        rows = list(Worker(session, 4).carry_out(i for cell in cells for i in cell.items()))
    peaks = {(row["arm"], row["place"]): row["peak"] for row in rows}
    for place in range(2):
        tight = min(peaks["tim", place], peaks["flat", place])
        assert peaks["window", place] <= tight
