"""Tiny checkpoints, saved once a session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.model.nets import make

Made = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`tiny(name)`: (folder, transformers' model) of a net of `nets.NETS`."""
    made: dict[str, tuple[Path, Any]] = {}

    def get(name: str) -> tuple[Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("net")
            made[name] = (folder, make(name, folder))
        return made[name]

    return get
