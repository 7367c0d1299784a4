"""Vector code without a compiler on the machine: kernels written as LLVM IR, callable from numba.

A kernel is a Python function that is handed a `Code` and the kernel's arguments and appends
instructions. It becomes one real function (never inlined), so that its machine code can be looked
at by name; pointers travel as plain int64 addresses.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from workbench.cpu.isa import Isa

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
PTR = ir.PointerType()

compiled: Any = njit(error_model="numpy", boundscheck=False)  # plain loops around kernels

UNUSED = 64  # numba wants an address for each name in code that we only read, and never run there
Value = Any  # llvmlite values carry no useful static types


def vec(element: ir.Type, n: int) -> ir.VectorType:
    return ir.VectorType(element, n)


VF = vec(F32, 16)  # the working vector: sixteen floats, whatever registers it takes


class Var:
    """A mutable value; LLVM turns it into a register."""

    def __init__(self, code: "Code", kind: ir.Type, start: Value) -> None:
        with code.b.goto_entry_block():
            self._slot = code.b.alloca(kind)
        self._code, self._kind = code, kind
        self.set(start)

    def get(self) -> Value:
        return self._code.b.load(self._slot, typ=self._kind)

    def set(self, value: Value) -> None:
        self._code.b.store(value, self._slot)


class Code:
    """One kernel under construction. `b` is the llvmlite builder for what has no shorthand here."""

    def __init__(self, builder: ir.IRBuilder, isa: Isa) -> None:
        self.b, self.isa, self.module = builder, isa, builder.module

    # values

    def const(self, kind: ir.Type, value: float) -> Value:
        """`value` in every lane of `kind`, or as a scalar."""
        if isinstance(kind, ir.VectorType):
            return ir.Constant(kind, [value] * kind.count)
        return ir.Constant(kind, value)

    def splat(self, scalar: Value, kind: ir.VectorType) -> Value:
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(undefined, scalar, I32(0))
        return self.b.shuffle_vector(first, undefined, self.const(vec(I32, kind.count), 0))

    def at(self, base: Value, offset: Value | int) -> Value:
        """Pointer `offset` bytes behind `base`."""
        step = I64(offset) if isinstance(offset, int) else offset
        return self.b.gep(base, [step], source_etype=I8)

    def load(self, base: Value, offset: Value | int, kind: ir.Type, align: int = 1) -> Value:
        got = self.b.load(self.at(base, offset), typ=kind)
        got.align = align
        return got

    def store(self, value: Value, base: Value, offset: Value | int, align: int = 1) -> None:
        self.b.store(value, self.at(base, offset)).align = align

    def var(self, kind: ir.Type, start: Value) -> Var:
        return Var(self, kind, start)

    # arithmetic

    def call(self, name: str, result: ir.Type, *args: Value) -> Value:
        """Call the function or LLVM intrinsic `name`."""
        fn = self.module.globals.get(name)
        if fn is None:
            fn = ir.Function(self.module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.b.call(fn, args)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the set can. Never left to the optimiser: a row computed
        alone and in a batch must round alike."""
        if not self.isa.fma:
            return self.b.fadd(self.b.fmul(a, b), c)
        return self.call(f"llvm.fma.{_suffix(a.type)}", a.type, a, b, c)

    def unary(self, name: str, x: Value) -> Value:
        return self.call(f"llvm.{name}.{_suffix(x.type)}", x.type, x)

    def larger(self, a: Value, b: Value) -> Value:
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def add_lanes(self, x: Value) -> Value:
        """Sum of sixteen lanes in one fixed order, a tree."""
        for half in (8, 4, 2, 1):
            x = self.b.fadd(*self._halves(x, half))
        return self.b.extract_element(x, I32(0))

    def max_lanes(self, x: Value) -> Value:
        for half in (8, 4, 2, 1):
            x = self.larger(*self._halves(x, half))
        return self.b.extract_element(x, I32(0))

    def _halves(self, x: Value, half: int) -> tuple[Value, Value]:
        low = ir.Constant(vec(I32, half), list(range(half)))
        high = ir.Constant(vec(I32, half), list(range(half, 2 * half)))
        return self.b.shuffle_vector(x, x, low), self.b.shuffle_vector(x, x, high)

    def lanes(self) -> Value:
        """0 … 15 as int64 lanes."""
        return ir.Constant(vec(I64, 16), list(range(16)))

    def to_float(self, half: Value) -> Value:
        """Halves to floats. Without an instruction for it: integer shifts and one product."""
        floats, words = vec(F32, half.type.count), vec(I32, half.type.count)
        if self.isa.half:
            return self.b.fpext(half, floats)
        wide = self.b.zext(self.b.bitcast(half, vec(I16, half.type.count)), words)
        body = self.b.and_(wide, self.const(words, 0x7FFF))
        sign = self.b.shl(self.b.and_(wide, self.const(words, 0x8000)), self.const(words, 16))
        shifted = self.b.bitcast(self.b.shl(body, self.const(words, 13)), floats)
        finite = self.b.bitcast(self.b.fmul(shifted, self.const(floats, 2.0**112)), words)
        endless = self.b.icmp_unsigned(">=", body, self.const(words, 0x7C00))
        raised = self.b.or_(finite, self.const(words, 0x7F800000))
        return self.b.bitcast(self.b.or_(self.b.select(endless, raised, finite), sign), floats)

    def to_half(self, x: Value) -> Value:
        """Floats to halves, to nearest even; too large ones become infinite."""
        n = x.type.count
        if self.isa.half:
            return self.b.fptrunc(x, vec(F16, n))
        words = vec(I32, n)

        def k(value: int) -> Value:
            return self.const(words, value)

        bits = self.b.bitcast(x, words)
        sign = self.b.and_(self.b.lshr(bits, k(16)), k(0x8000))
        body = self.b.and_(bits, k(0x7FFFFFFF))
        odd = self.b.and_(self.b.lshr(body, k(13)), k(1))
        rebased = self.b.add(self.b.add(body, k((15 - 127 << 23) + 0xFFF)), odd)
        normal = self.b.lshr(rebased, k(13))
        # below 2**-14 the float adder itself rounds to the halves' fixed step
        tiny = self.b.fadd(self.b.bitcast(body, x.type), self.const(x.type, 0.5))
        small = self.b.sub(self.b.bitcast(tiny, words), k(0x3F000000))
        size = self.b.select(self.b.icmp_unsigned("<", body, k(113 << 23)), small, normal)
        size = self.b.select(self.b.icmp_unsigned(">=", body, k(0x477FF000)), k(0x7C00), size)
        size = self.b.select(self.b.icmp_unsigned(">", body, k(0x7F800000)), k(0x7E00), size)
        halves = self.b.trunc(self.b.or_(size, sign), vec(I16, n))
        return self.b.bitcast(halves, vec(F16, n))

    def prefetch(self, base: Value, offset: Value | int, level: int) -> None:
        """Ask for a line, into the first or the second level of the cache."""
        place, near = self.at(base, offset), I32(4 - level)
        self.call("llvm.prefetch.p0", ir.VoidType(), place, I32(0), near, I32(1))

    # control

    @contextmanager
    def loop(self, start: Value, stop: Value, step: int = 1) -> Iterator[Value]:
        """`for i in range(start, stop, step)` over int64."""
        index = self.var(I64, start)
        head, body, end = (self.b.append_basic_block(n) for n in ("head", "body", "end"))
        self.b.branch(head)
        self.b.position_at_end(head)
        now = index.get()
        self.b.cbranch(self.b.icmp_signed("<", now, stop), body, end)
        self.b.position_at_end(body)
        yield now
        index.set(self.b.add(now, I64(step)))
        self.b.branch(head)
        self.b.position_at_end(end)


def _suffix(kind: ir.Type) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    return {F32: "f32", F16: "f16"}.get(kind) or f"i{kind.width}"


_IR_KIND = {"p": PTR, "i": I64, "f": F32}
_NUMBA_KIND = {"p": types.int64, "i": types.int64, "f": types.float32}


@dataclass(frozen=True)
class Kernel:
    """A named body and the kinds of its arguments; `returns` is "f", "i" or nothing."""

    name: str
    kinds: str  # a letter an argument: p address, i int64, f float32
    body: Callable[..., Value]
    returns: Literal["f", "i"] | None = None

    def define(self, module: ir.Module, isa: Isa) -> ir.Function:
        """The kernel as a function of `module`, emitted at its first use there."""
        fn = self._declare(module)
        if not fn.is_declaration:
            return fn
        for attribute in ("noinline", "nounwind"):
            fn.attributes.add(attribute)
        for key, value in _target(isa).items():
            set.add(
                fn.attributes, f'"{key}"="{value}"'
            )  # llvmlite's own `add` knows no string ones
        builder = ir.IRBuilder(fn.append_basic_block("entry"))
        args = [
            builder.inttoptr(arg, PTR) if kind == "p" else arg
            for arg, kind in zip(fn.args, self.kinds, strict=True)
        ]
        out = self.body(Code(builder, isa), *args)
        builder.ret(out) if self.returns else builder.ret_void()
        return fn

    @property
    def symbol(self) -> str:
        return f"workbench_{self.name}"

    def _declare(self, module: ir.Module) -> ir.Function:
        known = module.globals.get(self.symbol)
        if known is not None:
            return known
        result = _IR_KIND[self.returns] if self.returns else ir.VoidType()
        params = [I64 if kind == "p" else _IR_KIND[kind] for kind in self.kinds]
        return ir.Function(module, ir.FunctionType(result, params), self.symbol)

    def callable(self) -> Any:
        """What numba code calls: a name, whose code is linked in when all is compiled. With the
        code itself numba would optimise it again in every function above."""
        llvm.add_symbol(self.symbol, UNUSED)
        kinds = [_NUMBA_KIND[kind] for kind in self.kinds]
        result = _NUMBA_KIND[self.returns] if self.returns else types.void

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
            got = builder.call(self._declare(builder.module), args)
            return got if self.returns else context.get_dummy_value()

        names = ", ".join(f"a{n}" for n in range(len(kinds)))
        scope = {"sign": lambda: result(*kinds), "generate": generate}
        exec(f"def {self.name}(typing, {names}):\n    return sign(), generate\n", scope)
        return intrinsic(scope[self.name])


def _target(isa: Isa) -> dict[str, str]:
    if not isa.features:
        return {}
    found = {"target-features": isa.features}
    if isa.width == 64:  # or LLVM splits sixteen floats in two
        found |= {"prefer-vector-width": "512", "min-legal-vector-width": "512"}
    return found
