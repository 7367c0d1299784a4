"""Steps of few tokens captured in CUDA graphs: each shape once, then replayed from its buffers.

What a graph bakes in is its *shape*: tokens, net, room of the block tables, how many items and
parts attention has. Everything else (tokens, positions, slots, tables) lies in buffers of the
graph's own, filled by one pinned copy before each replay. A shape runs eagerly until it has come
often enough; graphs beyond `LIMIT` give way to newer ones. They share one memory pool, since only
one of them runs at a time.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels_cupy.staging import Staging, places, room

LIMIT = 96  # graphs kept; one of 36 layers takes about 1 MB
SEEN = 1  # eager runs of a shape before it is captured
Outputs = tuple[Tensor, ...]


class Capture(Protocol):
    """Records what `run` launches. The first value replays it, the second is what `run` gave."""

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]: ...


class CudaCapture:
    """Capture by the CUDA driver, on a stream of its own, into one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        # not torch.cuda.graph: it collects garbage and empties the allocator's cache each time
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = run()
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        return graph.replay, outputs


@dataclass(slots=True, eq=False)
class _Step:
    """One shape: its buffer, the launches over it, and their graph once it has one."""

    buffer: Tensor
    places: list[Tensor]
    run: Callable[[], Outputs]
    uses: int = 0
    replay: Callable[[], None] | None = None
    outputs: Outputs = ()
    refused: bool = False


@dataclass(slots=True)
class Counts:
    """What became of decode steps. `why`: reasons of eager ones."""

    captured: int = 0
    replayed: int = 0
    eager: int = 0
    evicted: int = 0
    why: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        self.why[reason] = self.why.get(reason, 0) + 1


class Graphs:
    """Captured steps over one pool of KV memory."""

    def __init__(
        self, device: torch.device, capture: Capture | None, limit: int = LIMIT, seen: int = SEEN
    ) -> None:
        """Without `capture` every step runs eagerly."""
        self.device, self.counts = device, Counts()
        self._capture, self._limit, self._seen = capture, limit, seen
        self._steps: OrderedDict[Hashable, _Step] = OrderedDict()
        self._staging = Staging(device)
        self._head: Tensor | None = None

    def run(
        self,
        key: Hashable,
        arrays: Sequence[NDArray[Any]],
        make: Callable[[list[Tensor]], Callable[[], Outputs]],
        drawn: Tensor | None = None,
    ) -> Outputs:
        """The outputs of the step of this shape over `arrays`, valid until the next run. `make`
        is called once a shape, with the arrays' places on the device, and gives the launches.
        `drawn` replaces the beginning of the first array's first row."""
        step = self._steps.get(key)
        if step is None:
            step = self._new(key, arrays, make)
        self._steps.move_to_end(key)
        self._staging.send(arrays, step.buffer)
        if drawn is not None:
            step.places[0][0, : len(drawn)].copy_(drawn)
        if self._capture is not None and step.replay is None and step.uses >= self._seen:
            self._record(step, self._capture)
        step.uses += 1
        if step.replay is None:
            self.counts.eager += 1
            outputs = step.run()
            self._room_for(outputs[0])  # not first asked for during a capture
            return outputs
        self.counts.replayed += 1
        step.replay()
        return step.outputs

    def _new(
        self,
        key: Hashable,
        arrays: Sequence[NDArray[Any]],
        make: Callable[[list[Tensor]], Callable[[], Outputs]],
    ) -> _Step:
        while len(self._steps) >= self._limit:
            _, oldest = self._steps.popitem(last=False)
            if oldest.replay is not None and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # it may be running
            self.counts.evicted += 1
        buffer = torch.empty(room(arrays), dtype=torch.uint8, device=self.device)
        views = places(buffer, arrays)
        self._steps[key] = step = _Step(buffer, views, make(views))
        return step

    def _record(self, step: _Step, capture: Capture) -> None:
        if step.refused:
            return

        def run() -> Outputs:
            first, *others = step.run()
            out = self._room_for(first)
            out.copy_(first)
            return (out, *others)

        try:
            step.replay, step.outputs = capture(run)
        except RuntimeError as error:  # the step goes on eagerly
            step.refused = True
            reason = f"capture failed: {str(error).splitlines()[0]}"
            if reason not in self.counts.why:
                warnings.warn(f"CUDA graphs: {reason}; such steps run eagerly", stacklevel=2)
            self.counts.refuse(reason)
            return
        self.counts.captured += 1

    def _room_for(self, head: Tensor) -> Tensor:
        """A place that all graphs write their widest output to: kept apart it would fill the
        device."""
        rows, width = head.shape
        if self._head is None or self._head.shape[0] < rows or self._head.dtype != head.dtype:
            most = 1 << max(0, rows - 1).bit_length()
            self._head = torch.empty(most, width, dtype=head.dtype, device=head.device)
        return self._head[:rows]
