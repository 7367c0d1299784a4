"""The whole step as numba sees it: phases over tokens, tiles and heads, with barriers between them.

Factories return functions bound to one instruction set's kernels. Work is cut by thread number alone and
no sum is ever cut, so the result does not depend on the number of threads. A token belongs to one thread
for everything that concerns its row alone; a tile of sixteen outputs to one thread for all tokens.
"""

from types import SimpleNamespace
from typing import Any

from numba import cfunc, njit
from numba.core import types

from workbench.cpu import attend, dispatch, dots, memory, rows
from workbench.cpu import fields as f
from workbench.cpu.isa import Isa
from workbench.cpu.memory import put_word, real, word

PANEL, RECORD, ROWS, COLS, GROUP = dots.PANEL, dots.RECORD, dots.ROWS, dots.COLS, attend.GROUP
compiled: Any = njit(error_model="numpy", boundscheck=False)
SIGNATURE = types.int64(types.int64, types.int64, types.int64, types.int64)
PLAIN = -1  # in place of a projection's number: no adapter applies


def kernels(isa: Isa, half: bool) -> SimpleNamespace:
    """The set's kernels, callable from numba; `half`: the pool holds halves, else floats."""
    named = {
        "rms_norm": rows.RMS_NORM, "quantise": rows.QUANTISE, "rope": rows.ROPE,
        "silu_mul": rows.SILU_MUL, "axpy": rows.AXPY, "copy": rows.COPY, "zero": rows.ZERO,
        "shrink": rows.SHRINK, "expand": rows.EXPAND, "softmax": attend.SOFTMAX,
        "scale": attend.SCALE, "barrier": memory.BARRIER, "multiply": dispatch.MULTIPLY,
        "embed": dispatch.EMBED, "scores": dispatch.scores(half), "values": dispatch.values(half),
        "store_kv": attend.store_kv(half),
    }  # fmt: skip
    return SimpleNamespace(**{name: kernel.callable(isa) for name, kernel in named.items()})


def make(isa: Isa, half: bool) -> Any:
    """The step for one set: a numba C callback of (plan address, thread, first layer, last + 1).

    The call with first 0 makes the inputs, the one whose last is the plan's RUN the logits. Returns 0, or
    1 when the stop flag was seen at the start of a layer.
    """
    k = kernels(isa, half)
    k.meet = _meet(k)
    k.prepare, k.tile = _prepare(k), _tile(k)
    k.linear = _linear(k)
    begin, attention, mlp, events, finish = (
        _begin(k),
        _attention(k),
        _mlp(k),
        _events(k),
        _finish(k),
    )
    meet = k.meet

    def step(plan: int, thread: int, first: int, last: int) -> int:
        if first == 0:
            begin(plan, thread)
        for layer in range(first, last):
            if thread == 0 and word(word(plan, f.STOP_FLAG), 0) != 0:
                put_word(plan, f.STOPPED, 1)
            meet(plan)
            if word(plan, f.STOPPED) != 0:
                return 1
            at = word(plan, f.LAYERS) + layer * f.LAYER_WORDS * 8
            attention(plan, at, layer, thread)
            mlp(plan, at, layer, thread)
            events(plan, layer, thread)
        if last == word(plan, f.RUN):
            meet(plan)
            finish(plan, thread)
        return 0

    return cfunc(SIGNATURE, error_model="numpy", boundscheck=False)(step)


def _meet(k: SimpleNamespace) -> Any:
    barrier = k.barrier

    @compiled
    def meet(plan):  # type: ignore[no-untyped-def]
        """Wait for the other threads of the step."""
        barrier(word(plan, f.BARRIER), word(plan, f.THREADS), word(plan, f.YIELDER))

    return meet


def _begin(k: SimpleNamespace) -> Any:
    copy, embed = k.copy, k.embed

    @compiled
    def begin(plan, thread):  # type: ignore[no-untyped-def]
        """Input rows: of the embedding, or a vector that was handed in."""
        tokens, threads, width = word(plan, f.TOKENS), word(plan, f.THREADS), word(plan, f.WIDTH)
        matrix = word(plan, f.EMBEDDING)
        for t in range(tokens * thread // threads, tokens * (thread + 1) // threads):
            row = word(plan, f.X) + t * width * 4
            vector = word(word(plan, f.VECTOR_OF), t)
            if vector != 0:
                copy(vector, row, width)
            else:
                token = word(word(plan, f.TOKEN_IDS), t)
                embed(
                    word(matrix, f.FORM), word(matrix, f.DATA), word(matrix, f.BLOCKS), token, row
                )

    return begin


def _prepare(k: SimpleNamespace) -> Any:
    rms_norm, quantise, shrink = k.rms_norm, k.quantise, k.shrink

    @compiled
    def prepare(plan, layer, thread, source, n, norm, projection):  # type: ignore[no-untyped-def]
        """Rows of `source` [T, n], normed where `norm` names a weight, into the panels; and through the
        adapters' A where tokens have one."""
        tokens, threads = word(plan, f.TOKENS), word(plan, f.THREADS)
        reals = word(plan, f.REALS)
        for t in range(tokens * thread // threads, tokens * (thread + 1) // threads):
            row = source + t * n * 4
            if norm != 0:
                normed = word(plan, f.NORMED) + t * n * 4
                rms_norm(row, norm, normed, n, real(reals, f.INVERSE_WIDTH), real(reals, f.EPS))
                row = normed
            group = t // PANEL * PANEL
            panel = word(plan, f.PANEL) + group * RECORD * (n // COLS)
            quantise(row, n // COLS, panel, t - group, min(PANEL, tokens - group))
            adapter = word(word(plan, f.ADAPTER_OF), t)
            if adapter != 0:
                pair = adapter + (layer * 4 + projection) * f.ADAPTER_WORDS * 8
                small = word(plan, f.SMALL) + t * word(plan, f.SMALL_BYTES)
                shrink(row, n, word(pair, f.ADAPTER_A), word(pair, f.ADAPTER_RANK), small)

    return prepare


def _tile(k: SimpleNamespace) -> Any:
    multiply, expand = k.multiply, k.expand

    @compiled
    def tile(plan, layer, matrix, projection, number, first, count, out, stride, add):  # type: ignore[no-untyped-def]
        """Tile `number` for the `count` tokens of the panel that starts at token `first`."""
        blocks = word(matrix, f.BLOCKS)
        weights = word(matrix, f.DATA) + number * word(matrix, f.TILE_BYTES)
        panel = word(plan, f.PANEL) + first * RECORD * blocks
        bias = word(matrix, f.BIAS)
        if bias != 0:
            bias += number * ROWS * 4
        else:
            bias = word(plan, f.ZEROS)
        variant = word(matrix, f.FORM) * 16 + count
        multiply(variant, weights, blocks, panel, bias, out, stride, add)
        if projection == PLAIN or word(plan, f.ADAPTED) == 0:
            return
        for m in range(count):
            adapter = word(word(plan, f.ADAPTER_OF), first + m)
            if adapter != 0:
                pair = adapter + (layer * 4 + projection) * f.ADAPTER_WORDS * 8
                if word(pair, f.ADAPTER_RANK) != 0:
                    part = word(pair, f.ADAPTER_TILES) + number * f.TILE_WORDS * 8
                    small = word(plan, f.SMALL) + (first + m) * word(plan, f.SMALL_BYTES)
                    by = real(word(plan, f.ADAPTER_SCALE), first + m)
                    expand(small, word(part, f.TILE_DATA), word(part, f.TILE_FIRST),
                           word(part, f.TILE_STOP), by, out + m * stride)  # fmt: skip

    return tile


def _linear(k: SimpleNamespace) -> Any:
    tile = k.tile

    @compiled
    def linear(plan, layer, thread, matrix, projection, tokens, out, stride, add):  # type: ignore[no-untyped-def]
        """out [T, stride bytes] = panels . matrix, or += where `add`."""
        tiles, threads = word(matrix, f.TILES), word(plan, f.THREADS)
        for number in range(tiles * thread // threads, tiles * (thread + 1) // threads):
            for first in range(0, tokens, PANEL):
                place = out + first * stride + number * ROWS * 4
                count = min(PANEL, tokens - first)
                tile(plan, layer, matrix, projection, number, first, count, place, stride, add)

    return linear


def _store(k: SimpleNamespace) -> Any:
    rms_norm, rope, store_kv = k.rms_norm, k.rope, k.store_kv

    @compiled
    def store(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        """Norms of q and k; k turned to its position; k and v into their slots."""
        tokens, threads = word(plan, f.TOKENS), word(plan, f.THREADS)
        heads, kv, dim = word(plan, f.HEADS), word(plan, f.KV_HEADS), word(plan, f.DIM)
        slots, reals, norms = word(plan, f.SLOTS), word(plan, f.REALS), word(plan, f.QK_NORM)
        eps = real(reals, f.EPS)
        turned = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        base = layer * word(plan, f.LAYER_BYTES)
        for t in range(tokens * thread // threads, tokens * (thread + 1) // threads):
            q = word(plan, f.QKV_OUT) + t * (heads + 2 * kv) * dim * 4
            keys = q + heads * dim * 4
            if norms == f.PER_HEAD:
                for h in range(heads + kv):
                    weight = word(at, f.Q_NORM) if h < heads else word(at, f.K_NORM)
                    head = q + h * dim * 4
                    rms_norm(head, weight, head, dim, real(reals, f.INVERSE_DIM), eps)
            elif norms == f.FULL_WIDTH:
                rms_norm(q, word(at, f.Q_NORM), q, heads * dim, real(reals, f.INVERSE_Q), eps)
                rms_norm(keys, word(at, f.K_NORM), keys, kv * dim, real(reals, f.INVERSE_K), eps)
            slot = word(word(plan, f.SLOT_OF), t)
            place = base + slot // slots * word(plan, f.PAGE_BYTES)
            cos, sin = word(word(plan, f.COS_OF), t), word(word(plan, f.SIN_OF), t)
            for h in range(kv):
                rope(keys + h * dim * 4, turned, dim // 2, cos, sin, 1.0)
                head = place + h * word(plan, f.HEAD_BYTES)
                value = keys + (kv + h) * dim * 4
                store_kv(turned, value, word(plan, f.K_POOL) + head, word(plan, f.V_POOL) + head,
                         slot % slots, slots, dim)  # fmt: skip

    return store


def _score_segment(k: SimpleNamespace) -> Any:
    rope, scores = k.rope, k.scores

    @compiled
    def score_segment(plan, segment, start, q, count, turned, pool, out):  # type: ignore[no-untyped-def]
        """Scores of `count` heads at `q` over entries [start, stop) of a segment, from `out` on."""
        dim, slots, stride = word(plan, f.DIM), word(plan, f.SLOTS), word(plan, f.SCORE_STRIDE)
        scale = real(word(plan, f.REALS), f.ATTENTION_SCALE)
        cos, sin = word(segment, f.SEGMENT_COS), word(segment, f.SEGMENT_SIN)
        for g in range(count):
            rope(q + g * dim * 4, turned + g * dim * 4, dim // 2, cos, sin, scale)
        table, stop = word(segment, f.SEGMENT_TABLE), word(segment, f.SEGMENT_STOP)
        entry = start
        while entry < stop:
            page = entry // slots
            here = pool + word(table, page) * word(plan, f.PAGE_BYTES)
            last = min(stop, (page + 1) * slots)
            scores(count, turned, here, dim, slots, entry - page * slots, last - page * slots,
                   out + (entry - start) * 4, stride)  # fmt: skip
            entry = last
        return stop - start

    return score_segment


def _attend(k: SimpleNamespace) -> Any:
    score_segment = _score_segment(k)
    zero, softmax, values, scale = k.zero, k.softmax, k.values, k.scale

    @compiled
    def first_entry(plan, at, t, number):  # type: ignore[no-untyped-def]
        segments = word(plan, f.SEGMENTS) + number * f.SEGMENT_WORDS * 8
        start, window = word(segments, f.SEGMENT_START), word(at, f.WINDOW)
        own = number == word(word(plan, f.SEGMENT_OF), t)
        if own and window != 0:
            start = max(start, word(segments, f.SEGMENT_STOP) - window)
        return start

    @compiled
    def attend_heads(plan, at, layer, thread, t, h, g, count):  # type: ignore[no-untyped-def]
        """`count` query heads from the g-th of KV head h, for token t."""
        dim, heads, kv = word(plan, f.DIM), word(plan, f.HEADS), word(plan, f.KV_HEADS)
        stride, slots = word(plan, f.SCORE_STRIDE), word(plan, f.SLOTS)
        head = h * (heads // kv) + g
        q = word(plan, f.QKV_OUT) + (t * (heads + 2 * kv) + head) * dim * 4
        out = word(plan, f.ATTENDED) + (t * heads + head) * dim * 4
        turned = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        table = word(plan, f.SCORES) + thread * stride * GROUP
        place = layer * word(plan, f.LAYER_BYTES) + h * word(plan, f.HEAD_BYTES)
        begin, end = word(word(plan, f.SEGMENT_OF), t), word(word(plan, f.SEGMENT_OF), t + 1)
        n = 0
        for number in range(begin, end):
            segment = word(plan, f.SEGMENTS) + number * f.SEGMENT_WORDS * 8
            start = first_entry(plan, at, t, number)
            n += score_segment(plan, segment, start, q, count, turned, word(plan, f.K_POOL) + place,
                               table + n * 4)  # fmt: skip
        zero(out, count * dim)
        inverse = turned  # the turned heads are done with
        for i in range(count):
            memory.put_real(inverse, i, softmax(table + i * stride, n))
        n = 0
        for number in range(begin, end):
            segment = word(plan, f.SEGMENTS) + number * f.SEGMENT_WORDS * 8
            start, stop = first_entry(plan, at, t, number), word(segment, f.SEGMENT_STOP)
            values(count, table + n * 4, stride, word(plan, f.V_POOL) + place,
                   word(plan, f.PAGE_BYTES), word(segment, f.SEGMENT_TABLE), slots, start, stop, dim,
                   out)  # fmt: skip
            n += stop - start
        for i in range(count):
            scale(out + i * dim * 4, real(inverse, i), dim)

    @compiled
    def attend_all(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        kv, threads = word(plan, f.KV_HEADS), word(plan, f.THREADS)
        group = word(plan, f.HEADS) // kv
        for task in range(thread, word(plan, f.TOKENS) * kv, threads):
            for g in range(0, group, GROUP):
                attend_heads(
                    plan, at, layer, thread, task // kv, task % kv, g, min(GROUP, group - g)
                )

    return attend_all


def _attention(k: SimpleNamespace) -> Any:
    prepare, linear, store, attend_all, meet = (
        k.prepare, k.linear, _store(k), _attend(k), k.meet,
    )  # fmt: skip

    @compiled
    def attention(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        tokens, width, x = word(plan, f.TOKENS), word(plan, f.WIDTH), word(plan, f.X)
        heads, dim = word(plan, f.HEADS), word(plan, f.DIM)
        prepare(plan, layer, thread, x, width, word(at, f.ATTENTION_NORM), 0)
        meet(plan)
        stride = (heads + 2 * word(plan, f.KV_HEADS)) * dim * 4
        linear(plan, layer, thread, word(at, f.QKV), 0, tokens, word(plan, f.QKV_OUT), stride, 0)
        meet(plan)
        store(plan, at, layer, thread)
        meet(plan)
        attend_all(plan, at, layer, thread)
        meet(plan)
        prepare(plan, layer, thread, word(plan, f.ATTENDED), heads * dim, 0, 1)
        meet(plan)
        linear(plan, layer, thread, word(at, f.OUT), 1, tokens, x, width * 4, 1)
        meet(plan)

    return attention


def _mlp(k: SimpleNamespace) -> Any:
    prepare, linear, tile = k.prepare, k.linear, k.tile
    silu_mul, meet = k.silu_mul, k.meet

    @compiled
    def mlp(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        tokens, width, x = word(plan, f.TOKENS), word(plan, f.WIDTH), word(plan, f.X)
        threads, ffn = word(plan, f.THREADS), word(plan, f.FFN)
        prepare(plan, layer, thread, x, width, word(at, f.MLP_NORM), 2)
        meet(plan)
        matrix, half = word(at, f.GATE_UP), ffn // ROWS
        gates = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        ups = gates + PANEL * ROWS * 4
        for number in range(half * thread // threads, half * (thread + 1) // threads):
            for first in range(0, tokens, PANEL):
                count = min(PANEL, tokens - first)
                tile(plan, layer, matrix, 2, number, first, count, gates, ROWS * 4, 0)
                tile(plan, layer, matrix, 2, half + number, first, count, ups, ROWS * 4, 0)
                out = word(plan, f.HIDDEN) + (first * ffn + number * ROWS) * 4
                silu_mul(gates, ups, out, ffn * 4, count)
        meet(plan)
        prepare(plan, layer, thread, word(plan, f.HIDDEN), ffn, 0, 3)
        meet(plan)
        linear(plan, layer, thread, word(at, f.DOWN), 3, tokens, x, width * 4, 1)
        meet(plan)

    return mlp


def _events(k: SimpleNamespace) -> Any:
    axpy, copy = k.axpy, k.copy

    @compiled
    def events(plan, layer, thread):  # type: ignore[no-untyped-def]
        """What was asked for behind this layer, in order, each thread for its own tokens."""
        tokens, threads, width = word(plan, f.TOKENS), word(plan, f.THREADS), word(plan, f.WIDTH)
        low, high = tokens * thread // threads, tokens * (thread + 1) // threads
        bounds = word(plan, f.EVENT_OF)
        for number in range(word(bounds, layer), word(bounds, layer + 1)):
            event = word(plan, f.EVENTS) + number * f.EVENT_WORDS * 8
            t, address = word(event, f.EVENT_TOKEN), word(event, f.EVENT_ADDRESS)
            row = word(plan, f.X) + t * width * 4
            if low <= t < high:
                if word(event, f.EVENT_KIND) == f.ADD:
                    axpy(address, 1.0, row, width)
                else:
                    copy(row, address, width)

    return events


def _finish(k: SimpleNamespace) -> Any:
    rms_norm, quantise, copy, meet, linear = (
        k.rms_norm, k.quantise, k.copy, k.meet, k.linear,
    )  # fmt: skip

    @compiled
    def finish(plan, thread):  # type: ignore[no-untyped-def]
        """Final norm of the wanted rows, and logits for the first of them."""
        wanted, threads, width = (
            word(plan, f.WANTED_ROWS),
            word(plan, f.THREADS),
            word(plan, f.WIDTH),
        )
        asked, reals, blocks = word(plan, f.LOGIT_ROWS), word(plan, f.REALS), width // COLS
        for r in range(wanted * thread // threads, wanted * (thread + 1) // threads):
            normed = word(plan, f.WANTED_NORMED) + r * width * 4
            row = word(word(plan, f.WANTED), r)
            if word(plan, f.FINAL_NORM) != 0:
                rms_norm(row, word(plan, f.FINAL_NORM), normed, width,
                         real(reals, f.INVERSE_WIDTH), real(reals, f.EPS))  # fmt: skip
            else:
                copy(row, normed, width)
            if r < asked:
                group = r // PANEL * PANEL
                panel = word(plan, f.PANEL) + group * RECORD * blocks
                quantise(normed, blocks, panel, r - group, min(PANEL, asked - group))
        meet(plan)
        linear(plan, 0, thread, word(plan, f.HEAD), PLAIN, asked, word(plan, f.LOGITS),
               word(plan, f.LOGIT_STRIDE), 0)  # fmt: skip

    return finish
