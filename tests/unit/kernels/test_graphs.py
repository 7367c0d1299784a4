"""Captured decode steps: bit-equal to eager ones whatever changes between two replays."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kernels_cupy.graphs import SEEN, Graphs
from kernels_cupy.ops import CudaOps
from kernels_cupy.pool import CudaPool
from tests.unit.kernels.capture import Rerun
from tests.unit.model import nets
from tests.unit.model.test_adapters import peft_on
from workbench.forward import PLAIN, Override
from workbench.model.checkpoint import open_checkpoint
from workbench.model.config import shape_of
from workbench.model.decoder import Decoder
from workbench.model.weights import NetBuilder

SMALL = {
    "hidden_size": 128, "intermediate_size": 128, "head_dim": 64, "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_hidden_layers": 2,
}  # fmt: skip
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SMALL),
    "qwen3": ("Qwen3", SMALL),
    "mistral sliding": ("Mistral", {**SMALL, "sliding_window": 7}),
    "qwen3 moe": (
        "Qwen3Moe",
        {**SMALL, **nets.SPARSE, "moe_intermediate_size": 64, "norm_topk_prob": True},
    ),
}


class Twins:
    """The same rows through a decoder that captures and through one that does not."""

    def __init__(self, folder: Path, page: int = 16) -> None:
        capturing = CudaOps(emulated=True, capture=Rerun())
        self.replaying = nets.Paged(self.decoder(folder, capturing), page)
        self.eager = nets.Paged(self.decoder(folder, CudaOps(emulated=True)), page)

    @staticmethod
    def decoder(folder: Path, ops: CudaOps) -> Decoder:
        checkpoint = open_checkpoint(folder)
        shape = shape_of(checkpoint.config)
        net = NetBuilder(shape, checkpoint, ops, torch.bfloat16, ops.device).net()
        return Decoder(
            shape, net, ops, name=ops.name, dtype=torch.bfloat16, device=ops.device,
            make_pool=CudaPool,
        )  # fmt: skip

    @property
    def graphs(self) -> Graphs:
        pool = self.replaying.pool
        assert isinstance(pool, CudaPool) and pool.graphs is not None
        return pool.graphs

    def row(self, n: int, seed: int, override: Override = PLAIN) -> tuple[nets.Row, nets.Row]:
        ids = nets.tokens(n, seed)
        return self.replaying.row(ids, override), self.eager.row(ids, override)

    def step(self, *work: tuple[tuple[nets.Row, nets.Row], int], **extra: Any) -> None:
        """Both take the step; the results must be equal to the bit."""
        got = self.replaying.step([(pair[0], n) for pair, n in work], **extra)
        want = self.eager.step([(pair[1], n) for pair, n in work], **extra)
        self.last = got.logits
        assert torch.equal(got.logits, want.logits)
        assert len(got.routing) == len(want.routing)
        for ours, theirs in zip(got.routing, want.routing, strict=True):
            assert ours.layer == theirs.layer
            assert torch.equal(ours.experts, theirs.experts)
            assert torch.equal(ours.weights, theirs.weights)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(name: str) -> Path:
        monkeypatch.setitem(nets.NETS, name, NETS[name])
        nets.make(name, tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize("name", NETS)
def test_replays_equal_eager_steps(made: Any, name: str) -> None:
    twins = Twins(made(name))
    rows = [twins.row(40, seed) for seed in range(3)]
    twins.step((rows[0], 20), (rows[1], 9), (rows[2], 15))
    for _ in range(5):  # the middle row fills its page and takes another one
        twins.step(*((row, 1) for row in rows), routing=True)
    twins.step((rows[0], 1), (rows[2], 1))  # another number of rows
    twins.step((rows[0], 1), (rows[1], 3), (rows[2], 1))  # a mixed batch
    for _ in range(3):
        twins.step((rows[1], 1), (rows[0], 1), (rows[2], 1), routing=True)
    counts = twins.graphs.counts
    assert counts.captured == 1 and counts.replayed == 7, counts


@pytest.mark.parametrize("name", ["llama", "mistral sliding"])
def test_steps_of_several_tokens_are_replayed(
    made: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows decode, others have several tokens: one shape, and what tiles would give."""
    twins = Twins(made(name))
    tiled = nets.Paged(twins.decoder(made(name), CudaOps(emulated=True)), 16)
    rows = [(*twins.row(90, seed), tiled.row(nets.tokens(90, seed))) for seed in range(4)]
    for counts in ((30, 7, 20, 1), (1, 5, 1, 2), (1, 1, 6, 1), (2, 4, 1, 3), (3, 1, 1, 4)):
        asked = torch.tensor(counts).cumsum(0) - 1
        mine = [((row[0], row[1]), n) for row, n in zip(rows, counts, strict=True)]
        twins.step(*mine, logit_rows=asked)
        with monkeypatch.context() as patch:
            patch.setattr("kernels_cupy.decode.MOST", 0)
            work = [(row[2], n) for row, n in zip(rows, counts, strict=True)]
            batch = tiled.batch(work, logit_rows=asked)
            want = tiled.forward(batch, tiled.pool).logits
        got = twins.last
        assert got.shape == want.shape and (got - want).abs().max() < 0.05 * want.abs().max()
    assert twins.graphs.counts.replayed == 3


def test_replays_follow_pruned_and_forked_tables(made: Any) -> None:
    twins = Twins(made("llama"), page=4)
    rows = [twins.row(60, seed) for seed in range(2)]
    twins.step((rows[0], 30), (rows[1], 30))
    for _ in range(4):
        twins.step(*((row, 1) for row in rows))
    for row in rows[0]:  # pruned to its first pages, and rotated onto pages elsewhere
        row.stored = 8
        row.ids = row.ids[:8] + row.ids[20:]
        row.pages = row.pages[:2] + row.pages[:1:-1]
    twins.step(*((row, 1) for row in rows))
    for mine, parents in zip(rows[1], rows[0], strict=True):  # both now read the same first pages
        mine.pages = parents.pages[:2] + mine.pages[2:]
        mine.stored, mine.ids = 8, parents.ids[:8] + mine.ids[8:]
    for _ in range(3):
        twins.step(*((row, 1) for row in rows))
    assert twins.graphs.counts.replayed >= 6


def test_shared_prefixes_are_replayed_too(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels_cupy.plan.WORTH", 1)
    twins = Twins(made("llama"))
    first = twins.row(180, 0)
    rows = [first, *(twins.row(180, seed) for seed in (1, 2))]
    twins.step((first, 130))
    for row in rows[1:]:
        for mine, parents in zip(row, first, strict=True):
            mine.pages = parents.pages[:8] + mine.pages[8:]
            mine.ids, mine.stored = parents.ids[:128] + mine.ids[128:], 128
    for _ in range(5):
        twins.step(*((row, 1) for row in rows))
    assert twins.graphs.counts.replayed == 4


def test_adapters_of_all_and_of_some_rows(made: Any, tmp_path: Path) -> None:
    folder = made("llama")
    twins = Twins(folder)
    import transformers

    for seed, name in enumerate(("one", "two")):
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        peft_on(base, tmp_path / name, seed)
        for paged in (twins.replaying, twins.eager):
            assert isinstance(paged.forward, Decoder)
            paged.forward.load_adapter(name, tmp_path / name)
    one, two = Override(adapter="one"), Override(adapter="two", scale=0.5)
    rows = [twins.row(30, i, o) for i, o in enumerate((one, one, two, PLAIN))]
    twins.step(*((row, 9) for row in rows))
    for some in (rows[:2], rows, [rows[2], rows[0], rows[3]]):  # three fill up to four
        for _ in range(4):
            twins.step(*((row, 1) for row in some))
    assert twins.graphs.counts.captured == 2


def test_a_refused_capture_goes_on_eagerly_and_says_why(made: Any) -> None:
    twins = Twins(made("llama"))
    ops = twins.replaying.forward.ops  # type: ignore[attr-defined]
    ops._capture = Rerun(broken=True)
    row = twins.row(20, 0)
    for _ in range(SEEN):
        twins.step((row, 1))
    with pytest.warns(UserWarning, match="such steps run eagerly"):
        twins.step((row, 1))
    for _ in range(3):
        twins.step((row, 1))
    counts = twins.graphs.counts
    assert counts.captured == 0 and counts.eager == SEEN + 4
    assert "capture failed: operation not permitted" in next(iter(counts.why))


def test_old_graphs_give_way(made: Any) -> None:
    twins = Twins(made("llama"))
    rows = [twins.row(60, seed) for seed in range(3)]
    twins.step(*((row, 1) for row in rows))
    twins.graphs._limit = 2
    for some in (rows[:1], rows[:2], rows, rows[:1]):
        for _ in range(4):
            twins.step(*((row, 1) for row in some))
    assert twins.graphs.counts.evicted >= 2
