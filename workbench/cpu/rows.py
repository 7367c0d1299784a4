"""Kernels over one token's row: norm, int8 quantisation, rotation, gating, sums.

All work on sixteen floats at a time; lengths are multiples of 16 (the buffers are padded so).
"""

from llvmlite import ir

from workbench.cpu.dots import COLS, RECORD, ROWS, Form
from workbench.cpu.emit import F16, F32, I8, I16, I32, I64, VF, Code, Kernel, Value, vec

STEP = 4 * 16  # bytes of a working vector


def _rms_norm(
    code: Code, x: Value, weight: Value, out: Value, n: Value, inverse_n: Value, eps: Value
) -> None:
    """out = x / rms(x) * weight, over n values."""
    total = code.var(VF, code.const(VF, 0.0))
    end = code.b.mul(n, I64(4))
    with code.loop(I64(0), end, STEP) as at:
        part = code.load(x, at, VF)
        total.set(code.fma(part, part, total.get()))
    mean = code.b.fmul(code.add_lanes(total.get()), inverse_n)
    root = code.unary("sqrt", code.b.fadd(mean, eps))
    scale = code.splat(code.b.fdiv(code.const(F32, 1.0), root), VF)
    with code.loop(I64(0), end, STEP) as at:
        part = code.b.fmul(code.load(x, at, VF), scale)
        code.store(code.b.fmul(part, code.load(weight, at, VF)), out, at)


def _quantise(code: Code, x: Value, blocks: Value, panel: Value, row: Value, rows: Value) -> None:
    """Write x, 32 values a block, as row `row` of a panel of `rows`: int8 with a scale for each
    sixteen."""
    b = code.b
    record = b.mul(rows, I64(RECORD))
    beside = b.add(b.mul(rows, I64(COLS)), b.mul(row, I64(4)))
    gap = b.mul(rows, I64(4))
    with code.loop(I64(0), blocks) as block:
        at = code.at(panel, b.mul(block, record))
        from_ = code.at(x, b.mul(block, I64(4 * COLS)))
        values, tail = code.at(at, b.mul(row, I64(COLS))), code.at(at, beside)
        stands_for = code.const(F32, 0.0)
        for half in range(2):
            part = code.load(from_, half * STEP, VF)
            largest = _poisoned(code, part, code.max_lanes(code.unary("fabs", part)))
            scale = b.fmul(largest, code.const(F32, 1 / 127))
            inverse = b.fdiv(code.const(F32, 127.0), largest)
            some = b.fcmp_ordered(">", largest, code.const(F32, 0.0))
            inverse = code.splat(b.select(some, inverse, code.const(F32, 0.0)), VF)
            whole = _rounded(code, part, inverse)
            total = code.call("llvm.vector.reduce.add.v16i32", I32, whole)
            code.store(b.trunc(whole, vec(I8, 16)), values, 16 * half)
            code.store(scale, tail, b.mul(gap, I64(half)))
            code.store(total, tail, b.mul(gap, I64(3 + half)))
            stands_for = code.fma(b.sitofp(total, F32), scale, stands_for)
        code.store(stands_for, tail, b.mul(gap, I64(2)))


def _poisoned(code: Code, values: Value, largest: Value) -> Value:
    """NaN for a block that holds one, so that a wrong read stays visible behind the int8 step."""
    nan = code.b.fcmp_unordered("uno", values, values)
    any_ = code.call("llvm.vector.reduce.or.v16i1", nan.type.element, nan)
    return code.b.select(any_, code.const(F32, float("nan")), largest)


def _rounded(code: Code, x: Value, inverse: Value) -> Value:
    """Nearest int32 of x * inverse. Adding 1.5 * 2**23 rounds in any unit, NaN included."""
    magic = code.const(VF, 12582912.0)
    near = code.b.fadd(code.b.fmul(x, inverse), magic)
    return code.b.sub(code.b.bitcast(near, vec(I32, 16)), code.const(vec(I32, 16), 0x4B400000))


def _rope(
    code: Code, x: Value, out: Value, half: Value, cos: Value, sin: Value, scale: Value
) -> None:
    """out = the head x turned, times scale; pairs are (i, i + half), `half` a multiple of 8."""
    wide, b = vec(F32, 8), code.b
    far = b.mul(half, I64(4))
    by = code.splat(scale, wide)
    with code.loop(I64(0), far, 32) as at:
        c = b.fmul(code.load(cos, at, wide), by)
        s = b.fmul(code.load(sin, at, wide), by)
        other = b.add(at, far)
        left, right = code.load(x, at, wide), code.load(x, other, wide)
        code.store(code.fma(left, c, b.fneg(b.fmul(right, s))), out, at)
        code.store(code.fma(right, c, b.fmul(left, s)), out, other)


def _silu_mul(code: Code, gate: Value, up: Value, out: Value, stride: Value, rows: Value) -> None:
    """Rows of sixteen: out[m] = silu(gate[m]) * up[m]; gate and up are packed."""
    one = code.const(VF, 1.0)
    with code.loop(I64(0), rows) as m:
        at = code.b.mul(m, I64(STEP))
        g = code.load(gate, at, VF)
        bell = code.b.fadd(one, exp(code, code.b.fneg(g)))
        value = code.b.fmul(code.b.fdiv(g, bell), code.load(up, at, VF))
        code.store(value, out, code.b.mul(m, stride))


def exp(code: Code, x: Value) -> Value:
    """e**x of sixteen floats, to about one unit in the last place; NaN stays NaN.

    2**n by exponent bits, the rest of at most half a bit by a polynomial of degree six."""
    b = code.b
    low, high = code.const(VF, -87.0), code.const(VF, 88.0)
    # comparisons written so that NaN passes through
    x = b.select(b.fcmp_ordered("<", x, low), low, x)
    x = b.select(b.fcmp_ordered(">", x, high), high, x)
    magic = code.const(VF, 12582912.0)
    shifted = code.fma(x, code.const(VF, 1.4426950408889634), magic)
    whole = b.fsub(shifted, magic)
    rest = code.fma(whole, code.const(VF, -0.693359375), x)
    rest = code.fma(whole, code.const(VF, 2.12194440e-4), rest)
    value = code.const(VF, 1 / 720)
    for term in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        value = code.fma(value, rest, code.const(VF, term))
    words = vec(I32, 16)
    power = b.shl(b.bitcast(shifted, words), code.const(words, 23))
    return b.bitcast(b.add(b.bitcast(value, words), power), VF)


def _axpy(code: Code, x: Value, scale: Value, out: Value, n: Value) -> None:
    """out += scale * x, n values."""
    by = code.splat(scale, VF)
    with code.loop(I64(0), code.b.mul(n, I64(4)), STEP) as at:
        code.store(code.fma(code.load(x, at, VF), by, code.load(out, at, VF)), out, at)


def _copy(code: Code, x: Value, out: Value, n: Value) -> None:
    with code.loop(I64(0), code.b.mul(n, I64(4)), STEP) as at:
        code.store(code.load(x, at, VF), out, at)


def _zero(code: Code, out: Value, n: Value) -> None:
    with code.loop(I64(0), code.b.mul(n, I64(4)), STEP) as at:
        code.store(code.const(VF, 0.0), out, at)


def _bf16(code: Code, at: Value, offset: Value | int) -> Value:
    bits = code.b.zext(code.load(at, offset, vec(I16, 16)), vec(I32, 16))
    return code.b.bitcast(code.b.shl(bits, code.const(bits.type, 16)), VF)


def _shrink(code: Code, x: Value, n: Value, a: Value, rank: Value, out: Value) -> None:
    """out[0:rank] = x[0:n] . a, with `a` bf16 [rank / 16, n, 16]; four chains, folded in fixed
    order."""
    b = code.b
    with code.loop(I64(0), rank, 16) as first:
        part = code.at(a, b.mul(b.mul(first, n), I64(2)))
        sums = [code.var(VF, code.const(VF, 0.0)) for _ in range(4)]
        with code.loop(I64(0), n, 4) as k:
            line = code.at(part, b.mul(k, I64(32)))
            from_ = code.at(x, b.mul(k, I64(4)))
            for j, total in enumerate(sums):
                each = code.splat(code.load(from_, 4 * j, F32), VF)
                total.set(code.fma(each, _bf16(code, line, 32 * j), total.get()))
        halves = [b.fadd(sums[j].get(), sums[j + 2].get()) for j in range(2)]
        code.store(b.fadd(*halves), out, b.mul(first, I64(4)))


def _expand(
    code: Code, small: Value, tile: Value, first: Value, stop: Value, scale: Value, out: Value
) -> None:
    """out[0:16] += scale * small[first:stop] . tile, with `tile` bf16
    [stop - first, 16]; both are multiples of four."""
    b = code.b
    sums = [code.var(VF, code.const(VF, 0.0)) for _ in range(4)]
    with code.loop(first, stop, 4) as r:
        line = b.mul(b.sub(r, first), I64(32))
        from_ = code.at(small, b.mul(r, I64(4)))
        code.prefetch(tile, b.add(line, I64(1024)), 1)
        code.prefetch(tile, b.add(line, I64(1088)), 1)
        for j, total in enumerate(sums):
            each = code.splat(code.load(from_, 4 * j, F32), VF)
            row = _bf16(code, tile, b.add(line, I64(32 * j)))
            total.set(code.fma(each, row, total.get()))
    halves = [b.fadd(sums[j].get(), sums[j + 2].get()) for j in range(2)]
    by = code.splat(scale, VF)
    code.store(code.fma(b.fadd(*halves), by, code.load(out, 0, VF)), out, 0)


def embed(form: Form) -> Kernel:
    def body(code: Code, matrix: Value, blocks: Value, row: Value, out: Value) -> None:
        """out = row `row` of a packed matrix as floats."""
        b = code.b
        tile = code.at(matrix, b.mul(b.mul(b.sdiv(row, I64(ROWS)), blocks), I64(form.block)))
        lane = b.srem(row, I64(ROWS))
        with code.loop(I64(0), blocks) as block:
            at = code.at(tile, b.mul(block, I64(form.block)))
            values = code.at(out, b.mul(block, I64(4 * COLS)))
            for first in (0, 16):
                scale, minimum = _one_scale(code, form, at, lane, first)
                raw = _row_bytes(code, form, at, lane, first)
                whole = b.sub(b.zext(raw, vec(I32, 16)), code.const(vec(I32, 16), form.offset))
                floats = b.fmul(b.sitofp(whole, VF), code.splat(scale, VF))
                code.store(b.fadd(floats, code.splat(minimum, VF)), values, 4 * first)

    return Kernel(f"embed_{form.name}", "piip", body)


def _one_scale(code: Code, form: Form, at: Value, lane: Value, first: int) -> tuple[Value, Value]:
    """Scale and minimum of one row of a block, for the sixteen columns from `first` on."""
    b = code.b
    halves = code.at(at, b.add(I64(form.quants), b.mul(lane, I64(2))))
    fine = code.at(at, b.add(I64(form.quants + ROWS * form.halves), lane))
    scale = _one_half(code, halves, 0)
    if not form.minima:
        if form.fine:
            scale = b.fmul(scale, b.sitofp(code.load(fine, first, I8), F32))
        return scale, code.const(F32, 0.0)
    minimum = _one_half(code, halves, 2 * ROWS)
    if form.fine:
        scale = b.fmul(scale, b.uitofp(code.load(fine, 0, I8), F32))
        minimum = b.fmul(minimum, b.uitofp(code.load(fine, ROWS, I8), F32))
    return scale, minimum


def _one_half(code: Code, at: Value, offset: int) -> Value:
    one = code.load(at, offset, vec(F16, 1))
    wide = code.b.shuffle_vector(one, one, code.const(vec(I32, 16), 0))
    return code.b.extract_element(code.to_float(wide), I32(0))


def _row_bytes(code: Code, form: Form, at: Value, lane: Value, first: int) -> Value:
    """Sixteen unsigned values of one row of a block, columns from `first` on."""
    b = code.b
    quads = []
    for j in range(first // 4, first // 4 + 4):
        group = j if form.bits == 8 else j // 2
        word = code.load(at, b.add(I64(64 * group), b.mul(lane, I64(4))), I32)
        if form.bits != 8:
            word = b.and_(b.lshr(word, I32(4 * (j % 2))), I32(0x0F0F0F0F))
        if form.bits == 6:
            place = I64(ROWS * COLS // 2 + 64 * (j // 4))
            high = code.load(at, b.add(place, b.mul(lane, I64(4))), I32)
            high = b.and_(b.lshr(high, I32(2 * (j % 4))), I32(0x03030303))
            word = b.or_(word, b.shl(high, I32(4)))
        quads.append(word)
    words = ir.Constant(vec(I32, 4), ir.Undefined)
    for n, word in enumerate(quads):
        words = b.insert_element(words, word, I32(n))
    return b.bitcast(words, vec(I8, 16))


def _route(code: Code, x: Value, router: Value, n: Value, count: Value, out: Value) -> None:
    """out[e] = x[0:n] . router[e, 0:n] for e < count; n is a multiple of 32."""
    b = code.b
    with code.loop(I64(0), count) as e:
        line = code.at(router, b.mul(b.mul(e, n), I64(4)))
        sums = [code.var(VF, code.const(VF, 0.0)) for _ in range(2)]
        with code.loop(I64(0), b.mul(n, I64(4)), 2 * STEP) as at:
            for j, total in enumerate(sums):
                place = b.add(at, I64(j * STEP))
                total.set(
                    code.fma(code.load(x, place, VF), code.load(line, place, VF), total.get())
                )
        whole = code.add_lanes(b.fadd(*(total.get() for total in sums)))
        code.store(whole, out, b.mul(e, I64(4)))


def _clip(code: Code, x: Value, n: Value, limit: Value) -> None:
    """x into [-limit, limit], n values; NaN stays NaN."""
    b, high = code.b, code.splat(limit, VF)
    low = b.fneg(high)
    with code.loop(I64(0), b.mul(n, I64(4)), STEP) as at:
        part = code.load(x, at, VF)
        part = b.select(b.fcmp_ordered(">", part, high), high, part)
        code.store(b.select(b.fcmp_ordered("<", part, low), low, part), x, at)


RMS_NORM = Kernel("rms_norm", "pppiff", _rms_norm)
QUANTISE = Kernel("quantise", "pipii", _quantise)
ROPE = Kernel("rope", "ppippf", _rope)
SILU_MUL = Kernel("silu_mul", "pppii", _silu_mul)
AXPY = Kernel("axpy", "pfpi", _axpy)
COPY = Kernel("copy", "ppi", _copy)
ZERO = Kernel("zero", "pi", _zero)
SHRINK = Kernel("shrink", "pipip", _shrink)
EXPAND = Kernel("expand", "ppiifp", _expand)
ROUTE = Kernel("route", "ppiip", _route)
CLIP = Kernel("clip", "pif", _clip)
