"""The laptop engine as a net that `load_model` gives: which checkpoints it takes, and in what form.

The one arrow from this room to `workbench.cpu`, inside functions: numba is loaded only when it
serves.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from .checkpoint import Checkpoint
from .errors import ModelError
from .lora import load_adapter
from .shape import ModelShape

if TYPE_CHECKING:
    from workbench.cpu import NumbaForward

Weights = Literal["file", "q8", "q4"]


def why_not(checkpoint: Checkpoint, shape: ModelShape) -> str | None:
    """Why "auto" does not choose the laptop engine for this checkpoint; None when it does."""
    try:
        from workbench.cpu import unkept, unpackable
    except ImportError as error:
        return f"numba is not here ({error})"
    return unpackable(shape) or unkept(checkpoint, shape)


def open_laptop(
    checkpoint: Checkpoint,
    shape: ModelShape,
    weights: str,
    threads: int,
    say: Callable[[str], None] | None = None,
) -> tuple["NumbaForward", tuple[str, ...]]:
    """The engine over this checkpoint and the reasons for its form. `weights`: auto keeps the
    file's own blocks, "q8" and "q4" pack floats. Raises ModelError."""
    if weights not in ("auto", "q8", "q4"):
        raise ModelError(f"backend numba: weights must be auto, q8 or q4, got {weights!r}")
    from workbench.cpu import Unpackable, open_step

    form: Any = "file" if weights == "auto" else weights
    try:
        net, reasons = open_step(checkpoint, shape, weights=form, threads=threads, say=say)
    except Unpackable as error:
        raise ModelError(str(error)) from error

    def read(name: str, path: Path) -> Any:
        return load_adapter(name, path, shape, torch.float32, torch.device("cpu")).layers

    net.read_adapter = read
    return net, reasons
