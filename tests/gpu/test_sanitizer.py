"""compute-sanitizer over the small cases: no stray access, no race in shared memory."""

import shutil
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_nothing_to_report(tool: str) -> None:
    command = shutil.which("compute-sanitizer")
    if command is None:
        pytest.skip("compute-sanitizer is not on the PATH")
    run = subprocess.run(
        [command, "--tool", tool, "--error-exitcode", "3", sys.executable, "-m",
         "tests.gpu.small_cases"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:]
    assert "cases agree" in run.stdout
