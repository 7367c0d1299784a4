"""The one place that knows both torch's and CuPy's idea of a stream.

A kernel that CuPy launches outside the stream on which torch captures is silently missing from the
graph, and entering a stream for each launch costs more than the launch. So each launch compares
torch's raw stream with the one that CuPy last used, and switches only when they differ.
"""

import threading
from typing import Any

import torch

from kernels_cupy.errors import NoDevice

_here = threading.local()


class _Foreign:
    """torch's stream for `cupy.cuda.Stream.from_external`."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def follow(device: int) -> None:
    """Make CuPy launch on torch's current stream of `device`, in this thread."""
    raw = torch._C._cuda_getCurrentRawStream(device)
    if getattr(_here, "stream", None) != (device, raw):
        _enter(device, raw)
        _here.stream = (device, raw)


def _enter(device: int, raw: int) -> None:
    import cupy

    cupy.cuda.Device(device).use()
    stream: Any
    if raw == 0:
        stream = cupy.cuda.Stream.null
    elif hasattr(cupy.cuda.Stream, "from_external"):
        stream = cupy.cuda.Stream.from_external(_Foreign(raw))
    else:  # CuPy before 14
        stream = cupy.cuda.ExternalStream(raw, device)
    _here.keep = stream
    stream.use()


def why_not() -> str | None:
    """Why the CUDA kernels cannot serve here; None when they can."""
    try:
        require()
    except NoDevice as e:
        return str(e)
    return None


def require() -> torch.device:
    """The CUDA device that torch and CuPy both see."""
    if not torch.cuda.is_available():
        raise NoDevice(
            "a CUDA device wanted, torch sees none; the torch ops (ops='cpu') serve without one"
        )
    try:
        import cupy
    except ImportError as e:
        raise NoDevice(f"CuPy wanted ({e}); install cupy-cuda13x or cupy-cuda12x") from e
    if not cupy.cuda.is_available():
        raise NoDevice("CuPy sees no CUDA device although torch does; do their CUDA majors agree?")
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        raise NoDevice(
            f"compute capability 8.0 or later wanted, got {major}.{minor}; use ops='cpu'"
        )
    return torch.device("cuda", torch.cuda.current_device())
