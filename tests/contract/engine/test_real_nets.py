"""The engine over real nets on each CPU backend: what another implementation says of the same
text without pages."""

from typing import Any

import pytest
import torch

from tests.contract.engine.subjects import TOLERANCE, Subject, subject
from tests.fakes import Bench, drive, poison_unowned, text_of
from tests.unit.model.nets import tokens
from workbench.engine.engine import Engine
from workbench.engine.protocols import HIDDEN, Sampler, Soft, Until, Want
from workbench.engine.sequence import Branch
from workbench.events import Event, StepEnded
from workbench.forward import PLAIN, Override, Steering
from workbench.ops.sampling import sample
from workbench.words import PruneMode

NETS = [
    *(("torch", net) for net in ("llama", "mistral sliding", "qwen3", "llama rope yarn")),
    *(("numba", net) for net in ("llama", "mistral", "qwen3", "yarn", "qwen3 moe")),
]


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


@pytest.fixture(scope="module", params=NETS, ids=" ".join)
def of(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject(*request.param, tmp_path_factory.mktemp("net"))


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


async def agrees(b: Bench, branch: Branch, of: Subject, override: Override = PLAIN) -> None:
    peek = await b.engine.peek(branch, Want(logits=True))
    assert peek.logits is not None
    of.agree(peek.logits, of.says(text_of(branch), override)[-1])


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_decode_fork_and_prune_agree_with_the_oracle(of: Subject, page_size: int) -> None:
    b = engine_on(of.model, page_size=page_size, pages=240 // page_size, chunk=7)

    async def work() -> None:
        branch = await b.engine.open(tokens(30), request=b.request)
        await b.engine.decode(branch, until=Until(max_tokens=8))
        expected = tokens(30)
        for _ in range(8):
            expected.append(int(of.says(expected)[-1].argmax()))
        assert branch.tokens == expected
        one, other = await b.engine.fork(branch, 2)
        await b.engine.prune(one, [(5, 17), (20, 23)])
        await b.engine.decode([one, other], until=Until(max_tokens=5))
        for each in (one, other, branch):
            await agrees(b, each, of)
        (early,) = await b.engine.fork(one, at=33)
        await agrees(b, early, of)

    drive(b, work())
    assert all(e.prefill <= 7 for e in b.of(StepEnded))


def test_rotate_keeps_layer_0_as_a_fresh_prefill(of: Subject) -> None:
    b = engine_on(of.model)

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
        assert (k - other).abs().max() <= of.keys
        assert branch.length == 18
        await b.engine.decode(branch, until=Until(max_tokens=4))

    drive(b, work())


def test_a_short_pool_changes_no_text(of: Subject) -> None:
    b = engine_on(of.model, pages=14)

    async def work() -> None:
        import asyncio

        async def one(n: int) -> None:
            branch = await b.engine.open(tokens(n, seed=n), request=b.request)
            await b.engine.decode(branch, until=Until(max_tokens=14))
            ids = tokens(n, seed=n)
            for _ in range(14):
                ids.append(int(of.says(ids)[-1].argmax()))
            assert branch.tokens == ids
            b.engine.drop(branch, "done")

        await asyncio.gather(*(one(n) for n in (9, 20, 13, 17, 8)))

    drive(b, work())


def test_every_want_and_feedback_runs_on_a_real_net(of: Subject) -> None:
    b = engine_on(of.model)

    async def work() -> None:
        branch = await b.engine.open(tokens(12), request=b.request)
        fed = await b.engine.feed(branch, [3, 4, 5], want=Want(logprobs=True, hidden=(0, -1)))
        want = of.says(branch.tokens).log_softmax(-1)
        chosen = want[11:14].gather(1, torch.tensor([[3], [4], [5]]))[:, 0]
        assert fed.logprobs is not None
        assert (fed.logprobs - chosen).abs().max() <= TOLERANCE
        peek = await b.engine.peek(branch, Want(top=3, hidden=(1,), project=(0, -1)))
        assert peek.project[-1][0][0] == peek.top[0][0]
        one, other, third = await b.engine.fork(branch, 3)
        await b.engine.decode(one, until=Until(max_tokens=3), feedback=HIDDEN)
        ids, vectors = list(branch.tokens), one.vectors
        assert (vectors[len(ids)] - of.latent(ids)).abs().max() <= 1e-3
        await b.engine.decode(other, until=Until(max_tokens=3), feedback=Soft(lambda p: p))
        mixture = of.mixture(of.says(ids)[-1].softmax(-1))
        assert (other.vectors[len(ids)] - mixture).abs().max() <= 1e-4
        await b.engine.decode(third, until=Until(max_tokens=3), sampler=Sampler(temperature=1.0))
        assert max(third.tokens) < of.model.facts.vocabulary

    drive(b, work())


def test_overrides_act_on_their_own_rows_of_one_step(of: Subject) -> None:
    torch.manual_seed(3)
    push = Steering(1, torch.randn(of.model.facts.width) * 3)
    overrides = [PLAIN, Override(exit_layer=1), Override(steering=(push,))]
    b = engine_on(of.model, pages=120)

    async def work() -> None:
        root = await b.engine.open(tokens(13), request=b.request)
        rows = [(await b.engine.fork(root, override=override))[0] for override in overrides]
        await b.engine.decode(rows, until=Until(max_tokens=6))
        for row, override in zip(rows, overrides, strict=True):
            await agrees(b, row, of, override)
        await b.engine.prune(rows[2], [(4, 9)])
        await agrees(b, rows[2], of, overrides[2])

    drive(b, work())
    assert any(e.decode == 3 for e in b.of(StepEnded))
