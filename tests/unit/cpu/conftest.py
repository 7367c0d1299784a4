"""What the tests of the laptop engine share."""

from pathlib import Path

import pytest
import torch

from workbench.cpu import build, isa


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed weights in a folder of their own, the compiled step where it always is; no GPU, which
    "auto" would take."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    build.build(isa.choose()[0], True)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
