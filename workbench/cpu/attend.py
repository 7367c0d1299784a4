"""Attention over pages read in place: K as [D, S] and V as [S, D] for each page and KV head.

A page is read once for several KV heads, which lie side by side in it: memory gives runs of 6 KB
faster than such of 2. Heads that share a KV head are taken up to four at a time. Every score is one
chain over the dimensions, every output one chain over the entries in their order: neither depends
on where pages lie, on page borders, or on who else is in the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from workbench.cpu.emit import F16, F32, I32, I64, VF, Code, Kernel, Value, vec
from workbench.cpu.rows import STEP, exp

GROUP = 4  # most query heads at a time
MOST = 16  # query heads that are taken along a walk over pages, where a KV head has no more
LINE = 64  # bytes of a cache line
# Pages that the prefetch runs ahead, and into which level: the first holds fewer lines under way
# than memory takes to answer (on a Zen 4: 13 GB/s of scattered pages, 20 by way of the second).
AHEAD, LEVEL = 3, 2


def together(group: int) -> int:
    """Query heads that are taken along a walk over pages, `group` for each KV head."""
    return max(MOST // group, 1) * group


def _widths(code: Code) -> int:
    """Floats of V that are summed at a time: as many as the registers hold for four heads."""
    return 64 if code.isa.width == 64 else 32


def _load_kv(code: Code, base: Value, offset: Value, half: bool) -> Value:
    return (
        code.to_float(code.load(base, offset, vec(F16, 16)))
        if half
        else code.load(base, offset, VF)
    )


def scores(heads: int, half: bool) -> Kernel:
    """out[h, g, e - first] = q[h, g] . k[h, e] for entries e in [first, stop), pages by the table.

    `pool` is the address of the layer's K at the first of `kv` heads, which lie `head_bytes` apart;
    their queries `q_step` bytes and their scores `out_step`; `v_pool`, its like for V, is what the
    last pages' prefetch goes on to. Lanes behind a page's last entry are
    written too, up to fifteen, and hold anything: the next page overwrites them, or the softmax
    leaves them out. So pages of any size are served.
    """

    def body(
        code: Code, q: Value, q_step: Value, pool: Value, v_pool: Value, head_bytes: Value,
        kv: Value, page_bytes: Value, table: Value, slots: Value, first: Value, stop: Value,
        dim: Value, out: Value, stride: Value, out_step: Value,
    ) -> None:  # fmt: skip
        b = code.b
        with (
            _pages(code, pool, v_pool, page_bytes, table, slots, first, stop) as page,
            code.loop(I64(0), kv) as h,
            code.loop(page.start, page.stop, 16) as e,
        ):
            lanes = _sixteen(
                code, heads, half, code.at(q, b.mul(h, q_step)), dim, slots, page,
                b.mul(h, head_bytes), e,
            )  # fmt: skip
            place = b.add(b.mul(b.sub(e, first), I64(4)), b.mul(h, out_step))
            for g, total in enumerate(lanes):
                code.store(total, out, b.add(place, b.mul(stride, I64(g))))

    return Kernel(f"scores_x{heads}_{'f16' if half else 'f32'}", "pippiiipiiiipii", body)


def _sixteen(
    code: Code, heads: int, half: bool, q: Value, dim: Value, slots: Value, page: "_Page",
    head: Value, e: Value,
) -> list[Value]:  # fmt: skip
    """Scores of sixteen neighbouring slots for each query of the KV head `head` bytes behind."""
    b, size = code.b, 2 if half else 4
    chains = 2 if code.isa.width == 64 else 1  # so many sums in flight that adding never waits
    sums = [[code.var(VF, code.const(VF, 0.0)) for _ in range(chains)] for _ in range(heads)]
    line = b.mul(slots, I64(size))
    within = b.add(head, b.mul(b.sub(e, page.border), I64(size)))
    keys, later = code.at(page.here, within), code.at(page.later, within)
    with code.loop(I64(0), dim, 8) as d:
        for ahead in range(0, 8 * 16 * size, LINE):
            code.prefetch(later, b.add(b.mul(d, line), I64(ahead)), LEVEL)
        for unrolled in range(8):
            dd = b.add(d, I64(unrolled))
            key = _load_kv(code, keys, b.mul(dd, line), half)
            for g in range(heads):
                at = b.add(b.mul(dim, I64(4 * g)), b.mul(dd, I64(4)))
                total = sums[g][unrolled % chains]
                total.set(code.fma(key, code.splat(code.load(q, at, F32), VF), total.get()))
    return [b.fadd(*(t.get() for t in s)) if chains == 2 else s[0].get() for s in sums]


class _Page:
    """The page at hand in a walk over entries: `start` to `stop`, `border` its first entry."""

    def __init__(self, here: Value, later: Value, border: Value, start: Value, stop: Value) -> None:
        self.here, self.later, self.border, self.start, self.stop = here, later, border, start, stop


@contextmanager
def _pages(
    code: Code, pool: Value, behind: Value, page_bytes: Value, table: Value, slots: Value,
    first: Value, stop: Value,
) -> Iterator[_Page]:  # fmt: skip
    """Walk the pages that hold entries [first, stop); the prefetch goes on to the first pages of
    the pool `behind`."""
    b = code.b
    begin, end = b.sdiv(first, slots), b.sdiv(b.add(stop, b.sub(slots, I64(1))), slots)
    last = b.sub(end, I64(1))

    def place(memory: Value, number: Value) -> Value:
        return code.at(memory, b.mul(code.load(table, b.mul(number, I64(8)), I64), page_bytes))

    def smaller(x: Value, y: Value) -> Value:
        return b.select(b.icmp_signed("<", x, y), x, y)

    with code.loop(begin, end) as number:
        border = b.mul(number, slots)
        after = b.add(number, I64(AHEAD))
        inside = b.icmp_signed("<", after, end)
        past = smaller(b.add(begin, b.sub(after, end)), last)
        later = place(b.select(inside, pool, behind), b.select(inside, after, past))
        start = b.select(b.icmp_signed("<", border, first), first, border)
        yield _Page(place(pool, number), later, border, start, smaller(b.add(border, slots), stop))


def _softmax(code: Code, s: Value, n: Value) -> Value:
    """s[0:n] = exp(s - max), in place; returns 1 / sum. Lanes behind n become 0."""
    b = code.b
    lowest = code.const(VF, -3.0e38)
    limit = code.splat(n, vec(I64, 16))

    def part(t: Value) -> Value:
        inside = b.icmp_signed("<", b.add(code.splat(t, vec(I64, 16)), code.lanes()), limit)
        return b.select(inside, code.load(s, b.mul(t, I64(4)), VF), lowest)

    largest = code.var(VF, lowest)
    with code.loop(I64(0), n, 16) as t:
        largest.set(code.larger(part(t), largest.get()))
    top = code.splat(code.max_lanes(largest.get()), VF)
    total = code.var(VF, code.const(VF, 0.0))
    with code.loop(I64(0), n, 16) as t:
        inside = b.icmp_signed("<", b.add(code.splat(t, vec(I64, 16)), code.lanes()), limit)
        value = exp(code, b.fsub(code.load(s, b.mul(t, I64(4)), VF), top))
        value = b.select(inside, value, code.const(VF, 0.0))
        total.set(b.fadd(total.get(), value))
        code.store(value, s, b.mul(t, I64(4)))
    return b.fdiv(code.const(F32, 1.0), code.add_lanes(total.get()))


def values(heads: int, half: bool) -> Kernel:
    """out[h, g, :] += sum over entries e in [first, stop) of p[h, g, e - first] * v[h, e], pages by
    the table.

    `pool` is the address of the layer's V at the first of `kv` heads, which lie `head_bytes` apart;
    their shares `p_step` bytes and their sums `out_step`; `page_bytes` is the distance of two
    pages.
    """

    def body(
        code: Code, p: Value, stride: Value, p_step: Value, pool: Value, head_bytes: Value,
        kv: Value, page_bytes: Value, table: Value, slots: Value, first: Value, stop: Value,
        dim: Value, out: Value, out_step: Value,
    ) -> None:  # fmt: skip
        b = code.b
        wide = _widths(code)
        whole = b.mul(b.sdiv(dim, I64(wide)), I64(wide))
        with (
            _pages(code, pool, pool, page_bytes, table, slots, first, stop) as page,
            code.loop(I64(0), kv) as h,
        ):
            weights = code.at(p, b.sub(b.mul(h, p_step), b.mul(first, I64(4))))
            sums = code.at(out, b.mul(h, out_step))
            head = b.mul(h, head_bytes)
            for columns, start, end in ((wide, I64(0), whole), (16, whole, dim)):
                with code.loop(start, end, columns) as d:
                    _columns(code, heads, half, columns, d, weights, stride, page, head, dim, sums)

    return Kernel(f"values_x{heads}_{'f16' if half else 'f32'}", "piipiiipiiiipi", body)


def _columns(
    code: Code, heads: int, half: bool, wide: int, d: Value, p: Value, stride: Value,
    page: "_Page", head: Value, dim: Value, out: Value,
) -> None:  # fmt: skip
    """`wide` columns of the output from d on, for all queries of a KV head, kept in registers over
    the page's entries; p and out are the head's."""
    b, size = code.b, 2 if half else 4
    parts = range(wide // 16)

    def place(g: int, n: int) -> Value:
        return b.mul(b.add(b.add(b.mul(dim, I64(g)), d), I64(16 * n)), I64(4))

    sums = [[code.var(VF, code.load(out, place(g, n), VF)) for n in parts] for g in range(heads)]
    line = b.mul(dim, I64(size))
    with code.loop(page.start, page.stop) as e:
        at = b.add(b.mul(b.sub(e, page.border), line), head)
        with b.if_then(b.icmp_signed("==", d, I64(0))), code.loop(I64(0), line, LINE) as ahead:
            code.prefetch(page.later, b.add(at, ahead), LEVEL)
        row = code.at(page.here, b.add(at, b.mul(d, I64(size))))
        v = [_load_kv(code, row, I64(16 * n * size), half) for n in parts]
        weight = code.at(p, b.mul(e, I64(4)))
        for g in range(heads):
            each = code.splat(code.load(weight, b.mul(stride, I64(g)), F32), VF)
            for n in parts:
                sums[g][n].set(code.fma(v[n], each, sums[g][n].get()))
    for g in range(heads):
        for n in parts:
            code.store(sums[g][n].get(), out, place(g, n))


def _scale(code: Code, x: Value, by: Value, n: Value) -> None:
    """x *= by, n values."""
    factor = code.splat(by, VF)
    with code.loop(I64(0), code.b.mul(n, I64(4)), STEP) as at:
        code.store(code.b.fmul(code.load(x, at, VF), factor), x, at)


def store_kv(half: bool) -> Kernel:
    """Put one head's k and v [dim] into slot `slot` of a page: k down a column, v along a row."""
    size = 2 if half else 4

    def body(
        code: Code, k: Value, v: Value, k_page: Value, v_page: Value, slot: Value, slots: Value,
        dim: Value,
    ) -> None:  # fmt: skip
        b = code.b

        def stored(x: Value) -> Value:
            return code.to_half(x) if half else x

        column = code.at(k_page, b.mul(slot, I64(size)))
        row = code.at(v_page, b.mul(b.mul(slot, dim), I64(size)))
        line = b.mul(slots, I64(size))
        with code.loop(I64(0), dim, 16) as d:
            keys = stored(code.load(k, b.mul(d, I64(4)), VF))
            for n in range(16):
                one = b.extract_element(keys, I32(n))
                code.store(one, column, b.mul(b.add(d, I64(n)), line))
            code.store(stored(code.load(v, b.mul(d, I64(4)), VF)), row, b.mul(d, I64(size)))

    return Kernel(f"store_kv_{'f16' if half else 'f32'}", "ppppiii", body)


SOFTMAX = Kernel("softmax", "pi", _softmax, "f")
SCALE = Kernel("scale", "pfi", _scale)
