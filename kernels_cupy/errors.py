"""Errors of the CUDA room: each says what was wanted, what came and what to do."""

from typing import Any

from torch import Tensor


class KernelError(Exception):
    """A CUDA kernel cannot be compiled or cannot serve what was asked of it."""


class CompileError(KernelError):
    """NVRTC refused a source. Names file, line, the line's text and the compiler's own words."""


class NoDevice(KernelError):
    """There is no CUDA device, or none that CuPy and torch both see."""


def need(holds: bool, wanted: str, *came: Any) -> None:
    """Raise KernelError unless `holds`; tensors among `came` are described by shape, dtype,
    device.
    """
    if not holds:
        raise KernelError(f"{wanted}; got {', '.join(_describe(x) for x in came)}")


def _describe(x: Any) -> str:
    if isinstance(x, Tensor):
        dtype = str(x.dtype).removeprefix("torch.")
        return f"{dtype}{list(x.shape)} stride {x.stride()} on {x.device}"
    return repr(x)
