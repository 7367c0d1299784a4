"""CUDA C++ implementation of `workbench.ops.contract`, loaded through CuPy. Imports nothing until
asked.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels_cupy.ops import CudaOps as CudaOps
    from kernels_cupy.pool import CudaPool as CudaPool

__all__ = ["CudaOps", "CudaPool", "why_not"]


def why_not() -> str | None:
    """Why the CUDA kernels cannot serve on this machine; None when they can."""
    from kernels_cupy.bridge import why_not

    return why_not()


def __getattr__(name: str) -> Any:
    if name == "CudaOps":
        from kernels_cupy.ops import CudaOps

        return CudaOps
    if name == "CudaPool":
        from kernels_cupy.pool import CudaPool

        return CudaPool
    raise AttributeError(f"module 'kernels_cupy' has no attribute {name!r}")
