"""A sparse layer's MLP: every token through its own experts, rows grouped by expert.

A pair is a token and one of its experts. Pairs stand in order of expert, then token, and an
expert's pairs make its panels: its weights are read once for all its tokens. Shares are added to a
token's row in ascending order of expert, whoever else is in the batch.
"""

from types import SimpleNamespace
from typing import Any

from workbench.cpu import dots
from workbench.cpu import fields as f
from workbench.cpu.emit import compiled
from workbench.cpu.memory import put_real, put_word, real, word

PANEL, RECORD, ROWS, COLS = dots.PANEL, dots.RECORD, dots.ROWS, dots.COLS
PLAIN = -1  # in place of a projection's number: no adapter applies


def experts_phase(k: SimpleNamespace) -> Any:
    choose, group, fill = _choose(k), _group(), _fill(k)
    inner, outer, meet = _inner(k), _outer(k), k.meet

    @compiled
    def experts(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        width, ffn = word(plan, f.WIDTH), word(plan, f.EXPERT_FFN)
        choose(plan, at, layer, thread)
        meet(plan)
        if thread == 0:
            group(plan, layer)
        meet(plan)
        fill(plan, thread, word(plan, f.NORMED), width, 1)
        meet(plan)
        inner(plan, word(at, f.GATE_UP), thread)
        meet(plan)
        fill(plan, thread, word(plan, f.HIDDEN), ffn, 0)
        meet(plan)
        outer(plan, word(at, f.DOWN), thread)
        meet(plan)

    return experts


def _choose(k: SimpleNamespace) -> Any:
    rms_norm, route, softmax, best = k.rms_norm, k.route, k.softmax, _best()

    @compiled
    def choose(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        """Norm of each token, and the experts that its router chooses, best first."""
        tokens, threads = word(plan, f.TOKENS), word(plan, f.THREADS)
        width, count, used = word(plan, f.WIDTH), word(plan, f.EXPERTS), word(plan, f.TOP_K)
        reals = word(plan, f.REALS)
        scores = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        first = layer * word(plan, f.ROUTE_STEP)
        for t in range(tokens * thread // threads, tokens * (thread + 1) // threads):
            normed = word(plan, f.NORMED) + t * width * 4
            rms_norm(word(plan, f.X) + t * width * 4, word(at, f.MLP_NORM), normed, width,
                     real(reals, f.INVERSE_WIDTH), real(reals, f.EPS))  # fmt: skip
            route(normed, word(at, f.ROUTER), width, count, scores)
            inverse = softmax(scores, count)
            chosen = word(plan, f.CHOSEN) + (first + t * used) * 8
            shares = word(plan, f.SHARES) + (first + t * used) * 4
            best(scores, count, inverse, used, word(plan, f.NORMALISE), chosen, shares)

    return choose


def _best() -> Any:
    @compiled
    def best(scores, count, inverse, used, normalise, chosen, shares):  # type: ignore[no-untyped-def]
        """The `used` largest, of equals the first; their shares made to sum to 1 where asked."""
        total = inverse * 0
        for place in range(used):
            found, largest = place, real(scores, place)  # where all are NaN, any will do
            if largest == largest:
                largest = inverse * 0 - 1
                for e in range(count):
                    value = real(scores, e)
                    if value > largest:
                        found, largest = e, value
            put_word(chosen, place, found)
            put_real(shares, place, largest * inverse)
            total += largest * inverse
            put_real(scores, found, inverse * 0 - 1)
        if normalise != 0:
            for place in range(used):
                put_real(shares, place, real(shares, place) / total)

    return best


def _group() -> Any:
    @compiled
    def group(plan, layer):  # type: ignore[no-untyped-def]
        """Where each expert's pairs start, whose they are, and which experts have any."""
        tokens, count, used = word(plan, f.TOKENS), word(plan, f.EXPERTS), word(plan, f.TOP_K)
        first = layer * word(plan, f.ROUTE_STEP)
        chosen, shares = word(plan, f.CHOSEN) + first * 8, word(plan, f.SHARES) + first * 4
        starts, cursors, active = word(plan, f.STARTS), word(plan, f.CURSORS), word(plan, f.ACTIVE)
        for e in range(count + 1):
            put_word(starts, e, 0)
        for pair in range(tokens * used):
            e = word(chosen, pair)
            put_word(starts, e + 1, word(starts, e + 1) + 1)
        busy = 0
        for e in range(count):
            if word(starts, e + 1) != 0:
                busy += 1
                put_word(active, busy, e)
            put_word(starts, e + 1, word(starts, e) + word(starts, e + 1))
            put_word(cursors, e, word(starts, e))
        put_word(active, 0, busy)
        for pair in range(tokens * used):
            e = word(chosen, pair)
            place = word(cursors, e)
            put_word(cursors, e, place + 1)
            put_word(word(plan, f.OWNERS), place, pair // used)
            put_real(word(plan, f.PORTIONS), place, real(shares, pair))

    return group


def _fill(k: SimpleNamespace) -> Any:
    quantise = k.quantise

    @compiled
    def fill(plan, thread, source, n, by_token):  # type: ignore[no-untyped-def]
        """Rows [n] of `source`, by pair or by the pair's token, into the experts' panels."""
        pairs = word(plan, f.TOKENS) * word(plan, f.TOP_K)
        threads, starts, active = word(plan, f.THREADS), word(plan, f.STARTS), word(plan, f.ACTIVE)
        low, high = pairs * thread // threads, pairs * (thread + 1) // threads
        for number in range(1, word(active, 0) + 1):
            e = word(active, number)
            start, stop = word(starts, e), word(starts, e + 1)
            for pair in range(max(low, start), min(high, stop)):
                row = word(word(plan, f.OWNERS), pair) if by_token != 0 else pair
                first = start + (pair - start) // PANEL * PANEL
                panel = word(plan, f.PANEL) + first * RECORD * (n // COLS)
                quantise(source + row * n * 4, n // COLS, panel, pair - first,
                         min(PANEL, stop - first))  # fmt: skip

    return fill


def _inner(k: SimpleNamespace) -> Any:
    tile, silu_mul = k.tile, k.silu_mul

    @compiled
    def inner(plan, matrix, thread):  # type: ignore[no-untyped-def]
        """HIDDEN [pair, F] = silu(gate) * up; a task is sixteen columns of one expert."""
        threads, starts, active = word(plan, f.THREADS), word(plan, f.STARTS), word(plan, f.ACTIVE)
        ffn = word(plan, f.EXPERT_FFN)
        each, busy = ffn // ROWS, word(active, 0)
        behind = word(plan, f.EXPERTS) * each  # tiles of gates before the ups
        gates = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        ups = gates + PANEL * ROWS * 4
        for task in range(busy * each * thread // threads, busy * each * (thread + 1) // threads):
            e, number = word(active, task // each + 1), task % each
            stop = word(starts, e + 1)
            for first in range(word(starts, e), stop, PANEL):
                count = min(PANEL, stop - first)
                place = e * each + number
                tile(plan, 0, thread, matrix, PLAIN, place, first, count, gates, ROWS * 4, 0)
                tile(plan, 0, thread, matrix, PLAIN, behind + place, first, count, ups, ROWS * 4, 0)
                out = word(plan, f.HIDDEN) + (first * ffn + number * ROWS) * 4
                silu_mul(gates, ups, out, ffn * 4, count)

    return inner


def _outer(k: SimpleNamespace) -> Any:
    tile, axpy = k.tile, k.axpy

    @compiled
    def outer(plan, matrix, thread):  # type: ignore[no-untyped-def]
        """X += share * (HIDDEN . down), expert by expert; a thread owns columns of X."""
        threads, starts, active = word(plan, f.THREADS), word(plan, f.STARTS), word(plan, f.ACTIVE)
        width = word(plan, f.WIDTH)
        each = width // ROWS
        out = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        for number in range(1, word(active, 0) + 1):
            e = word(active, number)
            stop = word(starts, e + 1)
            for column in range(each * thread // threads, each * (thread + 1) // threads):
                for first in range(word(starts, e), stop, PANEL):
                    count = min(PANEL, stop - first)
                    place = e * each + column
                    tile(plan, 0, thread, matrix, PLAIN, place, first, count, out, ROWS * 4, 0)
                    for m in range(count):
                        row = word(word(plan, f.OWNERS), first + m) * width + column * ROWS
                        share = real(word(plan, f.PORTIONS), first + m)
                        axpy(out + m * ROWS * 4, share, word(plan, f.X) + row * 4, ROWS)

    return outer
