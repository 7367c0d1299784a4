"""The verbs on the real model: what automation reads, and what survives a Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.tasks.catalogue import task

pytestmark = pytest.mark.model
ROOT = Path(__file__).resolve().parents[3]
PROBLEM = task("chain", 8, 1)


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def call(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """The JSON lines of a verb."""
    process = start(*arguments, "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "table.json"
    path.write_text(json.dumps(PROBLEM.results))
    return path


@pytest.fixture(scope="module")
def recorded(table: Path) -> tuple[dict[str, Any], Path]:
    """One TIM run through the command line."""
    trace, report = table.with_name("run.wbt"), table.with_name("run.html")
    [found] = call(
        "run", PROBLEM.prompt, f"--tools=lookup:{table}", "--window=1024",
        f"--trace={trace}", f"--report={report}",
    )  # fmt: skip
    return found, trace


def test_run_has_the_contract_s_fields(recorded: tuple[dict[str, Any], Path]) -> None:
    found, trace = recorded
    assert found["answer"] == PROBLEM.answer
    assert found["finish"] == "stop"
    assert {"sampled", "computed", "reused", "scorer"} <= set(found["tokens"])
    assert {"page_size", "peak_pages", "peak_tokens", "pruned_tokens", "reencoded_tokens"} <= set(
        found["kv"]
    )
    assert found["tree"] == {"nodes": PROBLEM.nodes + 1, "depth": PROBLEM.depth}  # and the root
    assert found["ttft_s"] > 0
    assert found["tok_s"] > 0
    assert (found["trace"], Path(found["report"]).exists()) == (str(trace), True)


def test_the_report_needs_no_network(recorded: tuple[dict[str, Any], Path]) -> None:
    page = Path(recorded[0]["report"]).read_text()
    assert re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page) is None
    assert "import(" not in page or "http" not in page


def test_trace_verbs(recorded: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    found, trace = recorded
    [info] = call("trace", "info", str(trace))
    assert info["events"]["TokenSampled"] == found["tokens"]["sampled"]
    assert (info["requests"], info["complete"], info["lost_bytes"]) == (1, True, 0)
    assert call("trace", "replay", str(trace)) == [{"ok": True, "violations": []}]
    for form, name in (("html", "a.html"), ("perfetto", "a.pftrace"), ("parquet", "a.zip")):
        [made] = call("trace", "export", str(trace), "--to", form, "--out", str(tmp_path / name))
        assert made["bytes"] == (tmp_path / name).stat().st_size > 0


def test_interrupted_and_resumed(
    recorded: tuple[dict[str, Any], Path], table: Path, tmp_path: Path
) -> None:
    """Ctrl-C gives 130 and keeps the trace; --resume ends as the whole run did and samples only
    the rest."""
    trace, tools = tmp_path / "cut.wbt", f"--tools=lookup:{table}"
    process = start("run", PROBLEM.prompt, tools, "--window=1024", f"--trace={trace}")
    for _ in range(1200):  # until a few tokens lie in the file
        if trace.exists() and trace.stat().st_size > 12_000:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    [info] = call("trace", "info", str(trace))
    assert info["complete"] is False
    before = info["events"]["TokenSampled"]
    [found] = call("run", f"--resume={trace}", tools, "--window=1024")
    whole = recorded[0]
    assert found["answer"] == whole["answer"]
    assert found["tokens"]["sampled"] + before == whole["tokens"]["sampled"]


def test_eval_rows(tmp_path: Path) -> None:
    rows = call("eval", "--task=chain", "--level=4", "--n=1", "--seeds=2", "--window=1024")
    assert [row["seed"] for row in rows] == [0, 1, None]
    assert [row["n"] for row in rows] == [1, 1, 2]
    assert {
        "task", "level", "strategy", "params", "model", "accuracy", "ci95", "tokens", "tok_s",
        "peak_kv_tokens", "wall_s",
    } <= set(rows[-1])  # fmt: skip
    assert rows[-1]["tokens"]["sampled"] == sum(row["tokens"]["sampled"] for row in rows[:2])


def test_logits_go_to_a_file(tmp_path: Path) -> None:
    ids, out = tmp_path / "ids.json", tmp_path / "logits.npy"
    ids.write_text("[1, 4093, 198]")
    [found] = call("logits", "--model=smollm2-135m-instruct", f"--ids={ids}", f"--out={out}")
    logits = np.load(out)
    assert (list(logits.shape), str(logits.dtype)) == (found["shape"], "float32")
    assert logits.shape == (3, 49152)


def test_unknown_parameter_is_refused_with_near_names() -> None:
    process = start("run", "hello", "--strategy=tim", "--param", "treshold=1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "threshold" in err.splitlines()[-1]


def test_models_list_names_the_source() -> None:
    [row] = call("models", "list")
    assert (row["license"], row["parameters"]) == ("Apache-2.0", 134_515_008)
    assert len(row["sha256"]) == 64
