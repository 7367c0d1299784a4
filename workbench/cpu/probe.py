"""Which is faster at prompts on this machine: the fused step or another net of the same checkpoint.

Measured once for a machine, a model's shape and a number of threads, in a few seconds; kept in the
cache under a key of all that it depends on; read by `doctor` and by who asks for fast prompts.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from workbench.cpu import build, isa
from workbench.cpu.prompts import plain_row
from workbench.forward import Forward
from workbench.model.shape import ModelShape

LENGTHS = (64, 128, 256, 512)  # tokens of a prompt; 512 is what a step takes at most
GAIN = 1.2  # from which the other net is worth its memory and the promise that it breaks
ROUNDS = 3
PAGE = 16


@dataclass(frozen=True, slots=True)
class Prefill:
    """Tokens a second by length of the prompt, the best of a few turns."""

    machine: str  # key of CPU, set and sources: as of the compiled step
    model: str
    threads: int
    other: str
    fused: dict[int, float]
    others: dict[int, float]

    @property
    def crossover(self) -> int | None:
        """The length from which the other net is GAIN times faster; None: at none."""
        found = None
        for n in sorted(self.fused, reverse=True):
            if self.others[n] < GAIN * self.fused[n]:
                break
            found = n
        return found

    def told(self) -> str:
        """For `doctor`."""
        n = max(self.fused)
        figures = (
            f"at {n} tokens the fused step does {self.fused[n]:,.0f} tok/s, "
            f"{self.other} {self.others[n]:,.0f} ({self.model}, {self.threads} "
            f"thread{'s' if self.threads > 1 else ''})"
        )
        if self.crossover is None:
            return f"prompts: fused at every length ({figures})"
        return (
            f"prompts: {self.other} is faster from {self.crossover} tokens on ({figures}); "
            "WORKBENCH_CPU_PROMPTS=fast takes it, and rows may then depend on how prompts were cut"
        )


def prefill(
    fused: Forward, make: Callable[[], Forward], model: str, shape: ModelShape, threads: int,
    folder: Path,
) -> tuple[Prefill, Forward | None]:  # fmt: skip
    """What is known of this machine, or measured now; and the other net where it was made for
    that."""
    path = folder / f"prefill-{_key(shape, threads)}.json"
    known = _read(path)
    if known is not None:
        return known, None
    other = make()
    found = measure(fused, other, model, threads)
    _write(path, found)
    return found, other


def known_here(folder: Path) -> list[Prefill]:
    """All that was measured with the step of today on this CPU."""
    found = [_read(path) for path in sorted(folder.glob("prefill-*.json"))]
    return [prefill for prefill in found if prefill is not None and prefill.machine == machine()]


def machine() -> str:
    return build.key_of(isa.choose()[0], True)


def measure(fused: Forward, other: Forward, model: str, threads: int) -> Prefill:
    """Turn by turn, the best of each: what else runs here only makes a turn longer."""
    best: dict[str, dict[int, float]] = {"fused": {}, "other": {}}
    for n in LENGTHS:
        tokens = torch.arange(n) % min(fused.facts.vocabulary, 97)
        batch, pages = plain_row(tokens, PAGE)
        pools = [net.new_pool(net.layout(pages, PAGE)) for net in (fused, other)]
        for _ in range(ROUNDS):
            for name, net, pool in zip(best, (fused, other), pools, strict=True):
                start = time.perf_counter()
                net(batch, pool)
                rate = n / (time.perf_counter() - start)
                best[name][n] = max(best[name].get(n, 0.0), rate)
    return Prefill(machine(), model, threads, other.name, best["fused"], best["other"])


def _key(shape: ModelShape, threads: int) -> str:
    parts = (machine(), torch.__version__, repr(shape), threads)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _read(path: Path) -> Prefill | None:
    """None where nothing is kept, or nothing that can be read: it is measured again."""
    try:
        kept = json.loads(path.read_text())
        fused, others = (
            {int(n): float(rate) for n, rate in kept.pop(name).items()}
            for name in ("fused", "others")
        )
        known = Prefill(**kept, fused=fused, others=others)
        return known if fused.keys() == others.keys() and fused else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, found: Prefill) -> None:
    """Keep it, where it can be kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(found), file)
        os.replace(beside, path)
    except OSError:
        return
