"""`workbench doctor`: what this machine offers and what was chosen, each with its reason."""

import argparse
import platform
from importlib import metadata
from typing import Any

from workbench.cli.output import Verbs, emit


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser("doctor", parents=[common], help="what this machine offers")
    verb.add_argument(
        "--warm", action="store_true", help="compile and pack now what a first run would wait for"
    )
    verb.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    if args.warm:
        warm()
    found = report()
    if args.json:
        emit(found)
        return
    for key in ("python", "torch", "cupy", "device", "driver", "backend"):
        print(f"{key:8} {found[key] or 'none'}")
    for reason in found["reasons"]:
        print(f"  {reason}")


def warm() -> None:
    """Compile, pack and probe the default model."""
    from workbench.model.laptop import probe
    from workbench.model.load import load_model

    model = load_model()
    if model.name.startswith("numba"):
        probe(model.net, model.checkpoint, model.shape, threads=1)


def report() -> dict[str, Any]:
    import torch

    from workbench.settings import resolve
    from workbench.tools.sandbox import guarantees

    cuda = torch.cuda.is_available()
    settings = resolve()
    backend, reasons = settings.backend, list(settings.reasons)
    if backend == "cpu":
        backend, why = laptop_engine()
        reasons += [why, *(prompts() if backend == "numba" else [])]
    reasons += [f"sandbox: {what}" for what in guarantees()]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cupy": cupy_version(),
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "driver": driver() if cuda else None,
        "backend": backend,
        "reasons": reasons,
    }


def laptop_engine() -> tuple[str, str]:
    """What a quantised file meets on this CPU, and why."""
    try:
        from workbench.cpu import isa
    except ImportError as error:
        return "cpu", f"backend: cpu, torch for every file (numba is not here: {error})"
    try:
        _, why = isa.choose()
    except ValueError as error:
        return "cpu", f"backend: cpu; numba would refuse ({error})"
    return "numba", (
        f"backend: numba for quantised files ({why}) and for any other with weights q8 or q4, "
        "torch for others"
    )


def prompts() -> list[str]:
    """What was measured of long prompts, and what was chosen."""
    from workbench.cpu import measured

    known = [prefill.told() for prefill in measured()]
    return known or ["prompts: fused (`workbench doctor --warm` measures the other way)"]


def cupy_version() -> str | None:
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def driver() -> str | None:
    """CUDA version that the driver serves."""
    try:
        from cupy.cuda import runtime

        version = int(runtime.driverGetVersion())
    except (
        Exception
    ):  # no cupy, or one that does not fit the driver: a fact to report, not a failure
        return None
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
