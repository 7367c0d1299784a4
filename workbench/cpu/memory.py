"""Words, floats and atomics at plain addresses, and the barrier of a step's threads."""

import ctypes
import sys
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from workbench.cpu.emit import F32, I32, I64, PTR, Code, Kernel, Value
from workbench.cpu.isa import machine

SPINS = 4000  # turns of a waiting thread before it gives its core away


def _reader(kind: ir.Type, numba_kind: Any, size: int) -> Any:
    @intrinsic
    def read(typing: Any, base: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
            at = builder.add(args[0], builder.mul(args[1], I64(size)))
            return builder.load(builder.inttoptr(at, PTR), typ=kind)

        return numba_kind(types.int64, types.int64), generate

    return read


def _writer(numba_kind: Any, size: int) -> Any:
    @intrinsic
    def write(typing: Any, base: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
            at = builder.add(args[0], builder.mul(args[1], I64(size)))
            builder.store(args[2], builder.inttoptr(at, PTR))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, numba_kind), generate

    return write


word = _reader(I64, types.int64, 8)  # word(table, number)
real = _reader(F32, types.float32, 4)  # real(row, column)
put_word = _writer(types.int64, 8)
put_real = _writer(types.float32, 4)


def _barrier(code: Code, place: Value, threads: Value, give_way: Value) -> None:
    """Wait until all `threads` have come: spinning at first, then giving the core away each turn.

    `place`: two words on different cache lines, 0 at first; `give_way`: what `yielder` found."""
    b = code.b
    gate = code.at(place, 64)
    with b.if_then(b.icmp_signed(">", threads, I64(1))):
        phase = _load(b, gate)
        come = b.atomic_rmw("add", place, I64(1), "seq_cst")
        last = b.icmp_signed("==", come, b.sub(threads, I64(1)))
        with b.if_else(last) as (open_, wait):
            with open_:
                b.atomic_rmw("xchg", place, I64(0), "seq_cst")
                b.atomic_rmw("add", gate, I64(1), "seq_cst")
            with wait:
                _wait(code, gate, phase, give_way)


def _wait(code: Code, gate: Value, phase: Value, give_way: Value) -> None:
    b = code.b
    turns = code.var(I64, I64(0))
    head, body, end = (b.append_basic_block(n) for n in ("watch", "pause", "through"))
    b.branch(head)
    b.position_at_end(head)
    b.cbranch(b.icmp_signed("==", _load(b, gate), phase), body, end)
    b.position_at_end(body)
    now = b.add(turns.get(), I64(1))
    turns.set(now)
    with b.if_else(b.icmp_signed("<", now, I64(SPINS))) as (spin, give):
        with spin:
            _pause(code)
        with give:
            b.call(b.inttoptr(give_way, ir.FunctionType(I32, []).as_pointer()), [])
    b.branch(head)
    b.position_at_end(end)


def _load(b: ir.IRBuilder, at: Value) -> Value:
    return b.load_atomic(at, "acquire", 8, typ=I64)


def _pause(code: Code) -> None:
    if machine() == "x86":
        code.call("llvm.x86.sse2.pause", ir.VoidType())
    elif machine() == "arm":
        code.call("llvm.aarch64.hint", ir.VoidType(), I32(1))


def yielder() -> int:
    """Address of the system's call that gives the core away. It travels in the plan: code from the
    cache is loaded where LLVM resolves no foreign names."""
    if sys.platform == "win32":
        call = ctypes.CDLL("kernel32").SwitchToThread
    else:
        call = ctypes.CDLL(None).sched_yield
    return ctypes.cast(call, ctypes.c_void_p).value or 0


BARRIER = Kernel("barrier", "pii", _barrier)
