"""Every operation of the pool against the torch pool's."""

import pytest
import torch

from workbench.cpu.pool import DimPool
from workbench.kv.layout import KVLayout
from workbench.kv.pool import TorchPool

INV_FREQ = 1.0 / 10000.0 ** (torch.arange(0, 32, 2) / 32)


@pytest.fixture(params=[torch.float16, torch.float32])
def pools(request: pytest.FixtureRequest) -> tuple[DimPool, TorchPool]:
    """Two pools with the same random contents."""
    layout = KVLayout(3, 9, 5, 2, 32, request.param, "dim")
    ours = DimPool(layout, INV_FREQ)
    theirs = TorchPool(KVLayout(3, 9, 5, 2, 32, request.param), INV_FREQ)
    torch.manual_seed(0)
    theirs.k.copy_(torch.randn(theirs.k.shape))
    theirs.v.copy_(torch.randn(theirs.v.shape))
    ours.k.copy_(theirs.k.permute(0, 1, 3, 4, 2))
    ours.v.copy_(theirs.v.permute(0, 1, 3, 2, 4))
    return ours, theirs


def same(pools: tuple[DimPool, TorchPool], bound: float = 0.0) -> None:
    ours, theirs = pools
    slots = torch.randperm(theirs.layout.slots)
    for layer in range(3):
        for got, want in zip(ours.read(layer, slots), theirs.read(layer, slots), strict=True):
            assert torch.equal(got.isnan(), want.isnan())
            assert (got - want).nan_to_num().abs().max() <= bound


def test_contents(pools: tuple[DimPool, TorchPool]) -> None:
    same(pools)


def test_copy_pages(pools: tuple[DimPool, TorchPool]) -> None:
    for pool in pools:
        pool.copy_pages([1, 8, 2], [0, 3, 7])
    same(pools)


@pytest.mark.parametrize("shift", [0, -7, 31])
def test_move(pools: tuple[DimPool, TorchPool], shift: int) -> None:
    src, dst = torch.arange(12, 40), torch.arange(9, 37)  # they overlap
    for pool in pools:
        pool.move(src, dst, shift)
    same(pools, bound=2e-3 if pools[0].layout.dtype == torch.float16 else 1e-6)


def test_save_and_load(pools: tuple[DimPool, TorchPool]) -> None:
    for pool in pools:
        kept = pool.save([4, 0])
        pool.poison(torch.arange(45))
        pool.load([6, 2], kept)
    same(pools)
    with pytest.raises(ValueError, match="2 pages were saved, 1 given"):
        pools[0].load([1], pools[0].save([1, 2]))


def test_poison(pools: tuple[DimPool, TorchPool]) -> None:
    for pool in pools:
        pool.poison(torch.tensor([3, 44, 17]))
    same(pools)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="order 'dim'"):
        DimPool(KVLayout(1, 1, 1, 1, 32, torch.float16), INV_FREQ)
    with pytest.raises(ValueError, match="float16 or float32"):
        DimPool(KVLayout(1, 1, 1, 1, 32, torch.bfloat16, "dim"), INV_FREQ)
