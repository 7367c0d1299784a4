"""Settings of a session: asked for by a person, resolved once against the machine, out loud.

Every "auto" is answered with a reason; the reasons go to the first cell, to `workbench doctor` and
into the trace. Standard library only: the machine is probed without loading torch.
"""

import ctypes
import importlib.util
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m-instruct"
SHARE_OF_MEMORY = 0.25  # of what is free, for the KV pool, where nobody says how many pages
WINDOWS = 2  # full windows that a pool of automatic size holds; on a GPU, one a row of the batch


class SettingsError(ValueError):
    """A setting that no machine could serve."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What matters of a machine."""

    cores: int
    free_bytes: int
    cuda_devices: int
    cupy: bool
    device_bytes: int = 0  # memory of the first CUDA device


@dataclass(frozen=True, slots=True)
class Settings:
    """`None` for `pages` and `window` means: from the model, once it is known."""

    model: str = DEFAULT_MODEL
    backend: str = "auto"  # auto, numba, cpu, torch-cuda, cuda
    dtype: str = "auto"  # auto, fp32, bf16, fp16
    weights: str = "auto"
    pages: int | None = None
    page_size: int = 16
    window: int | None = None  # resident tokens that a branch may hold
    max_rows: int = 32  # branches a step
    chunk: int = 512  # prefill tokens a step
    lookup: int = 0  # tokens that a row drafts from its own text and runs beside the next one
    threads: int = 1  # of torch
    trace: Path | None = None
    record: bool = True  # False: facts are counted, none is kept
    record_top: int = 5  # alternatives recorded with each sampled token
    record_routing: bool = True
    reasons: tuple[str, ...] = ()


def resolve(asked: Settings = Settings(), machine: Machine | None = None) -> Settings:
    """Answer what does not depend on the model. Raises SettingsError."""
    for name in ("page_size", "max_rows", "chunk", "threads"):
        if getattr(asked, name) < 1:
            raise SettingsError(f"{name}: at least 1 is wanted, {getattr(asked, name)} came")
    if asked.lookup < 0:
        raise SettingsError(f"lookup: at least 0 is wanted, {asked.lookup} came")
    if asked.pages is not None and asked.pages < 1:
        raise SettingsError(f"pages: at least 1 is wanted, {asked.pages} came")
    if asked.window is not None and asked.window < 1:
        raise SettingsError(f"window: at least 1 token is wanted, {asked.window} came")
    machine = machine or this_machine()
    backend, why = asked.backend, f"backend: {asked.backend} (asked for)"
    if backend == "auto":
        if not machine.cuda_devices:
            backend, why = "cpu", "device: the CPU (no CUDA device found)"
        elif not machine.cupy:
            backend, why = "torch-cuda", "backend: torch-cuda (a CUDA device, but no CuPy)"
        else:
            backend, why = "cuda", "backend: cuda (a CUDA device and CuPy found)"
    return replace(asked, backend=backend, reasons=(*asked.reasons, why))


def fit(
    asked: Settings, *, native_window: int, bytes_per_token: int, machine: Machine | None = None
) -> Settings:
    """Answer what depends on the model: window and pages. Raises SettingsError."""
    machine = machine or this_machine()
    reasons = list(asked.reasons)
    if asked.window is None:
        window = native_window
        reasons.append(f"window: {window} tokens (the model's own)")
    else:
        window = asked.window
        reasons.append(f"window: {window} tokens (asked for; the model's own is {native_window})")
    if asked.pages is not None:
        pages = asked.pages
        reasons.append(f"pages: {pages} of {asked.page_size} tokens (asked for)")
    else:
        on_device = asked.backend in ("cuda", "torch-cuda") and machine.device_bytes > 0
        windows = asked.max_rows if on_device else WINDOWS
        memory = machine.device_bytes if on_device else machine.free_bytes
        wanted = -(-windows * window // asked.page_size)
        room = int(memory * SHARE_OF_MEMORY) // (bytes_per_token * asked.page_size)
        pages = max(1, min(wanted, room))
        whose = "the device's" if on_device else "free"
        why = (
            f"{windows} windows" if pages == wanted else f"{SHARE_OF_MEMORY:.0%} of {whose} memory"
        )
        size = pages * asked.page_size * bytes_per_token / 2**20
        reasons.append(f"pages: {pages} of {asked.page_size} tokens ({why}; {size:.0f} MiB)")
    return replace(asked, window=window, pages=pages, reasons=tuple(reasons))


@cache
def this_machine() -> Machine:
    return Machine(
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        free_bytes=_free_bytes(),
        cuda_devices=_cuda_devices(),
        device_bytes=_device_bytes(),
        cupy=importlib.util.find_spec("cupy") is not None,
    )


def _free_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return 4 << 30


def _cuda_devices() -> int:
    """Asked of the driver itself, so that nothing heavy is loaded."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _device_bytes() -> int:
    driver = _driver()
    device, total = ctypes.c_int(0), ctypes.c_size_t(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return 0
    return total.value if driver.cuDeviceTotalMem_v2(ctypes.byref(total), device) == 0 else 0


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None
