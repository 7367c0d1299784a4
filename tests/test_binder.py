"""binder/ is only built elsewhere: here its text is held against the project's own."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
BINDER = ROOT / "binder"
HEAVY = ("cupy", "nvidia", "ray", "xgrammar", "triton", "playwright", "transformers")
CONDA_NAMES = {"torch": "pytorch-cpu"}


def packages() -> dict[str, str]:
    """Name to specification, conda's and pip's."""
    found = {}
    for entry in yaml.safe_load((BINDER / "environment.yml").read_text())["dependencies"]:
        for spec in entry["pip"] if isinstance(entry, dict) else [entry]:
            found[re.split(r"[=<>!~ ]", spec)[0].lower()] = spec
    return found


def test_the_environment_has_every_dependency_at_its_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    there = packages()
    for dependency in project["dependencies"]:
        name, floor = dependency.split(">=")
        name = CONDA_NAMES.get(name, name)
        assert there.get(name) == f"{name}>={floor}"
    minor = int(there["python"].split(".")[1])
    assert minor >= int(project["requires-python"].split(".")[1])


def test_the_environment_is_slim() -> None:
    assert [name for name in packages() if name.startswith(HEAVY)] == []


def test_post_build_fails_loudly() -> None:
    script = BINDER / "postBuild"
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK)
    assert lines[0] == "#!/usr/bin/env bash"
    first = next(line for line in lines[1:] if line and not line.startswith("#"))
    assert first == "set -euo pipefail"
    assert "--no-deps" in script.read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_there_is_one_home_of_the_configuration() -> None:
    """With both folders a binder refuses to build; with these files it would read others than
    ours."""
    assert not (ROOT / ".binder").exists()
    assert not [p for p in BINDER.iterdir() if p.name in ("requirements.txt", "Dockerfile")]


def test_recorded_runs_are_small() -> None:
    traces = list((BINDER / "traces").glob("*.wbt"))
    assert traces
    assert all(path.stat().st_size < 3 << 20 for path in traces)
