"""The one table of instruction sets: what a kernel may emit, and how this machine's set is
chosen."""

import os
import platform
from dataclasses import dataclass
from functools import cache
from typing import Literal

import llvmlite.binding as llvm

Dot = Literal["vpdpbusd", "vpmaddubsw", "sdot", "plain"]


@dataclass(frozen=True, slots=True)
class Isa:
    """One row of the table. `needs` are LLVM feature names that the CPU must report."""

    name: str
    dot: Dot  # how sixteen rows of int4 or int8 meet four int8 activations
    width: int  # bytes of the vectors that the dot product works on
    needs: tuple[str, ...]
    features: str  # LLVM target features of the emitted kernels, beyond the architecture's baseline
    arch: Literal["x86", "arm", "any"]
    fma: bool  # fused multiply-add in one instruction
    half: bool  # half <-> float conversion in one instruction
    registers: int  # vector registers; decides how much attention keeps in them
    evidence: str  # the instruction whose absence means that vectorisation was lost


_AVX2 = "+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+lzcnt,+movbe"
_AVX512 = f"{_AVX2},+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd,+avx512vnni"

# Fastest first: `choose` takes the first that the CPU offers.
TABLE: tuple[Isa, ...] = (
    Isa("avx512vnni", "vpdpbusd", 64, ("avx512vnni", "avx512vl", "avx512bw"), _AVX512,
        "x86", True, True, 32, "vpdpbusd"),
    Isa("avxvnni", "vpdpbusd", 32, ("avxvnni", "avx2", "fma", "f16c"), f"{_AVX2},+avxvnni",
        "x86", True, True, 16, "vpdpbusd"),
    Isa("avx2", "vpmaddubsw", 32, ("avx2", "fma", "f16c"), _AVX2,
        "x86", True, True, 16, "vpmaddubsw"),
    Isa("armdot", "sdot", 16, ("dotprod",), "+dotprod,+fullfp16",
        "arm", True, True, 32, "sdot"),
    Isa("plain", "plain", 32, (), "", "any", False, False, 16, "mul"),
)  # fmt: skip


def named(name: str) -> Isa:
    """The row called `name`."""
    for isa in TABLE:
        if isa.name == name:
            return isa
    raise ValueError(f"instruction set {name!r}: the table has {', '.join(i.name for i in TABLE)}")


def machine() -> Literal["x86", "arm", "any"]:
    """The family of this CPU."""
    word = platform.machine().lower()
    if word in ("x86_64", "amd64", "i686"):
        return "x86"
    return "arm" if word in ("aarch64", "arm64") else "any"


def fetches_ahead() -> bool:
    """Whether the CPU is best left alone to fetch a lone stream: AMD's Zen cores read it as fast as
    memory gives it, and asking for its lines takes 8 % away."""
    return str(llvm.get_host_cpu_name()).startswith("znver")


@cache
def offered() -> tuple[Isa, ...]:
    """Rows of the table that this CPU can run, fastest first."""
    features = llvm.get_host_cpu_features()
    return tuple(
        isa
        for isa in TABLE
        if isa.arch in (machine(), "any") and all(features.get(need) for need in isa.needs)
    )


def choose(wanted: str | None = None) -> tuple[Isa, str]:
    """The set to use and the reason for it, shown by `doctor`.

    `wanted`, or the variable WORKBENCH_CPU_ISA, names one; without them the fastest offered is
    taken. Raises ValueError for a name that this CPU cannot run.
    """
    asked = wanted or os.environ.get("WORKBENCH_CPU_ISA")
    if asked is None:
        best = offered()[0]
        if best.name == "plain":
            faster = ", ".join(i.name for i in TABLE if i.arch == machine())
            return (
                best,
                f"plain: this CPU reports none of the faster sets ({faster or 'none known'})",
            )
        return best, f"{best.name}: the fastest set that this CPU reports"
    isa = named(asked)
    if isa not in offered():
        can = ", ".join(i.name for i in offered())
        raise ValueError(
            f"instruction set {asked}: this CPU lacks {', '.join(isa.needs)}; use {can}"
        )
    return isa, f"{isa.name}: asked for"
