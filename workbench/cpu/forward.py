"""The laptop engine as a `forward.Forward`: a whole step in one native call, over packed
weights."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.cpu import adapters, build, isa
from workbench.cpu import fields as f
from workbench.cpu.crew import Crew
from workbench.cpu.dots import ROWS
from workbench.cpu.packing import dense
from workbench.cpu.plan import Planner, StepPlan, check
from workbench.cpu.pool import DimPool
from workbench.cpu.prompts import Prompts
from workbench.cpu.tables import NetTables
from workbench.cpu.turns import Turns
from workbench.cpu.weights import PackedNet
from workbench.forward import Abandoned, ForwardBatch, ForwardOutput, Pool, StopFlag
from workbench.kv.layout import KVLayout
from workbench.model.shape import unserved

ReadAdapter = Callable[[str, Path], Sequence[Mapping[str, adapters.Pair]]]


class NumbaForward:
    """Carries out batches over a `DimPool`.

    `pulse`: handed a `StopFlag`, the step is one native call that reads the flag between layers;
    handed any other callable, the calling thread comes back to Python after every layer to call it.
    Either way at most the layer in flight completes after a stop. Results do not depend on
    `threads`, nor a row's on the rows beside it, to the bit; unless `prompts` is set.
    """

    def __init__(
        self,
        net: PackedNet,
        *,
        threads: int = 1,
        instructions: str | None = None,
        kv: torch.dtype = torch.float16,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.net, self.facts, self.kv, self.threads = net, net.shape, kv, threads
        self.isa, self.reason = isa.choose(instructions)
        self.built = build.build(self.isa, kv == torch.float16, say)
        self.name = f"numba {net.matrices['0.qkv'].parts[0].form.split('_')[0]}"
        self.read_adapter: ReadAdapter | None = None
        self.prompts: Prompts | None = None  # a faster way for long ones, where a person wants it
        self.adapters: dict[str, adapters.NativeAdapter] = {}
        self._rotary = net.shape.rope.rotary(net.shape.head_dim)
        self._tables = NetTables(net)
        self._planner = Planner(net.shape, self._tables.words, Turns(self._rotary), threads)
        self._crew = Crew(self.built.run, threads)
        self._one_at_a_time = threading.Lock()

    def add_adapter(self, name: str, layers: Sequence[Mapping[str, adapters.Pair]]) -> None:
        """Serve an adapter, for `Override(adapter=name)`: per layer, fused projection -> pair."""
        self.adapters[name] = adapters.NativeAdapter(layers)

    def load_adapter(self, name: str, path: Path) -> None:
        """The same from a folder, through the reader that was handed in as `read_adapter`."""
        if self.read_adapter is None:
            raise ValueError(f"adapter {name!r}: no reader was handed in; use add_adapter")
        self.add_adapter(name, self.read_adapter(name, path))

    def close(self) -> None:
        """Let the helper threads go."""
        self._crew.close()

    def layout(self, pages: int, page_size: int) -> KVLayout:
        s = self.facts
        return KVLayout(s.layers, pages, page_size, s.kv_heads, s.head_dim, self.kv, "dim")

    def new_pool(self, layout: KVLayout) -> DimPool:
        if layout.dtype != self.kv:
            raise ValueError(f"this step was made for {self.kv} pages, got {layout.dtype}")
        return DimPool(layout, self._rotary.inv_freq)

    def unserved(self, batch: ForwardBatch) -> str | None:
        return unserved(self.facts, batch, self.adapters)

    def embed(self, ids: Tensor) -> Tensor:
        at = self.net.matrices["embedding"]
        part = at.parts[0]
        form, tiles = part.packed_form, self.net.tiles(at, part)
        wanted = ids.numpy()
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.facts.vocabulary:
            raise ValueError(f"ids must be of 0 to {self.facts.vocabulary - 1}")
        rows = [
            dense(tiles[n // ROWS : n // ROWS + 1], form, ROWS)[n % ROWS] for n in wanted.tolist()
        ]
        return torch.from_numpy(np.array(rows, np.float32).reshape(-1, self.facts.width))

    def project(self, hidden: Tensor, normed: bool) -> Tensor:
        with self._one_at_a_time:
            plan = self._planner.projection(hidden, normed)
            self._arm(plan, None)
            self._crew.whole(plan.address, 0, 0)
        return plan.logits[:, : self.facts.vocabulary]

    def __call__(
        self, batch: ForwardBatch, pool: Pool, pulse: Callable[[], None] | None = None
    ) -> ForwardOutput:
        if not isinstance(pool, DimPool):
            raise ValueError(
                f"{self.name}: wanted a DimPool (order 'dim'), got {type(pool).__name__}"
            )
        check(batch, pool, self.facts.vocabulary)
        if self.prompts is not None and self.prompts.takes(batch):
            return self.prompts.run(batch, pool, pulse)
        with self._one_at_a_time:
            plan = self._planner.plan(batch, pool, self.adapters)
            self._run(plan, pulse)
        return self._output(plan, batch)

    def _arm(self, plan: StepPlan, flag: StopFlag | None) -> None:
        self._tables.arm(plan.words, flag)
        plan.words[f.THREADS] = self._crew.hands()

    def _run(self, plan: StepPlan, pulse: Callable[[], None] | None) -> None:
        if pulse is None or isinstance(pulse, StopFlag):
            self._arm(plan, pulse)
            if not self._crew.whole(plan.address, 0, plan.run):
                raise Abandoned
            return
        flag = StopFlag()
        self._arm(plan, flag)
        self._crew.layer_by_layer(plan.address, plan.run, pulse, flag.set)

    def _output(self, plan: StepPlan, batch: ForwardBatch) -> ForwardOutput:
        vocabulary = self.facts.vocabulary
        logits = plan.logits
        if logits.shape[1] != vocabulary:
            logits = logits[:, :vocabulary].contiguous()
        if -1 in batch.hidden_layers:
            plan.hidden[-1] = plan.normed[len(logits) :].clone()
        return ForwardOutput(logits, plan.hidden, plan.routing)
