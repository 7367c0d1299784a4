"""The engine over the torch decoder: what transformers says of the same text without pages."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.fakes import Bench, drive, poison_unowned, text_of
from tests.unit.model.nets import VOCABULARY, make, tokens
from workbench.engine.engine import Engine
from workbench.engine.protocols import HIDDEN, Sampler, Soft, Until, Want
from workbench.engine.sequence import Branch
from workbench.events import Event, StepEnded
from workbench.forward import Override
from workbench.model import load_model
from workbench.ops.sampling import sample
from workbench.words import PruneMode

TOLERANCE = 1e-4
NETS = ["llama", "mistral sliding", "qwen3", "llama rope yarn"]


class Poisoned:
    """A forward whose pool is full of NaN wherever nobody owns a slot."""

    def __init__(self, net: Any) -> None:
        self._net = net
        self.before: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)

    def __call__(self, batch: Any, pool: Any, pulse: Any = lambda: None) -> Any:
        if self.before is not None:
            self.before(batch, pool)
        return self._net(batch, pool, pulse)


@pytest.fixture(scope="module", params=NETS)
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder: Path = tmp_path_factory.mktemp("net")
    theirs = make(request.param, folder)
    return load_model(folder, dtype="fp32", backend="cpu"), theirs


def engine_on(model: Any, **settings: Any) -> Bench:
    told: list[Event] = []
    forward = Poisoned(model)
    engine = Engine(
        forward,
        emit=told.append,
        detokenize=lambda token: b"w%d " % token,
        tokenize=lambda text: [int(word) for word in text.split()],
        eos=set(),
        ops_sample=sample,
        **{"pages": 60, "page_size": 4, **settings},
    )
    request = engine.new_request(title="net", strategy="none", params="{}", seed=0)
    b = Bench(engine, forward, told, request)
    poison_unowned(b)
    return b


def theirs_say(theirs: transformers.PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = theirs(torch.tensor([ids])).logits[0]  # type: ignore[operator]
    return logits.float()


async def agrees(b: Bench, branch: Branch, theirs: Any) -> None:
    peek = await b.engine.peek(branch, Want(logits=True))
    assert peek.logits is not None
    want = theirs_say(theirs, text_of(branch))[-1]
    assert (peek.logits - want).abs().max() <= TOLERANCE


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_decode_fork_and_prune_agree_with_transformers(pair: Any, page_size: int) -> None:
    ours, theirs = pair
    b = engine_on(ours, page_size=page_size, pages=240 // page_size, chunk=7)

    async def work() -> None:
        branch = await b.engine.open(tokens(30), request=b.request)
        await b.engine.decode(branch, until=Until(max_tokens=8))
        expected = tokens(30)
        for _ in range(8):
            expected.append(int(theirs_say(theirs, expected)[-1].argmax()))
        assert branch.tokens == expected
        one, other = await b.engine.fork(branch, 2)
        await b.engine.prune(one, [(5, 17), (20, 23)])
        await b.engine.decode([one, other], until=Until(max_tokens=5))
        for each in (one, other, branch):
            await agrees(b, each, theirs)
        (early,) = await b.engine.fork(one, at=33)
        await agrees(b, early, theirs)

    drive(b, work())
    assert all(e.prefill <= 7 for e in b.of(StepEnded))


def test_rotate_keeps_layer_0_as_a_fresh_prefill(pair: Any) -> None:
    ours, _ = pair
    b = engine_on(ours)

    async def work() -> None:
        memory = b.engine.memory
        ids = tokens(30)
        branch = await b.engine.open(ids, request=b.request)
        await b.engine.prune(branch, [(5, 17)], mode=PruneMode.ROTATE)
        fresh = await b.engine.open(text_of(branch), request=b.request, share=False)
        k, other = (
            memory.pool.read(0, torch.from_numpy(memory.slots(x, 0, x.length)))[0]
            for x in (branch, fresh)
        )
        assert (k - other).abs().max() <= 1e-4
        assert branch.length == 18
        await b.engine.decode(branch, until=Until(max_tokens=4))

    drive(b, work())


def test_a_short_pool_changes_no_text(pair: Any) -> None:
    ours, theirs = pair
    b = engine_on(ours, pages=14)

    async def work() -> None:
        import asyncio

        async def one(n: int) -> None:
            branch = await b.engine.open(tokens(n, seed=n), request=b.request)
            await b.engine.decode(branch, until=Until(max_tokens=14))
            ids = tokens(n, seed=n)
            for _ in range(14):
                ids.append(int(theirs_say(theirs, ids)[-1].argmax()))
            assert branch.tokens == ids
            b.engine.drop(branch, "done")

        await asyncio.gather(*(one(n) for n in (9, 20, 13, 17, 8)))

    drive(b, work())


def test_every_want_and_feedback_runs_on_a_real_net(pair: Any) -> None:
    ours, theirs = pair
    b = engine_on(ours)

    async def work() -> None:
        branch = await b.engine.open(tokens(12), request=b.request)
        fed = await b.engine.feed(branch, [3, 4, 5], want=Want(logprobs=True, hidden=(0, -1)))
        want = theirs_say(theirs, branch.tokens).log_softmax(-1)
        chosen = want[11:14].gather(1, torch.tensor([[3], [4], [5]]))[:, 0]
        assert fed.logprobs is not None
        assert (fed.logprobs - chosen).abs().max() <= TOLERANCE
        peek = await b.engine.peek(branch, Want(top=3, hidden=(1,), project=(0, -1)))
        assert peek.project[-1][0][0] == peek.top[0][0]
        one, other, third = await b.engine.fork(branch, 3)
        await b.engine.decode(one, until=Until(max_tokens=3), feedback=HIDDEN)
        ids, vectors = list(branch.tokens), one.vectors
        with torch.no_grad():
            inner = theirs.get_input_embeddings()(torch.tensor([ids]))
            latent = theirs.model(inputs_embeds=inner).last_hidden_state[0, -1]
        assert (vectors[len(ids)] - latent).abs().max() <= 1e-3
        await b.engine.decode(other, until=Until(max_tokens=3), feedback=Soft(lambda p: p))
        with torch.no_grad():
            p = theirs_say(theirs, ids)[-1].softmax(-1)
            mixture = p @ theirs.get_input_embeddings().weight
        assert (other.vectors[len(ids)] - mixture).abs().max() <= 1e-4
        (early,) = await b.engine.fork(third, override=Override(exit_layer=1))
        await b.engine.decode(early, until=Until(max_tokens=3), sampler=Sampler(temperature=1.0))
        assert max(early.tokens) < VOCABULARY

    drive(b, work())
