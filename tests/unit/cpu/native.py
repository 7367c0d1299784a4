"""One kernel compiled alone, callable on numpy arrays: what the kernel tests run."""

import ctypes

import llvmlite.binding as llvm
from llvmlite import ir

from workbench.cpu import build
from workbench.cpu.emit import Kernel
from workbench.cpu.isa import Isa

C = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


def module_of(kernel: Kernel, isa: Isa) -> str:
    module = ir.Module(kernel.name)
    kernel.define(module, isa).linkage = "external"
    return str(module)


def optimise(text: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    module = llvm.parse_assembly(text.replace('"unknown-unknown-unknown"', f'"{machine.triple}"'))
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    llvm.create_pass_builder(machine, options).getModulePassManager().run(
        module, llvm.create_pass_builder(machine, options)
    )
    return module


class Native:
    """Call it with arrays for pointers and plain numbers for the rest."""

    def __init__(self, kernel: Kernel, isa: Isa) -> None:
        self.kernel = kernel
        machine = build._machine()
        module = optimise(module_of(kernel, isa), machine)
        self.assembly = machine.emit_assembly(module)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        address = self._engine.get_function_address(f"workbench_{kernel.name}")
        result = C[kernel.returns] if kernel.returns else None
        self._call = ctypes.CFUNCTYPE(result, *(C[kind] for kind in kernel.kinds))(address)

    def __call__(self, *args):
        return self._call(*(a.ctypes.data if hasattr(a, "ctypes") else a for a in args))
