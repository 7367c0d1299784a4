"""Every auto is answered, with a reason; what cannot be is refused."""

import pytest

from workbench.settings import Machine, Settings, SettingsError, fit, resolve

PLAIN = Machine(cores=2, free_bytes=8 << 30, cuda_devices=0, cupy=False)


@pytest.mark.parametrize(
    ("machine", "backend"),
    [
        (PLAIN, "cpu"),
        (Machine(2, 1 << 30, 1, False), "torch-cuda"),
        (Machine(2, 1 << 30, 1, True), "cuda"),
    ],
)
def test_the_backend_follows_the_machine(machine: Machine, backend: str) -> None:
    settings = resolve(Settings(), machine)
    assert settings.backend == backend and len(settings.reasons) == 1
    asked = resolve(Settings(backend="cpu"), machine)
    assert asked.backend == "cpu" and "asked for" in asked.reasons[0]


def test_window_and_pages_follow_the_model() -> None:
    settings = fit(Settings(), native_window=8192, bytes_per_token=23_040, machine=PLAIN)
    assert (settings.window, settings.pages) == (8192, 1024)
    small = Machine(2, 64 << 20, 0, False)
    tight = fit(Settings(), native_window=8192, bytes_per_token=23_040, machine=small)
    assert tight.pages == (16 << 20) // (23_040 * 16) and "free memory" in tight.reasons[-1]
    gpu = Machine(2, 64 << 20, 1, True, device_bytes=80 << 30)
    roomy = fit(
        resolve(Settings(max_rows=64), gpu), native_window=8192, bytes_per_token=23_040, machine=gpu
    )
    assert roomy.pages == 64 * 8192 // 16 and "64 windows" in roomy.reasons[-1]
    given = fit(
        Settings(window=1024, pages=7), native_window=8192, bytes_per_token=1, machine=PLAIN
    )
    assert (given.window, given.pages) == (1024, 7)
    assert all("asked for" in reason for reason in given.reasons)


@pytest.mark.parametrize("bad", [{"page_size": 0}, {"pages": 0}, {"window": 0}, {"threads": -1}])
def test_impossible_settings(bad: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(bad))):
        resolve(Settings(**bad), PLAIN)  # type: ignore[arg-type]
