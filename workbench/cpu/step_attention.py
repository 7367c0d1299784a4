"""The step's attention phases: k and v into their slots, then every token over its entries."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from workbench.cpu import attend, memory
from workbench.cpu import fields as f
from workbench.cpu.emit import compiled
from workbench.cpu.memory import real, word

GROUP = attend.GROUP
LOW = np.float32(-3.0e38)


def store_phase(k: SimpleNamespace) -> Any:
    rms_norm, rope, store_kv, clip = k.rms_norm, k.rope, k.store_kv, k.clip

    @compiled
    def store(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        """Norms and limits of q, k and v; k turned to its position; k and v into their slots."""
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
            if real(reals, f.CLIP) != 0.0:
                clip(q, (heads + 2 * kv) * dim, real(reals, f.CLIP))
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
    def score_segment(plan, segment, start, q, kv, group, turned, place, out):  # type: ignore[no-untyped-def]
        """Scores of the `group` heads at `q` of each of `kv` KV heads over entries [start, stop) of
        a segment, from `out` on."""
        dim, stride = word(plan, f.DIM), word(plan, f.SCORE_STRIDE)
        scale = real(word(plan, f.REALS), f.ATTENTION_SCALE)
        cos, sin = word(segment, f.SEGMENT_COS), word(segment, f.SEGMENT_SIN)
        for i in range(kv * group):
            rope(q + i * dim * 4, turned + i * dim * 4, dim // 2, cos, sin, scale)
        stop = word(segment, f.SEGMENT_STOP)
        for g in range(0, group, GROUP):
            scores(min(GROUP, group - g), turned + g * dim * 4, group * dim * 4,
                   word(plan, f.K_POOL) + place, word(plan, f.V_POOL) + place,
                   word(plan, f.HEAD_BYTES), kv, word(plan, f.PAGE_BYTES),
                   word(segment, f.SEGMENT_TABLE), word(plan, f.SLOTS), start, stop, dim,
                   out + g * stride, stride, group * stride)  # fmt: skip
        return stop - start

    return score_segment


def attend_phase(k: SimpleNamespace) -> Any:
    score_segment = _score_segment(k)
    zero, softmax, values, scale, together = (
        k.zero,
        k.softmax,
        k.values,
        k.scale,
        compiled(attend.together),
    )

    @compiled
    def first_entry(plan, at, t, number):  # type: ignore[no-untyped-def]
        segments = word(plan, f.SEGMENTS) + number * f.SEGMENT_WORDS * 8
        start, window = word(segments, f.SEGMENT_START), word(at, f.WINDOW)
        own = number == word(word(plan, f.SEGMENT_OF), t)
        if own and window != 0:
            start = max(start, word(segments, f.SEGMENT_STOP) - window)
        return start

    @compiled
    def hide_others(plan, t, start, stop, count, table):  # type: ignore[no-untyped-def]
        """In a token tree: no score for what the token does not descend from."""
        tree = word(plan, f.TREES) + t * f.TREE_WORDS * 8
        bits, before = word(tree, f.TREE_BITS), word(tree, f.TREE_BEFORE)
        if bits != 0:
            for entry in range(before, stop):
                if (bits >> (entry - before)) & 1 == 0:
                    for i in range(count):
                        memory.put_real(table + i * word(plan, f.SCORE_STRIDE), entry - start, LOW)

    @compiled
    def attend_heads(plan, at, layer, thread, t, h, kvs):  # type: ignore[no-untyped-def]
        """All query heads of `kvs` KV heads from the h-th on, for token t."""
        dim, heads, kv = word(plan, f.DIM), word(plan, f.HEADS), word(plan, f.KV_HEADS)
        stride, slots = word(plan, f.SCORE_STRIDE), word(plan, f.SLOTS)
        group = heads // kv
        head, count = h * group, kvs * group
        q = word(plan, f.QKV_OUT) + (t * (heads + 2 * kv) + head) * dim * 4
        out = word(plan, f.ATTENDED) + (t * heads + head) * dim * 4
        turned = word(plan, f.SCRATCH) + thread * word(plan, f.SCRATCH_BYTES)
        table = word(plan, f.SCORES) + thread * stride * together(group)
        place = layer * word(plan, f.LAYER_BYTES) + h * word(plan, f.HEAD_BYTES)
        begin, end = word(word(plan, f.SEGMENT_OF), t), word(word(plan, f.SEGMENT_OF), t + 1)
        n = 0
        for number in range(begin, end):
            segment = word(plan, f.SEGMENTS) + number * f.SEGMENT_WORDS * 8
            start = first_entry(plan, at, t, number)
            n += score_segment(plan, segment, start, q, kvs, group, turned, place, table + n * 4)
            if number == begin and word(plan, f.TREES) != 0:
                hide_others(plan, t, start, word(segment, f.SEGMENT_STOP), count, table)
        zero(out, count * dim)
        inverse = turned  # the turned heads are done with
        for i in range(count):
            memory.put_real(inverse, i, softmax(table + i * stride, n))
        n = 0
        for number in range(begin, end):
            segment = word(plan, f.SEGMENTS) + number * f.SEGMENT_WORDS * 8
            start, stop = first_entry(plan, at, t, number), word(segment, f.SEGMENT_STOP)
            for g in range(0, group, GROUP):
                values(min(GROUP, group - g), table + g * stride + n * 4, stride, group * stride,
                       word(plan, f.V_POOL) + place, word(plan, f.HEAD_BYTES), kvs,
                       word(plan, f.PAGE_BYTES), word(segment, f.SEGMENT_TABLE), slots, start,
                       stop, dim, out + g * dim * 4, group * dim * 4)  # fmt: skip
            n += stop - start
        for i in range(count):
            scale(out + i * dim * 4, real(inverse, i), dim)

    @compiled
    def attend_span(plan, at, layer, thread, first, stop):  # type: ignore[no-untyped-def]
        """KV heads [first, stop), counted through the tokens."""
        kv = word(plan, f.KV_HEADS)
        group = word(plan, f.HEADS) // kv
        most = together(group) // group
        while first < stop:
            h = first % kv
            kvs = min(most, kv - h, stop - first)
            attend_heads(plan, at, layer, thread, first // kv, h, kvs)
            first += kvs

    @compiled
    def attend_all(plan, at, layer, thread):  # type: ignore[no-untyped-def]
        """Tokens in turn, since later ones read more; the heads of those left over are shared."""
        tokens, kv, threads = word(plan, f.TOKENS), word(plan, f.KV_HEADS), word(plan, f.THREADS)
        shared = tokens % threads * kv
        whole = tokens * kv - shared
        for first in range(thread * kv, whole, threads * kv):
            attend_span(plan, at, layer, thread, first, first + kv)
        attend_span(plan, at, layer, thread, whole + shared * thread // threads,
                    whole + shared * (thread + 1) // threads)  # fmt: skip

    return attend_all
