"""The command line's manners: exit codes, one-line errors, JSON that any parser reads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.bench.eval_rows import wilson
from workbench.cli import main as cli
from workbench.cli.output import Failure, pairs, strict


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "workbench.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [[], ["nothing"], ["run", "p", "--seed", "x"], ["trace", "export", "f", "--to", "pdf"]],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trace", "info", "no/such.wbt"], ["no/such.wbt", "--trace"]),
        (["train", "nothing"], ["'nothing'", "tim-smollm2"]),
        (["logits", "--model", "smol", "--ids", "no.json", "--out", "x.npy"], ["no.json"]),
        (["models", "get", "smollm-135m"], ["smollm2-135m-instruct"]),
        (["run"], ["prompt", "--resume"]),
        (["run", "p", "--tools", "hammer"], ["hammer", "calculator"]),
        (["run", "p", "--param", "threshold"], ["threshold", "k=v"]),
    ],
)
def test_failures_are_one_line_and_1(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_debug_gives_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trace", "info", "no/such.wbt", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.cli import doctor

    def stop() -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "report", stop)
    assert cli.main(["doctor"]) == 130


def test_help_of_every_verb_without_loading_torch() -> None:
    code = (
        "import sys; from workbench.cli.main import parser; parser();"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numba', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_doctor_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"python", "torch", "cupy", "device", "driver", "backend", "reasons"} <= set(found)
    assert found["reasons"]


def test_json_is_strict() -> None:
    row = strict({"a": float("nan"), "b": [float("inf"), 1], "c": Path("x"), 4: (True, None)})
    assert row == {"a": None, "b": [None, 1], "c": "x", "4": [True, None]}
    json.dumps(row, allow_nan=False)


def test_pairs_read_values_as_json_or_text() -> None:
    assert pairs(["threshold=1", "mode=rotate", "list-closed=true"], "--param") == {
        "threshold": 1,
        "mode": "rotate",
        "list_closed": True,
    }
    with pytest.raises(Failure, match="k=v"):
        pairs(["=1"], "--param")


def test_wilson_interval() -> None:
    """Known values: Wilson 1927 as tabulated, 10 of 10 and 5 of 10."""
    low, high = wilson(10, 10)
    assert (round(low, 3), round(high, 3)) == (0.722, 1.0)
    assert [round(x, 3) for x in wilson(5, 10)] == [0.237, 0.763]


def test_eval_lists_its_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["eval", "--list", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"task", "kind", "tool", "train", "validation", "held_out"} == set(rows[0])
    assert {row["kind"] for row in rows} == {"tool chain", "non-local", "in-prompt"}
    cli.main(["eval", "--list"])
    assert "2..12" in capsys.readouterr().out
