"""The laptop engine as a net that `load_model` gives: which checkpoints it takes, and in what form.

The one arrow from this room to `workbench.cpu`, inside functions: numba is loaded only when it
serves.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.ops.cpu import CpuOps
from workbench.ops.packing import can_prepack

from .checkpoint import Checkpoint
from .decoder import Decoder
from .errors import ModelError
from .lora import load_adapter
from .shape import ModelShape
from .weights import NetBuilder

if TYPE_CHECKING:
    from workbench.cpu import NumbaForward, Prefill

PACKED = ("q8", "q4")  # what floats may be packed to


def wants_laptop(dtype: str, weights: str, backend: str) -> bool:
    """Whether the laptop engine is asked for, or the first to be thought of. Raises ModelError."""
    packed = weights in PACKED
    if backend == "numba" or (packed and backend == "auto"):
        if dtype != "auto":
            raise ModelError(f"backend numba takes its own types, dtype auto; got {dtype!r}")
        if weights != "auto" and not packed:
            raise ModelError(f"backend numba: weights must be auto, q8 or q4, got {weights!r}")
        return True
    if packed:
        raise ModelError(f"weights {weights!r} want backend numba or auto, got {backend!r}")
    return backend == dtype == weights == "auto" and not torch.cuda.is_available()


def why_not(checkpoint: Checkpoint, shape: ModelShape, weights: str, backend: str) -> str | None:
    """Why the laptop engine does not serve this model; None when it does. Raises ModelError where
    it was asked for by name and another form of the weights would do."""
    try:
        from workbench.cpu import unkept, unpackable
    except ImportError as error:
        return f"numba is not here ({error})"
    if (why := unpackable(shape)) is not None or weights != "auto":
        return why
    why = unkept(checkpoint, shape)
    if why is not None and backend == "numba":
        raise ModelError(f"{checkpoint.path}: {why}")
    return why


def open_laptop(
    checkpoint: Checkpoint,
    shape: ModelShape,
    weights: str,
    threads: int,
    say: Callable[[str], None] | None = None,
) -> tuple["NumbaForward", tuple[str, ...]]:
    """The engine over this checkpoint and the reasons for its form. `weights`: auto keeps the
    file's own blocks, "q8" and "q4" pack floats. Raises ModelError."""
    from workbench.cpu import open_step
    from workbench.cpu.prompts import asked

    form: Any = "file" if weights == "auto" else weights
    try:
        net, reasons = open_step(checkpoint, shape, weights=form, threads=threads, say=say)
    except ValueError as error:  # weights that cannot be packed so, an unknown instruction set
        raise ModelError(str(error)) from error

    def read(name: str, path: Path) -> Any:
        return load_adapter(name, path, shape, torch.float32, torch.device("cpu")).layers

    net.read_adapter = read
    if asked() == "fast":
        reasons += (probe(net, checkpoint, shape, threads).told(),)
    return net, reasons


def probe(net: Any, checkpoint: Checkpoint, shape: ModelShape, threads: int) -> "Prefill":
    """How fast prompts go here, through the step `net` and through torch; measured at the first
    call."""
    from workbench.cpu import probe_prompts

    def torch_net() -> Decoder:
        ops, cpu = CpuOps("bf16 prepacked" if can_prepack() else "as loaded"), torch.device("cpu")
        built = NetBuilder(shape, checkpoint, ops, torch.bfloat16, cpu).net()
        return Decoder(shape, built, ops, name="torch bf16", dtype=torch.bfloat16, device=cpu)

    return probe_prompts(net, torch_net, checkpoint.path.stem, threads)
