"""From the step's source to machine code, once: compiled by numba, kept as an object file, loaded
by name.

The cache key is a hash of this room's sources, the versions of numba and LLVM, the CPU and the set,
so that nothing stale is ever loaded; an object that does not match its checksum is compiled anew.
"""

import ctypes
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numba
from llvmlite import ir

from workbench.cpu.isa import Isa

Say = Callable[[str], None]
Native = Callable[[int, int, int, int], int]

SYMBOL = "workbench_step"
_lock = threading.Lock()
_loaded: dict[tuple[str, bool], "Built"] = {}


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled step. `run` (plan, thread, first, last) releases the GIL."""

    isa: Isa
    half: bool
    run: Native
    key: str
    compiled_s: float  # 0.0: taken from the cache
    path: Path | None  # of the cached object; None: could not be written
    note: str  # how it came about, for `doctor`
    engine: object  # owns the code's memory


def cache_folder() -> Path:
    """Where compiled steps and packed weights are kept: WORKBENCH_CACHE, or the user's cache."""
    asked = os.environ.get("WORKBENCH_CACHE")
    if asked:
        return Path(asked)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "reasoning-workbench"


def key_of(isa: Isa, half: bool) -> str:
    """What the machine code depends on, in 16 hex digits."""
    digest = hashlib.sha256()
    for part in (
        numba.__version__, llvmlite.__version__, str(llvm.llvm_version_info), sys.platform,
        llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), repr(isa), str(half),
    ):  # fmt: skip
        digest.update(part.encode() + b"\0")
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def build(isa: Isa, half: bool, say: Say | None = None, folder: Path | None = None) -> Built:
    """The step for `isa`, from memory, the cache folder, or compiled now (announced through
    `say`)."""
    with _lock:
        known = _loaded.get((isa.name, half))
        if known is None or folder is not None:
            known = _fetch(isa, half, say or to_stderr, folder or cache_folder() / "steps")
            _loaded[isa.name, half] = known
        return known


def to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _fetch(isa: Isa, half: bool, say: Say, folder: Path) -> Built:
    key = key_of(isa, half)
    path = folder / f"{isa.name}-{'f16' if half else 'f32'}-{key}.o"
    code, note = _read(path)
    seconds = 0.0
    if code is None:
        say(f"cpu: {note}; compiling the step for {isa.name}, once, about 10 s …")
        start = time.perf_counter()
        code = emit_object(isa, half)
        seconds = time.perf_counter() - start
        problem = _write(path, code)
        note = f"compiled in {seconds:.0f} s" + (f", not kept: {problem}" if problem else "")
        say(f"cpu: {note}")
    engine = _engine(code)
    address = engine.get_function_address(SYMBOL)
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)(address)
    kept = path if path.exists() else None
    return Built(isa, half, call, key, seconds, kept, note, engine)


def step_ir(half: bool) -> str:
    """The step without its kernels in LLVM's text form, optimised, its entry named SYMBOL."""
    from workbench.cpu.step import make  # numba's compiler is not needed when the cache serves

    callback = make(half)
    text: str = callback.inspect_llvm()
    return text.replace(callback._wrapper_name, SYMBOL)


def _kernels(isa: Isa, half: bool, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """All kernels of the step, optimised."""
    from workbench.cpu.step import kernels

    source = ir.Module("workbench_kernels")
    source.triple, source.data_layout = machine.triple, str(machine.target_data)
    for kernel in kernels(half).values():
        kernel.define(source, isa)
    module = llvm.parse_assembly(str(source))
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return module


def _machine() -> llvm.TargetMachine:
    _ready()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3,
        reloc="static", codemodel="jitdefault", jit=True,
    )  # fmt: skip


def emit_object(isa: Isa, half: bool) -> bytes:
    machine = _machine()
    module = llvm.parse_assembly(step_ir(half))
    module.link_in(_kernels(isa, half, machine))
    code: bytes = machine.emit_object(module)
    return code


def _engine(code: bytes) -> llvm.ExecutionEngine:
    _ready()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True, reloc="static")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _ready() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _read(path: Path) -> tuple[bytes | None, str]:
    try:
        data = path.read_bytes()
    except OSError:
        return None, "no compiled step in the cache"
    digest, code = data[:32], data[32:]
    if hashlib.sha256(code).digest() != digest:
        return None, f"the cached step {path.name} is damaged"
    return code, "from the cache"


def _write(path: Path, code: bytes) -> str | None:
    """Keep `code`; the reason when it cannot be kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(file.name, path)
    except OSError as error:
        return f"{type(error).__name__} at {path.parent}"
    return None
