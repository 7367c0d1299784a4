"""What every test shares: one torch thread, hypothesis profiles, and honest skips."""

import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # two threads on a busy machine of two cores are slower than one

settings.register_profile(
    "ci", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", parent=settings.get_profile("ci"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    no_browser = pytest.mark.skip(reason="chromium is not installed")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if item.get_closest_marker("browser") and CHROMIUM is None:
            item.add_marker(no_browser)
