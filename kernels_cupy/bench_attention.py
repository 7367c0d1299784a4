"""`bench kernels`: paged decode, shared prefixes, prefill, 32 query and 8 KV heads of 128."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels_cupy.attention import attention, plan_attention
from kernels_cupy.bench_rows import DIM, HEADS, KV_HEADS, Bench, agree, tried
from kernels_cupy.launch import multiprocessors
from kernels_cupy.plan import shared_prefixes
from kernels_cupy.timing import copies, graph_time
from workbench.forward import ForwardBatch

SDPA = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def decode_batch(lens: int, rows: int, new: int, tables: Tensor) -> ForwardBatch:
    none = torch.zeros(0, dtype=torch.int64)
    starts = torch.arange(rows + 1) * new
    return ForwardBatch(none, none, none, starts, torch.full((rows,), lens), tables)


def plan_of(b: Bench, batch: ForwardBatch, page: int, share: bool) -> Any:
    shared = shared_prefixes(batch, page, 4 * KV_HEADS * DIM) if share else []
    return plan_attention(batch, None, HEADS, KV_HEADS, DIM, b.device, None, shared)


def _sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def decode(b: Bench) -> Iterator[dict[str, Any]]:
    """Paged decode, 32 query and 8 KV heads of 128, pages in random order."""
    shapes = ((1, 8192), (1, 131072), (8, 8192), (64, 4096), (64, 32768), (256, 2048))
    for rows, lens in shapes:
        size = rows * lens * KV_HEADS * DIM * 4
        q = [b.random(rows, HEADS, DIM) for _ in range(copies(size, b.device))]
        peers = _contiguous_decode(b, rows, lens, len(q))
        for page in (16, 64, 1) if rows == 64 and lens == 4096 else (16, 64):
            need = rows * lens // page
            pools = [[b.random(need * page, KV_HEADS, DIM) for _ in range(2)] for _ in q]
            tables = torch.randperm(need).view(rows, -1)
            plan, out = (
                plan_of(b, decode_batch(lens, rows, 1, tables), page, False),
                torch.empty_like(q[0]),
            )
            calls = [
                partial(attention, x, kv[0], kv[1], out, plan, page, DIM**-0.5, None)
                for x, kv in zip(q, pools, strict=True)
            ]
            us = graph_time(calls)
            floor = b.ceilings.floor(size)
            paged = tried({"Triton, paged": partial(_triton_decode, q, pools, tables, lens, page)})
            shape = f"{rows} x {lens}, page {page}"
            yield b.row("decode attention", shape, us, floor, {**peers, **paged}, bytes=size)
            torch.cuda.empty_cache()


def _triton_decode(
    q: list[Tensor], pools: list[list[Tensor]], tables: Tensor, lens: int, page: int
) -> float:
    from kernels_cupy.peers_triton import decode_calls

    calls, theirs = decode_calls(q, pools, tables, lens, page, multiprocessors(q[0].device))
    us, ours = graph_time(calls, repeats=5), torch.empty_like(theirs)
    batch = decode_batch(lens, len(tables), 1, tables)
    plan = plan_attention(batch, None, HEADS, KV_HEADS, DIM, q[0].device, None, [])
    attention(q[-1], pools[-1][0], pools[-1][1], ours, plan, page, DIM**-0.5, None)
    agree("Triton, paged", theirs, ours)
    return us


def _contiguous_decode(b: Bench, rows: int, lens: int, count: int) -> dict[str, float]:
    kv = [[b.random(rows, KV_HEADS, lens, DIM) for _ in range(2)] for _ in range(count)]
    q = b.random(rows, HEADS, 1, DIM)
    return tried(
        {
            f"SDPA {name}, contiguous": partial(
                graph_time, [partial(_sdpa, backend, q, k, v, False) for k, v in kv], 4.0, 5
            )
            for name, backend in SDPA.items()
        }
    )


def shared(b: Bench) -> Iterator[dict[str, Any]]:
    """Branches of one tree: common pages read once for all of them; the peer is our own plain
    kernel.
    """
    for rows, prefix, own in ((64, 8192, 512), (16, 32768, 256), (256, 2048, 128), (8, 8192, 512)):
        page = 16
        need = (prefix + rows * own) // page
        order = torch.randperm(need)
        common, rest = order[: prefix // page], order[prefix // page :]
        tables = torch.cat([common.expand(rows, -1), rest.view(rows, -1)], 1)
        batch, size = decode_batch(prefix + own, rows, 1, tables), need * page * KV_HEADS * DIM * 4
        pools = [
            [b.random(need * page, KV_HEADS, DIM) for _ in range(2)]
            for _ in range(copies(size, b.device))
        ]
        q = b.random(rows, HEADS, DIM)
        out = torch.empty_like(q)

        plans = [plan_of(b, batch, page, share) for share in (True, False)]
        us, plain = (
            graph_time(
                [partial(attention, q, k, v, out, p, page, DIM**-0.5, None) for k, v in pools]
            )
            for p in plans
        )
        floor = b.ceilings.floor(size) + 1e6 * b.ceilings.ramp
        yield b.row(
            "shared prefix", f"{rows} x ({prefix} + {own})", us, floor, {"own plain kernel": plain},
            bytes=size,
        )  # fmt: skip


def prefill(b: Bench) -> Iterator[dict[str, Any]]:
    """Causal prefill over pages, and a chunk of 4096 on 32k cached."""
    for rows, new, lens in ((1, 4096, 4096), (4, 4096, 4096), (1, 32768, 32768), (1, 4096, 36864)):
        page, need = 16, rows * lens // 16
        kv = [b.random(need * page, KV_HEADS, DIM) for _ in range(2)]
        plan = plan_of(
            b, decode_batch(lens, rows, new, torch.randperm(need).view(rows, -1)), page, False
        )
        q = b.random(rows * new, HEADS, DIM)
        out = torch.empty_like(q)
        flops = 4 * DIM * HEADS * rows * new * (lens - new + new / 2)
        us = graph_time(
            [partial(attention, q, kv[0], kv[1], out, plan, page, DIM**-0.5, None)], repeats=5
        )
        peers: dict[str, float] = {}
        if new == lens:
            x = [b.random(rows, h, lens, DIM) for h in (HEADS, KV_HEADS, KV_HEADS)]
            calls = {
                f"SDPA {name}, contiguous": partial(_sdpa, backend, x[0], x[1], x[2], True)
                for name, backend in SDPA.items()
            }
            peers = tried({name: partial(graph_time, [c], 4.0, 5) for name, c in calls.items()})
        yield b.row(
            "prefill attention", f"{rows} x {new} new of {lens}, page {page}", us,
            b.ceilings.arithmetic(flops), peers, flops=flops, tflops=round(flops / us / 1e6, 1),
        )  # fmt: skip
