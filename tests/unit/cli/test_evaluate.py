"""Plans: read, ordered, shared out among workers, told as rows."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from workbench.cli import eval_workers, evaluate
from workbench.cli.main import parser
from workbench.cli.output import Failure
from workbench.cli.run import adapters_of
from workbench.settings import Machine


def asked(*words: str) -> argparse.Namespace:
    return parser().parse_args(["eval", *words])


def plan_of(tmp_path: Path, cells: Any) -> list[Any]:
    file = tmp_path / "plan.json"
    file.write_text(cells if isinstance(cells, str) else json.dumps(cells))
    return evaluate.cells(asked(f"--plan={file}"))


def test_all_four_arms_by_one_word() -> None:
    plan = evaluate.cells(asked("--arms=all", "--task=fetch", "--level=9", "--param=threshold=1"))
    assert [cell.arm.name for cell in plan] == ["tim", "flat", "window", "base"]
    assert [dict(cell.params) for cell in plan] == [{"threshold": 1}, {}, {}, {}]


def test_a_plan_goes_seed_by_seed_and_asks_nothing_twice(tmp_path: Path) -> None:
    cell = {"task": "chain", "level": 3, "arm": "tim", "n": 2, "seeds": 2}
    other = {"task": "chain", "level": 4, "arm": "flat", "n": 1, "seeds": [1]}
    items = list(eval_workers.in_order(plan_of(tmp_path, [cell, other, {**cell, "n": 3}])))
    told = [(item.seed, item.cell.level, item.place) for item in items]
    assert told == [
        (0, 3, 0), (0, 3, 1), (0, 3, 2), (1, 3, 0), (1, 3, 1), (1, 4, 0), (1, 3, 2),
    ]  # fmt: skip


def test_workers_share_problems_and_not_arms(tmp_path: Path) -> None:
    cells = [
        {"task": "chain", "level": 3, "arm": arm, "n": 40, "seeds": 3} for arm in ("tim", "window")
    ]
    workers: dict[int, set[tuple[str, str]]] = {}
    for item in eval_workers.in_order(plan_of(tmp_path, cells)):
        worker = workers.setdefault(eval_workers.share_of(item) % 4, set())
        worker.add((item.cell.arm.name, item.problem_key))
    assert sorted(workers) == [0, 1, 2, 3]
    assert sum(map(len, workers.values())) == 240
    for found in workers.values():
        assert {k for arm, k in found if arm == "tim"} == {k for arm, k in found if arm != "tim"}


def test_workers_take_turns_at_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(wanted: str | None) -> list[str | None]:
        return [one.get("CUDA_VISIBLE_DEVICES") for one in eval_workers.devices(wanted, 3)]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count, turns in ((0, [None] * 3), (2, ["0", "1", "0"])):
        machine = Machine(1, 0, count, True)
        monkeypatch.setattr("workbench.settings.this_machine", lambda: machine)  # noqa: B023
        assert seen(None) == turns
    assert seen("0,1") == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert seen(None) == ["GPU-a", "GPU-b", "GPU-a"] and seen("GPU-b") == ["GPU-b"] * 3


def test_parts_are_gathered(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("a\n")
    for place in range(2):
        eval_workers.part(rows, place).write_text(f"{place}\n")
    eval_workers.gather(rows, [eval_workers.part(rows, place) for place in range(3)])
    assert rows.read_text() == "a\n0\n1\n"
    assert list(tmp_path.iterdir()) == [rows]


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("[{", "a JSON list of cells"),
        ([{"task": "chain", "arm": "tim", "n": 1}], "level"),
    ],
)
def test_a_plan_that_is_none_is_refused(tmp_path: Path, cells: Any, told: str) -> None:
    with pytest.raises(Failure, match=told):
        plan_of(tmp_path, cells)


def test_unknown_arms_and_parameters_are_refused() -> None:
    with pytest.raises(Failure, match="'tree' came"):
        evaluate.cells(asked("--arms=tim,tree"))
    with pytest.raises(ValueError, match="threshold"):
        evaluate.cells(asked("--param=treshold=1"))


def test_arms_pick_of_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    cells = [{"task": "chain", "level": 3, "arm": arm, "n": 1} for arm in ("tim", "flat", "base")]
    file.write_text(json.dumps(cells))
    plan = evaluate.cells(asked(f"--plan={file}", "--arms=tim,base"))
    assert [cell.arm.name for cell in plan] == ["tim", "base"]


def test_families_of_a_kind_are_summed_too(tmp_path: Path) -> None:
    cells = [
        {"task": task, "level": 9, "arm": "tim", "n": 2} for task in ("blocks", "loops", "chain")
    ]
    plan = plan_of(tmp_path, cells)
    row = dict.fromkeys(("sampled", "computed", "reused", "peak", "reencoded", "calls"), 10)
    row |= {"backend": "fake", "device": "none", "share_s": 1.0, "slip": "answer"}
    rows = {
        item.key: {**row, "seed": 0, "right": item.cell.task == "loops"}
        for cell in plan
        for item in cell.items()
    }
    *_, pooled = evaluate.summed("net", plan, rows, 1)
    assert (pooled["task"], pooled["n"], pooled["accuracy"]) == ("non-local, 2 families", 4, 0.5)


def test_an_adapter_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert adapters_of([f"tim-smollm2={tmp_path}"]) == {"tim-smollm2": tmp_path}
    for wrong in ("tim-smollm2", f"tim={tmp_path / 'nowhere'}"):
        with pytest.raises(Failure, match="NAME=DIR"):
            adapters_of([wrong])
