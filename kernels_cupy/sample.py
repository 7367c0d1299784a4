"""The draw of each row's next token, with its log-probability, entropy and the top n."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels_cupy import scratch
from kernels_cupy.errors import need
from kernels_cupy.launch import Instance, LaunchPlan, i32, kernel, multiprocessors
from kernels_cupy.record import Record, send
from kernels_cupy.record import settings as settings
from workbench.ops.contract import Sampled, SamplerRow

INSTANCES = tuple(
    Instance(source, entry, {"VECTOR": v}, hot=source != "sample_wide")
    for source, entry in (
        ("sample", "sample_scan"), ("sample", "sample"), ("sample_bins", "sample_bins"),
        ("sample_bins", "sample_pick"), ("sample_wide", "sample_wide"),
    )
    for v in (0, 1)
)  # fmt: skip
SHARED = 2048 * 16 + 1024 * 12 + 1024  # struct Shared of logits.cuh and room to spare
TOP_N = 512  # at most
CHUNK, BINS, CAP = 512, 1024, 2048  # of logits.cuh
FEW = 64  # of sample.cu
LONGEST = 4096 * CHUNK  # vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class Counters:
    """Where uniform numbers come from when no host is asked: draw `index` [R] int64 of stream
    `seed` [R] int64, as `workbench.engine.philox.uniform` numbers them.
    """

    seed: Tensor
    index: Tensor


def sample(
    logits: Tensor,
    rows: Sequence[SamplerRow],
    mask: Tensor | None,
    seen: Sequence[Tensor],
    bias: Sequence[tuple[Tensor, Tensor] | None],
    uniforms: Tensor,
    top_n: int,
) -> Sampled:
    """`ops.contract.Ops.sample`. Nothing waits for the device but `Sampled.wait`."""
    count, vocabulary = logits.shape
    need(logits.dtype == torch.float32 and logits.is_contiguous(), "packed float32 logits", logits)
    need(top_n <= min(TOP_N, vocabulary), f"top_n up to {TOP_N} and the vocabulary", top_n)
    if mask is not None:
        need(mask.shape == (count, -(-vocabulary // 32)), "a mask of [R, ceil(V / 32)]", mask)
    logits = _penalised(logits, rows, seen, bias)
    settled, mask, numbers = send(rows, mask, uniforms, logits.device)
    record = Record(count, top_n, logits.device)
    draw(logits, settled, mask, numbers, top_n, may_be_flat(rows), record)
    return record.land()


def draw(
    logits: Tensor,
    settings: Tensor,
    mask: Tensor | None,
    uniforms: Tensor | Counters,
    top_n: int,
    flat: bool = True,
    record: Record | None = None,
) -> tuple[Sampled, Tensor]:
    """The launches alone, all arguments on the device: what a graph captures. Also the rows' states
    [R] int32: 1 where the mask allows nothing. `flat` is what `may_be_flat` says of the rows:
    without it the kernels for flat distributions are left out. The outcome lies in `record`, a new
    one without it.
    """
    count, vocabulary = logits.shape
    need(vocabulary <= LONGEST, f"at most {LONGEST} logits a row", vocabulary)
    device = logits.device
    record = record or Record(count, top_n, device)
    drawn, state = record.drawn, record.state
    token, logprob, entropy = drawn.token, drawn.logprob, drawn.entropy
    top_ids, top_logprobs = drawn.top_ids, drawn.top_logprobs
    facts = torch.empty((count, 4), device=device)
    if count == 0:
        return drawn, state
    chunks = -(-vocabulary // CHUNK)
    notes = scratch.floats(device, "chunks", scratch.round_up(count * chunks * 8))
    numbers: tuple[Tensor | None, ...]  # of struct Uniforms in logits.cuh
    if isinstance(uniforms, Counters):
        numbers = (None, uniforms.seed, uniforms.index)
    else:
        numbers = (uniforms, None, None)
    sizes = (i32(vocabulary), i32(top_n))
    one, define = LaunchPlan((count, 1, 1), 1024, SHARED), int(vocabulary % 4 == 0)
    kernel("sample", "sample_scan", device, VECTOR=define)(
        LaunchPlan((_scan_blocks(count, chunks, device), count, 1), 256),
        logits, mask, settings, notes, i32(vocabulary),
    )  # fmt: skip
    kernel("sample", "sample", device, VECTOR=define)(
        one, logits, mask, settings, *numbers, notes, token, logprob, entropy, top_ids,
        top_logprobs, state, facts, *sizes,
    )  # fmt: skip
    if not flat:
        return drawn, state
    blocks = max(1, min(16, 2 * multiprocessors(device) // count), -(-chunks // 512))
    bins = scratch.floats(device, "bins", scratch.round_up(count * blocks * 2 * BINS))
    kernel("sample_bins", "sample_bins", device, VECTOR=define)(
        LaunchPlan((blocks, count, 1), 512),
        logits, mask, settings, state, facts, bins, i32(vocabulary),
    )  # fmt: skip
    readers = max(1, min(16, multiprocessors(device) // count, -(-chunks // 4)))
    most = scratch.round_up(count)
    kernel("sample_bins", "sample_pick", device, VECTOR=define)(
        LaunchPlan((readers, count, 1), 1024, SHARED),
        logits, mask, settings, *numbers, notes, bins, token, logprob, top_ids, top_logprobs,
        state, facts, scratch.floats(device, "lists", most * 2 * CAP),
        scratch.counters(device, "lists", most * 2), i32(blocks), *sizes,
    )  # fmt: skip
    kernel("sample_wide", "sample_wide", device, VECTOR=define)(
        one, logits, mask, settings, *numbers, token, logprob, top_ids, top_logprobs, state, facts,
        *sizes,
    )  # fmt: skip
    return drawn, state


def _scan_blocks(rows: int, chunks: int, device: torch.device) -> int:
    """Blocks of 8 warps a row, each warp taking equally many chunks, at most 32 warps an SM: all
    are resident at once."""
    each = -(-rows * chunks // (32 * multiprocessors(device)))
    return -(-chunks // (8 * each))


def may_be_flat(rows: Sequence[SamplerRow]) -> bool:
    """Whether a row's draw may depend on more than its likeliest tokens."""
    return any(row.temperature > 0 and not 0 < row.top_k <= FEW for row in rows)


def _penalised(
    logits: Tensor,
    rows: Sequence[SamplerRow],
    seen: Sequence[Tensor],
    bias: Sequence[tuple[Tensor, Tensor] | None],
) -> Tensor:
    """Penalties over seen ids, then biases, on a copy; the logits themselves where there are
    none.
    """
    touched = [
        r
        for r, row in enumerate(rows)
        if row.repetition_penalty != 1.0
        or row.presence_penalty != 0.0
        or (r < len(bias) and bias[r] is not None)
    ]
    if not touched:
        return logits
    logits = logits.clone()
    for r in touched:
        row, added = rows[r], bias[r] if r < len(bias) else None
        ids = (seen[r] if r < len(seen) else torch.empty(0, dtype=torch.int64)).unique()
        ids = ids.to(logits.device)
        values = logits[r, ids]
        scaled = torch.where(
            values > 0, values / row.repetition_penalty, values * row.repetition_penalty
        )
        logits[r, ids] = scaled - row.presence_penalty
        if added is not None:
            logits[r].index_add_(0, added[0].to(logits.device), added[1].to(logits))
    return logits
