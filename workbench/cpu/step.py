"""The whole step as numba sees it: phases over tokens, tiles and heads, with barriers between them.

Factories return functions that call kernels by name; which instruction set's those are is decided
when the step is linked. Work is cut by thread number
alone and no sum is ever cut, so the result does not depend on the number of threads. A token
belongs to one thread for everything that concerns its row alone; a tile of sixteen outputs to one
thread for all tokens. A lone token belongs to nobody: each thread makes its own copy of the panel,
which takes less than to wait for another's.
"""

from types import SimpleNamespace
from typing import Any

from numba import cfunc
from numba.core import types

from workbench.cpu import attend, dispatch, dots, memory, rows
from workbench.cpu import fields as f
from workbench.cpu.emit import Kernel, compiled
from workbench.cpu.memory import put_word, real, word
from workbench.cpu.step_attention import attend_phase, store_phase
from workbench.cpu.step_experts import PLAIN, experts_phase

PANEL, RECORD, ROWS, COLS = dots.PANEL, dots.RECORD, dots.ROWS, dots.COLS
SIGNATURE = types.int64(types.int64, types.int64, types.int64, types.int64)


def kernels(half: bool) -> dict[str, Kernel]:
    """Every kernel that a step calls; `half`: the pool holds halves, else floats."""
    return {
        "rms_norm": rows.RMS_NORM, "quantise": rows.QUANTISE, "rope": rows.ROPE,
        "silu_mul": rows.SILU_MUL, "axpy": rows.AXPY, "copy": rows.COPY, "zero": rows.ZERO,
        "shrink": rows.SHRINK, "expand": rows.EXPAND, "softmax": attend.SOFTMAX,
        "scale": attend.SCALE, "barrier": memory.BARRIER, "multiply": dispatch.MULTIPLY,
        "embed": dispatch.EMBED, "scores": dispatch.scores(half), "values": dispatch.values(half),
        "store_kv": attend.store_kv(half), "route": rows.ROUTE, "clip": rows.CLIP,
    }  # fmt: skip


def make(half: bool) -> Any:
    """The step, its kernels by name only: a numba C callback of (plan address, thread, first layer,
    last + 1).

    The call with first 0 makes the inputs, the one whose last is the plan's RUN the logits. Returns
    0, or 1 when the stop flag was seen at the start of a layer.
    """
    k = SimpleNamespace(**{name: kernel.callable() for name, kernel in kernels(half).items()})
    k.meet = _meet(k)
    k.share, k.prepare, k.tile = _share(k), _prepare(k), _tile(k)
    k.linear = _linear(k)
    begin, attention, mlp, experts = _begin(k), _attention(k), _mlp(k), experts_phase(k)
    events, finish, meet = _events(k), _finish(k), k.meet

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
            if word(at, f.ROUTER) != 0:
                experts(plan, at, layer, thread)
            else:
                mlp(plan, at, layer, thread)
            events(plan, layer, thread)
        if last == word(plan, f.RUN):
            meet(plan)
            finish(plan, thread)
        return 0

    return cfunc(SIGNATURE, error_model="numpy")(step)


def _meet(k: SimpleNamespace) -> Any:
    barrier = k.barrier

    @compiled
    def meet(plan):  # type: ignore[no-untyped-def]
        """Wait for the other threads of the step."""
        barrier(word(plan, f.BARRIER), word(plan, f.THREADS), word(plan, f.YIELDER))

    return meet


def _share(k: SimpleNamespace) -> Any:
    meet = k.meet

    @compiled
    def share(plan):  # type: ignore[no-untyped-def]
        """Wait for the panels that others made, unless each thread has made its own."""
        if word(plan, f.OWN_BYTES) == 0:
            meet(plan)

    return share


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
        """Rows of `source` [T, n], normed where `norm` names a weight, into the panels; and
        through the adapters' A where tokens have one."""
        tokens, threads = word(plan, f.TOKENS), word(plan, f.THREADS)
        reals, own = word(plan, f.REALS), thread * word(plan, f.OWN_BYTES)
        low, high = tokens * thread // threads, tokens * (thread + 1) // threads
        if word(plan, f.OWN_BYTES) != 0:
            low, high = 0, tokens
        for t in range(low, high):
            row = source + t * n * 4
            if norm != 0:
                normed = word(plan, f.NORMED) + own + t * n * 4
                rms_norm(row, norm, normed, n, real(reals, f.INVERSE_WIDTH), real(reals, f.EPS))
                row = normed
            group = t // PANEL * PANEL
            panel = word(plan, f.PANEL) + own + group * RECORD * (n // COLS)
            quantise(row, n // COLS, panel, t - group, min(PANEL, tokens - group))
            adapter = word(word(plan, f.ADAPTER_OF), t)
            if adapter != 0:
                pair = adapter + (layer * 4 + projection) * f.ADAPTER_WORDS * 8
                small = word(plan, f.SMALL) + own + t * word(plan, f.SMALL_BYTES)
                shrink(row, n, word(pair, f.ADAPTER_A), word(pair, f.ADAPTER_RANK), small)

    return prepare


def _tile(k: SimpleNamespace) -> Any:
    multiply, expand = k.multiply, k.expand

    @compiled
    def tile(plan, layer, thread, matrix, projection, number, first, count, out, stride, add):  # type: ignore[no-untyped-def]
        """Tile `number` for the `count` tokens of the panel that starts at token `first`."""
        while number >= word(matrix, f.STOP):
            matrix = word(matrix, f.NEXT)
        blocks = word(matrix, f.BLOCKS)
        weights = word(matrix, f.DATA) + number * word(matrix, f.TILE_BYTES)
        own = thread * word(plan, f.OWN_BYTES)
        panel = word(plan, f.PANEL) + own + first * RECORD * blocks
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
                    small = word(plan, f.SMALL) + own + (first + m) * word(plan, f.SMALL_BYTES)
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
                tile(
                    plan, layer, thread, matrix, projection, number, first, count, place, stride,
                    add,
                )  # fmt: skip

    return linear


def _attention(k: SimpleNamespace) -> Any:
    prepare, linear, store, attend_all, meet, share = (
        k.prepare, k.linear, store_phase(k), attend_phase(k), k.meet, k.share,
    )  # fmt: skip

    @compiled
    def attention(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        tokens, width, x = word(plan, f.TOKENS), word(plan, f.WIDTH), word(plan, f.X)
        heads, dim = word(plan, f.HEADS), word(plan, f.DIM)
        prepare(plan, layer, thread, x, width, word(at, f.ATTENTION_NORM), 0)
        share(plan)
        stride = (heads + 2 * word(plan, f.KV_HEADS)) * dim * 4
        linear(plan, layer, thread, word(at, f.QKV), 0, tokens, word(plan, f.QKV_OUT), stride, 0)
        meet(plan)
        store(plan, at, layer, thread)
        meet(plan)
        attend_all(plan, at, layer, thread)
        meet(plan)
        prepare(plan, layer, thread, word(plan, f.ATTENDED), heads * dim, 0, 1)
        share(plan)
        linear(plan, layer, thread, word(at, f.OUT), 1, tokens, x, width * 4, 1)
        meet(plan)

    return attention


def _mlp(k: SimpleNamespace) -> Any:
    prepare, linear, tile = k.prepare, k.linear, k.tile
    silu_mul, meet, share = k.silu_mul, k.meet, k.share

    @compiled
    def mlp(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        tokens, width, x = word(plan, f.TOKENS), word(plan, f.WIDTH), word(plan, f.X)
        threads, ffn = word(plan, f.THREADS), word(plan, f.FFN)
        matrix, half = word(at, f.GATE_UP), ffn // ROWS
        prepare(plan, layer, thread, x, width, word(at, f.MLP_NORM), 2)
        share(plan)
        gates = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        ups = gates + PANEL * ROWS * 4
        for number in range(half * thread // threads, half * (thread + 1) // threads):
            for first in range(0, tokens, PANEL):
                count = min(PANEL, tokens - first)
                tile(plan, layer, thread, matrix, 2, number, first, count, gates, ROWS * 4, 0)
                tile(plan, layer, thread, matrix, 2, half + number, first, count, ups, ROWS * 4, 0)
                out = word(plan, f.HIDDEN) + (first * ffn + number * ROWS) * 4
                silu_mul(gates, ups, out, ffn * 4, count)
        meet(plan)
        prepare(plan, layer, thread, word(plan, f.HIDDEN), ffn, 0, 3)
        share(plan)
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
    rms_norm, quantise, copy, share, linear = (
        k.rms_norm, k.quantise, k.copy, k.share, k.linear,
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
        head, own = word(plan, f.HEAD), thread * word(plan, f.OWN_BYTES)
        low, high = wanted * thread // threads, wanted * (thread + 1) // threads
        if word(plan, f.OWN_BYTES) != 0:
            low, high = 0, wanted
        for r in range(low, high):
            normed = word(plan, f.WANTED_NORMED) + r * width * 4
            if own != 0:  # thread 0 hands them out
                normed = word(plan, f.NORMED) + own
            row = word(word(plan, f.WANTED), r)
            if word(plan, f.FINAL_NORM) != 0:
                rms_norm(row, word(plan, f.FINAL_NORM), normed, width,
                         real(reals, f.INVERSE_WIDTH), real(reals, f.EPS))  # fmt: skip
            else:
                copy(row, normed, width)
            if r < asked:
                group = r // PANEL * PANEL
                panel = word(plan, f.PANEL) + own + group * RECORD * blocks
                quantise(normed, blocks, panel, r - group, min(PANEL, asked - group))
        share(plan)
        linear(plan, 0, thread, head, PLAIN, asked, word(plan, f.LOGITS),
               word(plan, f.LOGIT_STRIDE), 0)  # fmt: skip

    return finish
