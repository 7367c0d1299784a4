"""rotate on each CPU backend: what it moves, whom it leaves alone, and who may share it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.engine.subjects import Subject, subject
from tests.contract.engine.test_real_nets import engine_on
from tests.fakes import Bench, drive, text_of
from tests.unit.model.nets import tokens
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch
from workbench.events import PageCopied, PageShared, Pruned
from workbench.words import PruneMode

HOLES = [(5, 17), (20, 23)]


NETS = [
    ("torch", "llama"), ("torch", "llama rope yarn mscale"), ("torch", "qwen3"),
    ("numba", "llama"), ("numba", "yarn"), ("numba", "qwen3"),
]  # fmt: skip


@pytest.fixture(scope="module", params=NETS, ids=" ".join)
def of(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject(*request.param, tmp_path_factory.mktemp("net"))


def stored(b: Bench, branch: Branch, layer: int = 0) -> tuple[Tensor, Tensor]:
    memory = b.engine.memory
    slots = torch.from_numpy(memory.slots(branch, 0, branch.stored))
    return memory.pool.read(layer, slots)


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_shared_pages_are_copied_first(of: Subject, page_size: int) -> None:
    """One sibling rotates: its layer 0 is as a fresh prefill, the other sees nothing of it."""
    b = engine_on(of.model, page_size=page_size, pages=480 // page_size)

    async def work() -> None:
        parent = await b.engine.open(tokens(30), request=b.request)
        one, other = await b.engine.fork(parent, 2)
        layers = range(of.model.facts.layers)
        before = [stored(b, other, layer) for layer in layers]
        pages = set(other.pages)
        report = await b.engine.prune(one, HOLES, mode=PruneMode.ROTATE)
        assert (report.rotated, report.reencoded) == (30 - 5 - 15, 0)
        assert [e.mode for e in b.of(Pruned)] == [PruneMode.ROTATE] * 2
        for layer, (k, v) in zip(layers, before, strict=True):
            now_k, now_v = stored(b, other, layer)
            assert torch.equal(k, now_k) and torch.equal(v, now_v)
        first = 5 // page_size  # the page that the first hole touches
        assert not set(one.pages[first:]) & pages
        if page_size > 1:
            assert [e.source for e in b.of(PageCopied)] == [parent.pages[first]]
        fresh = await b.engine.open(text_of(one), request=b.request, share=False)
        for ours, theirs in zip(stored(b, one), stored(b, fresh), strict=True):
            assert (ours - theirs).abs().max() <= of.keys
        peek = await b.engine.peek(other, Want(logits=True))
        whole = await b.engine.open(tokens(30), request=b.request, share=False)
        want = await b.engine.peek(whole, Want(logits=True))
        assert peek.logits is not None and want.logits is not None
        of.agree(peek.logits, want.logits)

    drive(b, work())


def test_rotated_pages_are_never_shared(of: Subject) -> None:
    b = engine_on(of.model, page_size=4, pages=120)

    async def work() -> None:
        branch = await b.engine.open(tokens(30), request=b.request)
        await b.engine.prune(branch, HOLES, mode=PruneMode.ROTATE)
        await b.engine.decode(branch, until=Until(max_tokens=9))
        text, made = text_of(branch), set(branch.pages[1:])
        again = await b.engine.open(text, request=b.request)
        assert not made & {e.page for e in b.of(PageShared)}
        fresh = await b.engine.open(text, request=b.request, share=False)
        peeks = [await b.engine.peek(x, Want(logits=True)) for x in (again, fresh)]
        of.agree(peeks[0].logits, peeks[1].logits)
        b.engine.drop(branch, "done")  # nor when nobody holds them any more
        third = await b.engine.open(text, request=b.request)
        assert not made & {e.page for e in b.of(PageShared)} - set(again.pages)
        of.agree((await b.engine.peek(third, Want(logits=True))).logits, peeks[1].logits)

    drive(b, work())
