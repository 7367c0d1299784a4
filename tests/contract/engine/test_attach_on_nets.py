"""attach on each CPU backend, against the net's layers one by one with keys kept unturned: every
reader turns each key to where it sees it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.engine.subjects import Modules, Subject, subject
from tests.contract.engine.test_real_nets import engine_on
from tests.fakes import Bench, drive
from tests.unit.model.nets import tokens
from workbench.engine.errors import Unserved
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch

PROMPT = tokens(23, seed=1)
TEXTS = [tokens(n, seed=n) for n in (5, 9, 6)]


class Worker:
    """Per layer, the unturned keys [H, 1, D] and the values of a worker's own tokens."""

    def __init__(self, layers: int) -> None:
        self.k: list[list[Tensor]] = [[] for _ in range(layers)]
        self.v: list[list[Tensor]] = [[] for _ in range(layers)]
        self.logits = torch.empty(0)

    def forget_last(self) -> None:
        for entries in (*self.k, *self.v):
            entries.pop()


class Dense:
    """A net's modules called one by one; caches, masks and pages have no part in it."""

    def __init__(self, net: Modules) -> None:
        self.net = net

    def worker(self) -> Worker:
        return Worker(self.net.layers)

    @torch.no_grad()
    def think(self, views: list[tuple[Worker, list[Worker]]], ids: list[int]) -> None:
        """Every worker computes one token in the same pass; it sees the others' caches in the
        order given, then its own."""
        states = [self.net.embed(token) for token in ids]  # [1, M]
        for layer in range(self.net.layers):
            queries = []
            for (worker, _), x in zip(views, states, strict=True):
                q, k, v = self.net.heads(layer, x)
                worker.k[layer].append(k)
                worker.v[layer].append(v)
                queries.append(q)
            for i, (worker, before) in enumerate(views):
                mixed = self._attend(queries[i], [*before, worker], layer)
                states[i] = self.net.rest(layer, states[i], mixed)
        for (worker, _), x in zip(views, states, strict=True):
            worker.logits = self.net.logits(x)

    def solo(self, worker: Worker, before: list[Worker], ids: list[int]) -> None:
        for token in ids:
            self.think([(worker, before)], [token])

    def _attend(self, q: Tensor, seen: list[Worker], layer: int) -> Tensor:
        keys = torch.cat([k for worker in seen for k in worker.k[layer]], 1)  # [H, n, D]
        values = torch.cat([v for worker in seen for v in worker.v[layer]], 1)
        places = torch.arange(keys.shape[1])
        group = q.shape[0] // keys.shape[0]
        keys = self.net.turn(keys, places).repeat_interleave(group, 0)
        scores = self.net.turn(q, places[-1:]) @ keys.transpose(1, 2) * self.net.scale
        mixed = scores.softmax(-1) @ values.repeat_interleave(group, 0)
        return mixed.transpose(0, 1).reshape(1, -1)


NETS = [
    ("torch", "llama"), ("torch", "llama rope yarn mscale"), ("torch", "qwen3"),
    ("numba", "llama"), ("numba", "yarn"), ("numba", "qwen3"),
]  # fmt: skip


@pytest.fixture(scope="module", params=NETS, ids=" ".join)
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Dense]:
    of = subject(*request.param, tmp_path_factory.mktemp("net"))
    return of, Dense(of.modules())


def engine_for(model: Any, page_size: int) -> Bench:
    return engine_on(model, page_size=page_size, pages=480 // page_size)


async def check(of: Subject, b: Bench, branch: Branch, worker: Worker) -> None:
    peek = await b.engine.peek(branch, Want(logits=True))
    assert peek.logits is not None
    of.resemble(peek.logits, worker.logits)


async def start(
    of: Subject, b: Bench, dense: Dense, n: int
) -> tuple[list[Branch], Worker, list[Worker]]:
    """n branches of one prompt with texts of their own, and the same for the oracle."""
    root = await b.engine.open(PROMPT, request=b.request)
    branches = await b.engine.fork(root, n)
    shared, crew = dense.worker(), [dense.worker() for _ in range(n)]
    dense.solo(shared, [], PROMPT)
    for branch, worker, text in zip(branches, crew, TEXTS, strict=False):
        await b.engine.feed(branch, text, want=Want(logits=True))
        dense.solo(worker, [shared], text)
        await check(of, b, branch, worker)
    return branches, shared, crew


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_one_reads_another_that_grows(pair: tuple[Subject, Dense], page_size: int) -> None:
    """Prompt, the other, own: the other's keys as they are stored, turned to where they stand in
    the reader's row."""
    of, dense = pair
    b = engine_for(of.model, page_size)

    async def work() -> None:
        (one, other), shared, (own, theirs) = await start(of, b, dense, 2)
        b.engine.attach(one, [other], start=len(PROMPT))
        for seed in (1, 2):
            await b.engine.feed(one, tokens(3, seed))
            dense.solo(own, [shared, theirs], tokens(3, seed))
            await check(of, b, one, own)
            await b.engine.feed(other, tokens(5, seed + 9), want=Want(logits=True))
            dense.solo(theirs, [shared], tokens(5, seed + 9))
            await check(of, b, other, theirs)
        await b.engine.feed(one, [7])
        dense.solo(own, [shared, theirs], [7])
        await check(of, b, one, own)

    drive(b, work())


@pytest.mark.parametrize("page_size", [1, 4])
def test_three_decode_and_see_each_other_at_once(
    pair: tuple[Subject, Dense], page_size: int
) -> None:
    of, dense = pair
    b = engine_for(of.model, page_size)

    async def work() -> None:
        branches, shared, crew = await start(of, b, dense, 3)
        for branch in branches:
            others = [x for x in branches if x is not branch]
            b.engine.attach(branch, others, start=len(PROMPT))
        until = Until(max_tokens=1, eos=False)
        await b.engine.decode(branches, until=until)
        for worker in crew:  # what it sees has changed: the last token is run again
            worker.forget_last()
        views = [(w, [shared, *(x for x in crew if x is not w)]) for w in crew]
        dense.think(views, [text[-1] for text in TEXTS])
        for _ in range(8):
            nexts = [branch.tokens[-1] for branch in branches]
            for worker, token in zip(crew, nexts, strict=True):  # the best, or as good
                assert worker.logits.max() - worker.logits[token] <= of.tie
            await b.engine.decode(branches, until=until)
            dense.think(views, nexts)

    drive(b, work())


@pytest.mark.parametrize(
    "net",
    [("torch", "mistral sliding"), ("torch", "qwen2 sliding from layer 1"), ("numba", "mistral")],
    ids=" ".join,
)
def test_sliding_windows_are_refused(net: tuple[str, str], tmp_path: Path) -> None:
    b = engine_for(subject(*net, tmp_path).model, 4)

    async def work() -> None:
        one = await b.engine.open(tokens(9), request=b.request)
        (other,) = await b.engine.fork(one)
        with pytest.raises(Unserved, match="sliding"):
            b.engine.attach(one, [other])
        assert one.reading == ()
        await b.engine.decode([one, other], until=Until(max_tokens=2))

    drive(b, work())
