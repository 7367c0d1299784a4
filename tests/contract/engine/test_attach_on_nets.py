"""attach over the torch decoder, against transformers' own layers with keys kept unturned: every
reader turns each key to where it sees it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.engine.test_real_nets import engine_on
from tests.fakes import Bench, drive
from tests.unit.model.nets import make, tokens
from workbench.engine.errors import Unserved
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch
from workbench.model import load_model

TOLERANCE = 1e-4
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
    """transformers' modules called one by one; its cache, masks and pages have no part in it."""

    def __init__(self, model: Any) -> None:
        self.model, self.layers = model, model.model.layers

    def worker(self) -> Worker:
        return Worker(len(self.layers))

    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        """x [heads, n, D] turned to `places` [n]."""
        cos, sin = self.model.model.rotary_emb(x, places[None])
        a, b = x.chunk(2, -1)
        return x * cos[0] + torch.cat([-b, a], -1) * sin[0]

    @torch.no_grad()
    def think(self, views: list[tuple[Worker, list[Worker]]], ids: list[int]) -> None:
        """Every worker computes one token in the same pass; it sees the others' caches in the
        order given, then its own."""
        states = [self.model.model.embed_tokens(torch.tensor([token])) for token in ids]  # [1, M]
        for index, layer in enumerate(self.layers):
            queries = []
            for (worker, _), x in zip(views, states, strict=True):
                q, k, v = self._heads(layer, x)
                worker.k[index].append(k)
                worker.v[index].append(v)
                queries.append(q)
            for i, (worker, before) in enumerate(views):
                seen = [*before, worker]
                mixed = self._attend(layer.self_attn, queries[i], seen, index)
                x = states[i] + layer.self_attn.o_proj(mixed)
                states[i] = x + layer.mlp(layer.post_attention_layernorm(x))
        for (worker, _), x in zip(views, states, strict=True):
            worker.logits = self.model.lm_head(self.model.model.norm(x))[0].float()

    def solo(self, worker: Worker, before: list[Worker], ids: list[int]) -> None:
        for token in ids:
            self.think([(worker, before)], [token])

    def _heads(self, layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, attention = layer.input_layernorm(x), layer.self_attn
        q, k, v = (
            project(h).view(1, -1, attention.head_dim).transpose(0, 1)  # [heads, 1, D]
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        return q, k, v

    def _attend(self, attention: Any, q: Tensor, seen: list[Worker], index: int) -> Tensor:
        keys = torch.cat([k for worker in seen for k in worker.k[index]], 1)  # [H, n, D]
        values = torch.cat([v for worker in seen for v in worker.v[index]], 1)
        places = torch.arange(keys.shape[1])
        group = q.shape[0] // keys.shape[0]
        keys = self.turn(keys, places).repeat_interleave(group, 0)
        scores = self.turn(q, places[-1:]) @ keys.transpose(1, 2) * attention.scaling
        mixed = scores.softmax(-1) @ values.repeat_interleave(group, 0)
        return mixed.transpose(0, 1).reshape(1, -1)


@pytest.fixture(scope="module", params=["llama", "llama rope yarn mscale", "qwen3"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Dense]:
    folder: Path = tmp_path_factory.mktemp("net")
    dense = Dense(make(request.param, folder))
    return load_model(folder, dtype="fp32", backend="cpu"), dense


def engine_for(model: Any, page_size: int) -> Bench:
    return engine_on(model, page_size=page_size, pages=480 // page_size)


async def check(b: Bench, branch: Branch, worker: Worker) -> None:
    peek = await b.engine.peek(branch, Want(logits=True))
    assert peek.logits is not None
    assert (peek.logits - worker.logits).abs().max() <= TOLERANCE


async def start(b: Bench, dense: Dense, n: int) -> tuple[list[Branch], Worker, list[Worker]]:
    """n branches of one prompt with texts of their own, and the same for the oracle."""
    root = await b.engine.open(PROMPT, request=b.request)
    branches = await b.engine.fork(root, n)
    shared, crew = dense.worker(), [dense.worker() for _ in range(n)]
    dense.solo(shared, [], PROMPT)
    for branch, worker, text in zip(branches, crew, TEXTS, strict=False):
        await b.engine.feed(branch, text, want=Want(logits=True))
        dense.solo(worker, [shared], text)
        await check(b, branch, worker)
    return branches, shared, crew


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_one_reads_another_that_grows(pair: tuple[Any, Dense], page_size: int) -> None:
    """Prompt, the other, own: the other's keys as they are stored, turned to where they stand in
    the reader's row."""
    model, dense = pair
    b = engine_for(model, page_size)

    async def work() -> None:
        (one, other), shared, (own, theirs) = await start(b, dense, 2)
        b.engine.attach(one, [other], start=len(PROMPT))
        for seed in (1, 2):
            await b.engine.feed(one, tokens(3, seed))
            dense.solo(own, [shared, theirs], tokens(3, seed))
            await check(b, one, own)
            await b.engine.feed(other, tokens(5, seed + 9), want=Want(logits=True))
            dense.solo(theirs, [shared], tokens(5, seed + 9))
            await check(b, other, theirs)
        await b.engine.feed(one, [7])
        dense.solo(own, [shared, theirs], [7])
        await check(b, one, own)

    drive(b, work())


@pytest.mark.parametrize("page_size", [1, 4])
def test_three_decode_and_see_each_other_at_once(pair: tuple[Any, Dense], page_size: int) -> None:
    model, dense = pair
    b = engine_for(model, page_size)

    async def work() -> None:
        branches, shared, crew = await start(b, dense, 3)
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
            nexts = [int(worker.logits.argmax()) for worker in crew]
            assert [branch.tokens[-1] for branch in branches] == nexts
            await b.engine.decode(branches, until=until)
            dense.think(views, nexts)

    drive(b, work())


@pytest.mark.parametrize("name", ["mistral sliding", "qwen2 sliding from layer 1"])
def test_sliding_windows_are_refused(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    b = engine_for(load_model(tmp_path, dtype="fp32", backend="cpu"), 4)

    async def work() -> None:
        one = await b.engine.open(tokens(9), request=b.request)
        (other,) = await b.engine.fork(one)
        with pytest.raises(Unserved, match="sliding"):
            b.engine.attach(one, [other])
        assert one.reading == ()
        await b.engine.decode([one, other], until=Until(max_tokens=2))

    drive(b, work())
