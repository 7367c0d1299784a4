"""The torch pool: moving with a turn, saving, copying, poison."""

import pytest
import torch

from workbench.forward import ForwardBatch
from workbench.kv.layout import KVLayout
from workbench.kv.pool import TorchPool
from workbench.model.shape import Rope
from workbench.ops.cpu import CpuOps

LAYOUT = KVLayout(layers=2, pages=5, page_size=4, kv_heads=2, head_dim=8, dtype=torch.float32)
ROPES = {
    "plain": Rope(10000.0),
    "yarn": Rope(10000.0, "yarn", factor=4.0, original_window=32),
    "linear": Rope(500.0, "linear", factor=2.0),
}


def pool(rope: Rope = ROPES["plain"]) -> TorchPool:
    made = TorchPool(LAYOUT, rope.rotary(8).inv_freq)
    generator = torch.manual_seed(0)
    made.k.normal_(generator=generator)
    made.v.normal_(generator=generator)
    return made


@pytest.mark.parametrize("name", ROPES)
def test_moved_keys_equal_keys_stored_at_the_new_positions(name: str) -> None:
    rope = ROPES[name]
    ops, memory = CpuOps(), pool(rope)
    q, k, v = (torch.randn(3, 2, 8, generator=torch.manual_seed(s)) for s in (1, 2, 3))

    def store(first_slot: int, first_position: int) -> None:
        slots = torch.arange(first_slot, first_slot + 3)
        positions = torch.arange(first_position, first_position + 3)
        batch = ForwardBatch(
            torch.zeros(3, dtype=torch.int64), positions, slots, torch.tensor([0, 3]),
            torch.tensor([3]), torch.tensor([[0]]),
        )  # fmt: skip
        for layer in range(2):
            ops.rope_store(q, k, v, ops.prepare(batch, memory, rope.rotary(8)), layer)

    store(0, 40)
    store(8, 23)
    memory.move(torch.tensor([0, 1, 2]), torch.tensor([12, 13, 14]), 23 - 40)
    for layer in range(2):
        moved_k, moved_v = memory.read(layer, torch.tensor([12, 13, 14]))
        fresh_k, fresh_v = memory.read(layer, torch.tensor([8, 9, 10]))
        assert (moved_k - fresh_k).abs().max() <= 2e-5
        assert torch.equal(moved_v, fresh_v)


def test_overlapping_moves_read_all_before_they_write() -> None:
    memory = pool()
    src, dst = torch.tensor([3, 4, 5, 6]), torch.tensor([4, 5, 6, 7])
    want = [memory.read(layer, src) for layer in range(2)]
    memory.move(src, dst, 0)
    for layer, (k, v) in enumerate(want):
        got_k, got_v = memory.read(layer, dst)
        assert torch.equal(got_k, k) and torch.equal(got_v, v)


def test_there_and_back_is_where_it_was() -> None:
    memory = pool()
    slots = torch.arange(6)
    before, _ = memory.read(1, slots)
    memory.move(slots, slots, 7)
    assert (memory.read(1, slots)[0] - before).abs().max() > 0.1
    memory.move(slots, slots, -7)
    assert (memory.read(1, slots)[0] - before).abs().max() <= 1e-5


def test_saved_pages_come_back_elsewhere() -> None:
    memory = pool()
    saved = memory.save([4, 1])
    want = [memory.read(layer, torch.arange(16, 20)) for layer in range(2)]
    memory.poison(torch.arange(20))
    memory.load([0, 3], saved)
    for layer in range(2):
        assert torch.equal(memory.read(layer, torch.arange(4))[0], want[layer][0])
        assert bool(memory.read(layer, torch.arange(4, 8))[0].isnan().all())
    with pytest.raises(ValueError, match="2 pages were saved, 1 given"):
        memory.load([2], saved)


def test_copied_pages_are_equal_and_apart() -> None:
    memory = pool()
    memory.copy_pages([1, 2], [3, 0])
    assert torch.equal(memory.k[:, 3], memory.k[:, 1])
    assert torch.equal(memory.v[:, 0], memory.v[:, 2])
    memory.poison(torch.tensor([4]))
    assert not bool(memory.k[:, 3].isnan().any())


def test_a_foreign_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="order 'token'"):
        TorchPool(KVLayout(1, 1, 1, 1, 8, torch.float32, "dim"), torch.zeros(4))
    with pytest.raises(ValueError, match=r"inv_freq must be \[4\]"):
        TorchPool(LAYOUT, torch.zeros(8))
