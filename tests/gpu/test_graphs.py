"""Captured decode steps on a GPU: bit-equal to eager ones, pruned, forked, adapted, row by row."""

from pathlib import Path

import pytest
import torch

from kernels_cupy.ops import CudaOps
from kernels_cupy.pool import CudaPool
from tests.gpu.test_decoder import NETS
from tests.unit.kernels.test_graphs import Twins
from tests.unit.model import nets

pytestmark = pytest.mark.gpu


class GpuTwins(Twins):
    """`Twins` whose captures are the driver's."""

    def __init__(self, folder: Path, page: int = 16) -> None:
        self.replaying = nets.Paged(self.decoder(folder, CudaOps(replays=True)), page, 256)
        self.eager = nets.Paged(self.decoder(folder, CudaOps(replays=False)), page, 256)


@pytest.mark.parametrize("name", NETS)
def test_replays_equal_eager_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(nets.NETS, name, NETS[name])
    nets.make(name, tmp_path)
    twins = GpuTwins(tmp_path)
    rows = [twins.row(200, seed) for seed in range(9)]
    twins.step(*((row, 30 + 7 * i) for i, row in enumerate(rows)))
    for count in (9, 1, 5, 9, 8, 1, 2):
        for _ in range(6):
            twins.step(*((row, 1) for row in rows[:count]), routing=True)
        twins.step((rows[0], 1), (rows[1], 5), (rows[2], 1))
    for row in rows[0]:  # pruned, what stays behind the hole lies elsewhere
        row.stored, row.ids = 32, row.ids[:32] + row.ids[64:]
        row.pages = row.pages[:2] + row.pages[:1:-1]
    for mine, parents in zip(rows[1], rows[0], strict=True):  # a fork
        mine.pages, mine.stored = parents.pages[:2] + mine.pages[2:], 32
        mine.ids = parents.ids[:32] + mine.ids[32:]
    for _ in range(6):
        twins.step(*((row, 1) for row in rows))
    counts = twins.graphs.counts
    print(name, counts)
    assert counts.captured >= 5 and counts.replayed > counts.captured and not counts.why


def test_old_graphs_are_freed_and_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(nets.NETS, "llama", NETS["llama"])
    nets.make("llama", tmp_path)
    twins = GpuTwins(tmp_path)
    rows = [twins.row(250, seed) for seed in range(8)]
    twins.step(*((row, 20) for row in rows))
    twins.step(*((row, 1) for row in rows))
    twins.graphs._limit = 3
    reserved = []
    for _ in range(4):
        for count in range(1, 9):
            for _ in range(4):
                twins.step(*((row, 1) for row in rows[:count]))
        reserved.append(torch.cuda.memory_reserved())
    print("MB after each round", [r >> 20 for r in reserved], twins.graphs.counts)
    assert twins.graphs.counts.evicted >= 8
    assert reserved[-1] - reserved[1] < 8 << 20
    assert isinstance(twins.replaying.pool, CudaPool)
