"""The block product: sixteen rows of packed weights meet up to eight rows of int8 activations.

A tile is sixteen output rows over all of the input, block by block; a block is 16 rows x 32
columns. In it column 4 * j + c of row r is byte 4 * r + c of group j, so that one vector holds four
neighbouring columns of every row and no sum ever crosses lanes. int4 keeps groups 2j and 2j + 1 in
the low and high halves of the same bytes; int6 puts its two high bits behind, those of groups
4i ... 4i + 3 in the same bytes. Behind the groups stand the rows' scales d[16] and, for q4_1 and
q4_k, minima m[16], halves all; then for the K forms bytes by row: q4_k's c[16] and e[16], q6_k's
signed s[2][16], for columns below and from 16 on. Values, each q unsigned: q4_1 is d * q + m, q4_0
d * (q - 8), q8_0 d * (q - 128), q4_k d * c * q + m * e, q6_k d * s * (q - 32).

A panel holds M rows of activations, record by record, a record a block of 32 columns: M x 32 int8
values; M float scales of the columns below 16 and M of those from 16 on (with one for all 32 each
large value spoils 31 others, and SmolLM2's logits err by 0.24, not 0.15); M sums of the values that
the block stands for, as floats; M sums of the int8 values of either half, as int32. Integer sums
are exact and floats are added block by block in the same order for every M: a row's result does not
depend on who shares its panel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from workbench.cpu import isa
from workbench.cpu.emit import F16, F32, I8, I16, I32, I64, Code, Kernel, Value, Var, vec

ROWS = 16  # output rows of a tile
COLS = 32  # columns that share a scale
PANEL = 8  # most rows of activations in a panel
RECORD = COLS + 20  # bytes of a panel's record, each row
AHEAD = {64: 10, 32: 6, 16: 6}  # blocks that the prefetch runs ahead, by bytes of a vector
MANY = 5  # rows from which on Zen cores want to be asked, too


@dataclass(frozen=True, slots=True)
class Form:
    """A quantisation, and how its blocks lie in memory."""

    name: str
    code: int  # in matrix descriptors
    bits: int
    offset: int  # taken from every unsigned value
    minima: bool
    fine: int = 0  # bytes a row behind the halves: multipliers of the K forms

    @property
    def quants(self) -> int:
        return ROWS * COLS * self.bits // 8

    @property
    def halves(self) -> int:
        """Bytes of a row's scale and minimum."""
        return 4 if self.minima else 2

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return self.quants + ROWS * (self.halves + self.fine)


Q4_1 = Form("q4_1", 0, 4, 0, True)
Q4_0 = Form("q4_0", 1, 4, 8, False)
Q8_0 = Form("q8_0", 2, 8, 128, False)
Q4_K = Form("q4_k", 3, 4, 0, True, 2)
Q6_K = Form("q6_k", 4, 6, 32, False, 2)
FORMS = (Q4_1, Q4_0, Q8_0, Q4_K, Q6_K)


def product(form: Form, rows: int) -> Kernel:
    """out[m, 0:16] = bias (+ out where `add`) + tile . panel[m], for m < rows."""

    def body(
        code: Code, w: Value, blocks: Value, panel: Value, bias: Value, out: Value, stride: Value,
        add: Value,
    ) -> None:  # fmt: skip
        lanes = min(ROWS, code.isa.width // 4)
        parts = range(0, ROWS, lanes)
        # few rows: memory decides, so the tile is walked once; many: registers, so part by part
        walks = [parts] if rows <= 2 else [[first] for first in parts]
        for firsts in walks:
            _walk(code, form, rows, firsts, lanes, w, blocks, panel, bias, out, stride, add)

    return Kernel(f"{form.name}_x{rows}", "pipppii", body)


def _walk(
    code: Code, form: Form, rows: int, firsts: Sequence[int], lanes: int, w: Value, blocks: Value,
    panel: Value, bias: Value, out: Value, stride: Value, add: Value,
) -> None:  # fmt: skip
    """Over all blocks, for `lanes` of the tile's rows from each of `firsts` on."""
    wide = vec(F32, lanes)
    starts = [code.load(bias, 4 * first, wide) for first in firsts]
    sums = [[code.var(wide, start) for _ in range(rows)] for start in starts]
    with code.loop(I64(0), blocks) as block:
        at = code.at(w, code.b.mul(block, I64(form.block)))
        record = code.at(panel, code.b.mul(block, I64(RECORD * rows)))
        if firsts[0] == 0 and (rows >= MANY or not isa.fetches_ahead()):
            for line in range(0, form.block, 64):
                code.prefetch(at, AHEAD[code.isa.width] * form.block + line, 1)
        for first, part in zip(firsts, sums, strict=True):
            groups = _groups(code, form, at, first, lanes)
            scale, minimum = _scales(code, form, at, first, lanes)
            steps = _steps(code, form, at, first, lanes)
            for m in range(rows):
                totals = [
                    _dot(code, form, groups, steps, record, half, m, rows, lanes)
                    for half in range(2)
                ]
                _accumulate(code, part[m], totals, scale, minimum, record, m, rows)
    for first, part in zip(firsts, sums, strict=True):
        for m in range(rows):
            place = code.at(out, code.b.mul(stride, I64(m)))
            _put(code, part[m].get(), place, 4 * first, add)


def _accumulate(
    code: Code, acc: Var, totals: list[Value], scale: Value, minimum: Value | None, record: Value,
    m: int, rows: int,
) -> None:  # fmt: skip
    wide, b = scale.type, code.b

    def beside(place: int) -> Value:
        return code.splat(code.load(record, (COLS + place) * rows + 4 * m, F32, 4), wide)

    if minimum is not None:
        acc.set(code.fma(minimum, beside(8), acc.get()))
    value = b.fmul(b.sitofp(totals[0], wide), beside(0))
    value = code.fma(b.sitofp(totals[1], wide), beside(4), value)
    acc.set(code.fma(value, scale, acc.get()))


def _put(code: Code, value: Value, out: Value, offset: int, add: Value) -> None:
    """Store, or add to what is there."""
    there = code.load(out, offset, value.type)
    nothing = code.const(value.type, 0.0)
    wanted = code.b.select(code.b.icmp_signed("!=", add, I64(0)), there, nothing)
    code.store(code.b.fadd(value, wanted), out, offset)


def _halves(code: Code, at: Value, offset: int, lanes: int) -> Value:
    return code.to_float(code.load(at, offset, vec(F16, lanes)))


def _scales(
    code: Code, form: Form, at: Value, first: int, lanes: int
) -> tuple[Value, Value | None]:
    """The rows' scales and minima as floats; products of a half and a byte are exact."""
    b, behind = code.b, form.quants + ROWS * form.halves + first
    scale = _halves(code, at, form.quants + 2 * first, lanes)
    if not form.minima:
        return scale, None
    minimum = _halves(code, at, form.quants + 2 * (ROWS + first), lanes)
    if form.fine:
        small, wide = vec(I8, lanes), vec(F32, lanes)
        scale = b.fmul(scale, b.uitofp(code.load(at, behind, small), wide))
        minimum = b.fmul(minimum, b.uitofp(code.load(at, behind + ROWS, small), wide))
    return scale, minimum


def _steps(code: Code, form: Form, at: Value, first: int, lanes: int) -> list[Value]:
    """q6_k's multipliers of both halves of the columns, as int32."""
    if form.bits != 6:
        return []
    behind = form.quants + ROWS * form.halves + first
    small, wide = vec(I8, lanes), vec(I32, lanes)
    return [code.b.sext(code.load(at, behind + ROWS * half, small), wide) for half in range(2)]


def _groups(code: Code, form: Form, at: Value, first: int, lanes: int) -> list[Value]:
    """Eight vectors of unsigned bytes, four columns of each row; q8_0's still bear their offset."""
    kind = vec(I8, 4 * lanes)
    if form.bits == 8:
        return [code.load(at, 64 * j + 4 * first, kind) for j in range(8)]
    low, four = code.const(kind, 15), code.const(vec(I16, 2 * lanes), 4)
    groups = []
    for j in range(4):
        both = code.load(at, 64 * j + 4 * first, kind)
        high = code.b.bitcast(code.b.lshr(code.b.bitcast(both, four.type), four), kind)
        groups += [code.b.and_(both, low), code.b.and_(high, low)]
    if form.bits == 6:
        groups = [code.b.or_(g, _high(code, at, j, first, kind)) for j, g in enumerate(groups)]
    return groups


def _high(code: Code, at: Value, group: int, first: int, kind: ir.VectorType) -> Value:
    """The group's two high bits, at their place in each byte."""
    b, pairs = code.b, vec(I16, kind.count // 2)
    place = ROWS * COLS // 2 + 64 * (group // 4) + 4 * first
    four = code.load(at, place, kind)
    lane = 2 * (group % 4)
    bits = b.bitcast(b.and_(four, code.const(kind, 3 << lane)), pairs)
    shift = code.const(pairs, abs(lane - 4))
    return b.bitcast(b.shl(bits, shift) if lane < 4 else b.lshr(bits, shift), kind)


def _dot(
    code: Code, form: Form, groups: list[Value], steps: list[Value], record: Value,
    half: int, m: int, rows: int, lanes: int,
) -> Value:  # fmt: skip
    """Exact int32 sums over one half of the block for row m of the panel, q6_k's multipliers
    worked in: those stay below 2**24, so that floats hold them too."""
    b, wide = code.b, vec(I32, lanes)

    def quad(j: int) -> Value:
        return code.splat(code.load(record, COLS * m + 16 * half + 4 * j, I32, 4), wide)

    start = code.const(wide, 0)
    removed = form.offset if form.bits != 8 or code.isa.dot == "vpdpbusd" else 0
    if removed:
        summed = code.load(record, (COLS + 12 + 4 * half) * rows + 4 * m, I32, 4)
        start = code.splat(b.mul(summed, I32(-removed)), wide)
    found = _DOTS[code.isa.dot](code, form, groups[4 * half : 4 * half + 4], quad, start)
    return b.mul(steps[half], found) if steps else found


def _vpdpbusd(
    code: Code, form: Form, groups: list[Value], quad: Callable[[int], Value], start: Value
) -> Value:
    wide = start.type
    name = f"llvm.x86.avx512.vpdpbusd.{wide.count * 32}"
    for j, group in enumerate(groups):
        x = code.b.bitcast(quad(j), vec(I8, 4 * wide.count))
        start = code.call(name, wide, start, group, x)
    return start


def _vpmaddubsw(
    code: Code, form: Form, groups: list[Value], quad: Callable[[int], Value], start: Value
) -> Value:
    wide, pairs, bytes_ = start.type, vec(I16, 16), vec(I8, 32)
    ones = code.const(pairs, 1)

    def pair(a: Value, b: Value) -> Value:
        return code.call("llvm.x86.avx2.pmadd.ub.sw", pairs, a, b)

    def widen(x: Value) -> Value:
        return code.call("llvm.x86.avx2.pmadd.wd", wide, x, ones)

    if form.bits == 8:
        flip = code.const(bytes_, -128)
        for j, group in enumerate(groups):  # |w| is unsigned; its sign moves to x
            w = code.b.xor(group, flip)
            size = code.call("llvm.abs.v32i8", bytes_, w, ir.IntType(1)(0))
            x = code.call("llvm.x86.avx2.psign.b", bytes_, code.b.bitcast(quad(j), bytes_), w)
            start = code.b.add(start, widen(pair(size, x)))
        return start
    chains = [pair(groups[j], code.b.bitcast(quad(j), bytes_)) for j in range(2)]
    for j in range(2, len(groups)):
        x = code.b.bitcast(quad(j), bytes_)
        chains[j % 2] = code.b.add(chains[j % 2], pair(groups[j], x))
    if form.bits == 4:  # eight products of at most 15 * 127 fit int16
        return code.b.add(start, widen(code.b.add(*chains)))
    # four products of at most 63 * 127 fit int16
    return code.b.add(start, code.b.add(*(widen(chain) for chain in chains)))


def _sdot(
    code: Code, form: Form, groups: list[Value], quad: Callable[[int], Value], start: Value
) -> Value:
    bytes_ = vec(I8, 4 * start.type.count)
    for j, group in enumerate(groups):
        w = code.b.xor(group, code.const(bytes_, -128)) if form.bits == 8 else group
        x = code.b.bitcast(quad(j), bytes_)
        start = code.call("llvm.aarch64.neon.sdot.v4i32.v16i8", start.type, start, w, x)
    return start


def _plain(
    code: Code, form: Form, groups: list[Value], quad: Callable[[int], Value], start: Value
) -> Value:
    """int16 lanes, two a row: what every vector unit multiplies."""
    wide = start.type
    b, pairs = code.b, vec(I16, 2 * wide.count)
    eight, sixteen = code.const(pairs, 8), code.const(wide, 16)

    def fold(x: Value) -> Value:
        lanes = b.bitcast(x, wide)
        return b.add(b.ashr(b.shl(lanes, sixteen), sixteen), b.ashr(lanes, sixteen))

    small = code.const(pairs, 0)
    for j, group in enumerate(groups):
        w = b.xor(group, code.const(group.type, -128)) if form.bits == 8 else group
        w, x = b.bitcast(w, pairs), b.bitcast(quad(j), pairs)
        odd = b.mul(b.ashr(w, eight), b.ashr(x, eight))
        even = b.mul(b.ashr(b.shl(w, eight), eight), b.ashr(b.shl(x, eight), eight))
        if form.bits == 4:  # eight products of at most 15 * 127 fit int16
            small = b.add(small, b.add(odd, even))
        else:
            start = b.add(start, b.add(fold(odd), fold(even)))
    return b.add(start, fold(small)) if form.bits == 4 else start


_DOTS = {"vpdpbusd": _vpdpbusd, "vpmaddubsw": _vpmaddubsw, "sdot": _sdot, "plain": _plain}
