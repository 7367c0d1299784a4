"""`bench step`: our kernels and cuBLAS alone, a decode step of a net's shape in one CUDA graph.

`python -m kernels_cupy.bench_step [--part qwen3-8b]` prints JSON rows: `value` in tokens a second,
`floor` the tokens a second that reading the weights and the KV entries once would allow.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels_cupy import bridge
from kernels_cupy import sample as sampling
from kernels_cupy.attention import attention, plan_attention
from kernels_cupy.bench import facts
from kernels_cupy.expert_mlp import expert_mlp
from kernels_cupy.plan import AttentionPlan
from kernels_cupy.rms_norm import add_rms_norm, rms_norm
from kernels_cupy.route import route
from kernels_cupy.silu_mul import silu_mul
from kernels_cupy.store_kv import rope_store, rope_table
from kernels_cupy.timing import Ceilings, graph_time, measure_ceilings
from workbench.forward import ForwardBatch
from workbench.ops.contract import HeadNorm, SamplerRow

PAGE = 16


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
    vocabulary: int = 151936
    experts: int = 0
    k: int = 0


SHAPES = {
    "qwen3-8b": Shape(36, 4096, 32, 8, 128, 12288),
    "qwen3-30b-a3b": Shape(48, 2048, 32, 4, 128, 768, experts=128, k=8),
}


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    qkv: Tensor
    o: Tensor
    gate_up: Tensor  # [2F, M] or [E, 2F, M]
    down: Tensor
    router: Tensor | None
    norm: Tensor  # [M], shared by both norms
    heads: HeadNorm


class Step:
    """The net and the step's device buffers; `run` is what a graph captures."""

    def __init__(self, shape: Shape, rows: int, context: int, device: torch.device) -> None:
        self.shape, self.rows, self.device = shape, rows, device
        self.layers = [self._layer() for _ in range(shape.layers)]
        self.head = self._weight(shape.vocabulary, shape.width)
        self.norm = torch.ones(shape.width, dtype=torch.bfloat16, device=device)
        pages = -(-context // PAGE) * rows
        slots = pages * PAGE
        pool = (shape.layers, slots, shape.kv_heads, shape.dim)
        self.keys, self.values = (
            torch.randn(pool, dtype=torch.bfloat16, device=device) for _ in range(2)
        )
        tables = torch.randperm(pages).view(rows, -1)
        self.positions = torch.full((rows,), context - 1, device=device)
        last = tables[:, (context - 1) // PAGE] * PAGE + (context - 1) % PAGE
        self.slots = last.to(device)
        self.inv_freq = 1e6 ** (-torch.arange(0, shape.dim, 2, device=device).float() / shape.dim)
        none = torch.zeros(0, dtype=torch.int64)
        lens = torch.full((rows,), context)
        batch = ForwardBatch(none, none, none, torch.arange(rows + 1), lens, tables)
        self.plan: AttentionPlan = plan_attention(
            batch, None, shape.heads, shape.kv_heads, shape.dim, device, None, []
        )
        self.x = torch.randn(rows, shape.width, dtype=torch.bfloat16, device=device)
        self.settings = sampling.settings([SamplerRow()] * rows).to(device)
        self.uniforms = torch.zeros(rows, dtype=torch.float64, device=device)

    @property
    def bytes(self) -> int:
        """Weights and KV entries that a step reads; of experts, those that a row hits at most."""
        s = self.shape
        entries = self.keys[0].numel() * 2 * s.layers
        layer = self.layers[0]
        mlp = layer.gate_up.numel() + layer.down.numel()
        if s.experts:
            mlp = mlp * min(s.experts, self.rows * s.k) // s.experts
        dense = layer.qkv.numel() + layer.o.numel() + mlp
        return 2 * (s.layers * dense + self.head.numel() + entries)

    def run(self) -> Tensor:
        """Tokens [B] of the next position, greedy."""
        s = self.shape
        table = rope_table(self.positions, self.inv_freq, 1.0, s.dim)
        x, residual = rms_norm(self.x, self.norm, 1e-6), self.x
        for index, layer in enumerate(self.layers):
            qkv = F.linear(x, layer.qkv).view(self.rows, -1, s.dim)
            q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], 1)
            keys, values = self.keys[index], self.values[index]
            q = rope_store(q, k, v, table, self.slots, keys, values, layer.heads)
            out = torch.empty_like(q)
            attention(q, keys, values, out, self.plan, PAGE, s.dim**-0.5, None)
            x = F.linear(out.view(self.rows, -1), layer.o)
            x, residual = add_rms_norm(x, residual, layer.norm, 1e-6)
            x, residual = add_rms_norm(self._mlp(layer, x), residual, layer.norm, 1e-6)
        logits = F.linear(x, self.head).float()
        return sampling.draw(logits, self.settings, None, self.uniforms, 1)[0].token

    def _mlp(self, layer: Layer, x: Tensor) -> Tensor:
        if layer.router is None:
            return F.linear(silu_mul(F.linear(x, layer.gate_up)), layer.down)
        chosen, weights = route(F.linear(x, layer.router), self.shape.k, True)
        return expert_mlp(x, chosen, weights, layer.gate_up, layer.down)

    def _layer(self) -> Layer:
        s = self.shape
        many = (s.experts,) if s.experts else ()
        ones = [torch.ones(n, dtype=torch.bfloat16, device=self.device) for n in (s.width, s.dim)]
        return Layer(
            self._weight((s.heads + 2 * s.kv_heads) * s.dim, s.width),
            self._weight(s.width, s.heads * s.dim),
            self._weight(*many, 2 * s.inner, s.width),
            self._weight(*many, s.width, s.inner),
            self._weight(s.experts, s.width) if s.experts else None,
            ones[0],
            HeadNorm(ones[1], ones[1], 1e-6),
        )

    def _weight(self, *shape: int) -> Tensor:
        w = torch.randn(*shape, dtype=torch.bfloat16, device=self.device)
        return w.mul_(shape[-1] ** -0.5)


def _row(name: str, step: Step, context: int, ceilings: Ceilings) -> dict[str, Any]:
    us = graph_time([step.run], target_ms=20.0)
    floor = step.rows * 1e6 / (step.bytes / ceilings.read * 1e6)
    value = step.rows * 1e6 / us
    return {
        "metric": "decode step", "shape": f"{name}, batch {step.rows}, {context} context",
        "impl": "cuda", "value": round(value, 1), "unit": "tok/s", "peer": None, "ratio": None,
        "floor": round(floor, 1), "floor_ratio": round(value / floor, 3), "ms": round(us / 1e3, 3),
        "bytes": step.bytes,
    }  # fmt: skip


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the shapes in `args.part` (all without one), 4k context, batch 1, 8, 64."""
    device = bridge.require()
    ceilings, context = measure_ceilings(device), 4096
    for name in args.part.split(",") if args.part else SHAPES:
        for batch in (1, 8, 64):
            step = Step(SHAPES[name], batch, context, device)
            yield {**_row(name, step, context, ceilings), **facts(device)}
            del step
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default=None)
    for row in rows(parser.parse_args()):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
