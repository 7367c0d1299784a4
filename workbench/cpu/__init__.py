"""The laptop engine: a whole step in one native call over the file's own int4 weights, no
compiler."""

from collections.abc import Callable

from workbench.cpu import build
from workbench.cpu.forward import NumbaForward
from workbench.cpu.keeping import packed
from workbench.cpu.probe import Prefill, known_here, prefill
from workbench.cpu.prompts import Prompts, asked
from workbench.cpu.weights import PackedNet, Source, Unpackable, Weights, unkept, unpackable
from workbench.forward import Forward
from workbench.model.shape import ModelShape

__all__ = [
    "NumbaForward", "PackedNet", "Prefill", "Unpackable", "measured", "open_step", "probe_prompts",
    "unkept", "unpackable",
]  # fmt: skip


def open_step(
    source: Source,
    shape: ModelShape,
    *,
    weights: Weights = "file",
    threads: int = 1,
    instructions: str | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[NumbaForward, tuple[str, ...]]:
    """Pack (or find packed) the checkpoint's weights and make the step that runs them; with the
    reasons that `doctor` shows. Raises Unpackable where the checkpoint cannot be served so."""
    tell = say or build.to_stderr
    net, how = packed(source, shape, weights, build.cache_folder() / "packed", tell)
    step = NumbaForward(net, threads=threads, instructions=instructions, say=tell)
    forms = sorted({part.form for at in net.matrices.values() for part in at.parts})
    kept = "as in the file" if weights == "file" else f"packed to {weights}, asked for"
    reasons = (
        f"weights: {', '.join(forms)}, {kept} ({how})",
        f"instructions: {step.reason}",
        f"step: {step.built.note}",
    )
    return step, reasons


def probe_prompts(
    step: NumbaForward, make_other: Callable[[], Forward], model: str, threads: int
) -> Prefill:
    """Measure once how fast this machine does prompts, and the other net at them; where fast
    prompts are asked for and it is faster, let it serve them."""
    found, other = prefill(
        step, make_other, model, step.net.shape, threads, build.cache_folder() / "probes"
    )
    if asked() == "fast" and found.crossover is not None:
        step.prompts = Prompts(other or make_other(), found.crossover)
    return found


def measured() -> list[Prefill]:
    """What is known of prompts on this machine."""
    return known_here(build.cache_folder() / "probes")
