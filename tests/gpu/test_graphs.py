"""Captured decode steps on a GPU: bit-equal to eager ones, pruned, forked, adapted, row by row."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kernels_cupy.ops import CudaOps
from kernels_cupy.pool import CudaPool
from tests.gpu.test_decoder import NETS
from tests.unit.kernels.test_graphs import Twins
from tests.unit.model import nets
from workbench.forward import PLAIN, Override
from workbench.model.decoder import Decoder
from workbench.model.lora import sizes
from workbench.model.shape import ModelShape

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
    assert counts.captured >= 4 and counts.replayed > counts.captured and not counts.why


def adapter(folder: Path, shape: ModelShape, seed: int) -> Path:
    """A PEFT folder of random weights for every projection."""
    g, rank = torch.Generator().manual_seed(seed), 4 + seed
    weights = {}
    for layer in range(shape.layers):
        for name, (inward, outward) in sizes(shape).items():
            at = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{at}.lora_A.weight"] = torch.randn(rank, inward, generator=g) * 0.1
            weights[f"{at}.lora_B.weight"] = torch.randn(outward, rank, generator=g) * 0.1
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_adapters_of_all_and_of_some_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nets.NETS, "llama", NETS["llama"])
    nets.make("llama", tmp_path)
    twins = GpuTwins(tmp_path)
    for paged in (twins.replaying, twins.eager):
        assert isinstance(paged.forward, Decoder)
        for seed, name in enumerate(("one", "two")):
            shape = paged.forward._shape
            folder = tmp_path / f"{name} {id(paged)}"
            paged.forward.load_adapter(name, adapter(folder, shape, seed))
    one, two = Override(adapter="one"), Override(adapter="two", scale=0.5)
    rows = [twins.row(60, i, o) for i, o in enumerate((one, one, two, PLAIN))]
    twins.step(*((row, 9) for row in rows))
    for some in (rows[:2], rows, [rows[2], rows[0], rows[3]], rows):
        for _ in range(5):
            twins.step(*((row, 1) for row in some))
    assert twins.graphs.counts.captured == 2 and not twins.graphs.counts.why


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
        for count in (1, 2, 4, 8):
            for _ in range(4):
                twins.step(*((row, 1) for row in rows[:count]))
        reserved.append(torch.cuda.memory_reserved())
    print("MB after each round", [r >> 20 for r in reserved], twins.graphs.counts)
    assert twins.graphs.counts.evicted >= 8
    assert reserved[-1] - reserved[1] < 8 << 20
    assert isinstance(twins.replaying.pool, CudaPool)
