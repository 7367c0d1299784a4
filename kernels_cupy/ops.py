"""`CudaOps`: the operations of `workbench.ops.contract` as our CUDA kernels, dense products by
cuBLAS.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels_cupy import bridge, decode
from kernels_cupy.attention import attention
from kernels_cupy.expert_mlp import expert_mlp
from kernels_cupy.graphs import Capture, CudaCapture, Graphs
from kernels_cupy.rms_norm import add_rms_norm, rms_norm
from kernels_cupy.route import route
from kernels_cupy.sample import sample
from kernels_cupy.silu_mul import silu_mul
from kernels_cupy.step import StepPlan
from kernels_cupy.store_kv import rope_store
from workbench.forward import ForwardBatch, Pool
from workbench.ops.contract import HeadNorm, Linear, Recipe, Rotary, Sampled, SamplerRow


class CublasLinear:
    """A weight as loaded, multiplied by cuBLAS through torch."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.out_features, self.in_features = weight.shape
        self.form = "as loaded"

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def float32(self, x: Tensor) -> Tensor:
        if self.bias is not None or not x.is_cuda or x.dtype == torch.float32:
            return self(x).float()
        return torch.mm(x, self.weight.t(), out_dtype=torch.float32)


class CudaOps:
    """`ops.contract.Ops` on one CUDA device. `share_prefixes`: pages that many rows have in common
    are read once for all of them where that saves time. Steps of few new tokens are captured in
    CUDA graphs and replayed (`graphs`), unless `replays` is False (WORKBENCH_GRAPHS=0).
    `emulated` runs the kernels on the CPU, `capture` stands in for the driver's (for tests).
    """

    def __init__(
        self,
        *,
        share_prefixes: bool = True,
        emulated: bool = False,
        capture: Capture | None = None,
        replays: bool = os.environ.get("WORKBENCH_GRAPHS") != "0",
    ) -> None:
        self.device = torch.device("cpu") if emulated else bridge.require()
        self._capture = capture
        self._replays = replays and (capture is not None or not emulated)
        self.name = "cuda emulated" if emulated else "cuda"
        self.share_prefixes = share_prefixes

    def prepare(self, batch: ForwardBatch, pool: Pool, rotary: Rotary) -> StepPlan:
        return StepPlan(batch, pool, rotary, self.share_prefixes)

    def replay(
        self, batch: ForwardBatch, pool: Any, rotary: Rotary, recipe: Recipe
    ) -> tuple[Tensor, ...] | None:
        graphs = self.graphs(pool)
        return decode.replay(graphs, batch, pool, rotary, recipe, self.share_prefixes)

    def graphs(self, pool: Any) -> Graphs:
        """The captured steps over `pool`."""
        if pool.graphs is None:
            capture = (self._capture or CudaCapture(self.device)) if self._replays else None
            pool.graphs = Graphs(self.device, capture)
        graphs: Graphs = pool.graphs
        return graphs

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        return CublasLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm(x, weight, eps)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, residual, weight, eps)

    def rope_store(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: Any,
        layer: int,
        norm: HeadNorm | None = None,
    ) -> Tensor:
        keys, values = plan.pool.keys[layer], plan.pool.values[layer]
        return rope_store(q, k, v, plan.table, plan.slots, keys, values, norm)

    def attention(
        self, q: Tensor, plan: Any, layer: int, scale: float, sliding_window: int | None
    ) -> Tensor:
        keys, values = plan.pool.keys[layer], plan.pool.values[layer]
        work = plan.attention(sliding_window, q.shape[1])
        out = torch.empty_like(q)
        attention(q, keys, values, out, work, plan.layout.page_size, scale, sliding_window)
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return silu_mul(gate_up)

    def route(self, logits: Tensor, k: int, normalise: bool) -> tuple[Tensor, Tensor]:
        return route(logits, k, normalise)

    def expert_mlp(
        self, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        return expert_mlp(x, experts, weights, gate_up, down)

    def sample(
        self,
        logits: Tensor,
        rows: Sequence[SamplerRow],
        mask: Tensor | None,
        seen: Sequence[Tensor],
        bias: Sequence[tuple[Tensor, Tensor] | None],
        uniforms: Tensor,
        top_n: int,
    ) -> Sampled:
        return sample(logits, rows, mask, seen, bias, uniforms, top_n)
