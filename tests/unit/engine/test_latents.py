"""Inputs that are no tokens: vectors, hidden states fed back, mixtures of embeddings."""

import pytest
import torch
from torch import Tensor

from tests.fakes import TinyForward, bench, drive, poison_unowned
from workbench.engine.errors import BadArgument, Unserved
from workbench.engine.protocols import HIDDEN, Sampler, Soft, Until, Want
from workbench.events import TokenKnown
from workbench.forward import ForwardBatch

FORWARD = TinyForward()
TEXT = "think without words"


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


@pytest.mark.parametrize("page_size", [1, 4])
def test_vectors_stand_for_tokens(page_size: int) -> None:
    b = bench(FORWARD, page_size=page_size)
    poison_unowned(b)
    torch.manual_seed(0)
    prompt, more = torch.randn(5, 16), torch.randn(2, 16)

    async def work() -> None:
        branch = await b.engine.open(prompt, request=b.request)
        await b.engine.feed(branch, "ab")
        await b.engine.feed(branch, more)
        await b.engine.decode(branch, until=greedy(3))
        peek = await b.engine.peek(branch, Want(logits=True))
        vectors = dict(enumerate(prompt)) | {7: more[0], 8: more[1]}
        fresh = FORWARD.dense(branch.tokens, vectors=vectors)[-1]
        assert peek.logits is not None
        assert torch.allclose(peek.logits, fresh, atol=1e-5)
        assert branch.tokens[0] == FORWARD.facts.vocabulary, "an id that no token has"
        again = await b.engine.open(prompt, request=b.request)
        assert again.stored == 5
        assert b.engine.requests[b.request].reused == 0, "vectors are never shared"

    drive(b, work())
    assert "◌".encode() in {e.text for e in b.of(TokenKnown)}


def test_vectors_of_a_wrong_shape_are_refused() -> None:
    b = bench(FORWARD)
    with pytest.raises(BadArgument, match=r"\[N, 16\], got \[2, 3\]"):
        drive(b, b.engine.open(torch.zeros(2, 3), request=b.request))


def test_hidden_feedback_goes_on_from_the_last_state() -> None:
    b = bench(FORWARD)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        (decoded,) = await b.engine.decode(branch, until=greedy(4), feedback=HIDDEN)
        assert len(decoded.tokens) == 4
        assert sorted(branch.vectors) == [len(TEXT) + i for i in range(4)]
        peek = await b.engine.peek(branch, Want(logits=True))

        ids, vectors = list(TEXT.encode()), {}
        for token in decoded.tokens:
            state = last_state(ids, vectors)
            assert int((state @ FORWARD.head.T).argmax()) == token, "the word beside the latent"
            vectors[len(ids)] = state.float()
            ids.append(token)
        fresh = FORWARD.dense(ids, vectors=vectors)[-1]
        assert peek.logits is not None
        assert torch.allclose(peek.logits, fresh, atol=1e-4)
        await b.engine.decode(branch, until=greedy(2))
        kids = await b.engine.fork(branch, 2)
        assert kids[0].vectors.keys() == branch.vectors.keys()

    drive(b, work())


def last_state(ids: list[int], vectors: dict[int, Tensor]) -> Tensor:
    """The normed state behind a text: the head's inverse applied to the dense logits."""
    logits = FORWARD.dense(ids, vectors=vectors)[-1].double()
    return torch.linalg.lstsq(FORWARD.head, logits).solution


def test_a_soft_token_is_the_mixture_of_embeddings() -> None:
    b = bench(FORWARD)

    def top2(p: Tensor) -> Tensor:
        values, ids = p.topk(2)
        return torch.zeros_like(p).scatter(0, ids, values / values.sum())

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        (decoded,) = await b.engine.decode(branch, until=greedy(3), feedback=Soft(top2))
        peek = await b.engine.peek(branch, Want(logits=True))
        ids, vectors = list(TEXT.encode()), {}
        for token in decoded.tokens:
            p = FORWARD.dense(ids, vectors=vectors)[-1].softmax(-1)
            vectors[len(ids)] = top2(p) @ FORWARD.table.float()
            ids.append(token)
        assert peek.logits is not None
        fresh = FORWARD.dense(ids, vectors=vectors)[-1]
        assert torch.allclose(peek.logits, fresh, atol=1e-4)

    drive(b, work())


def test_a_soft_token_of_one_weight_is_that_token() -> None:
    def hard(p: Tensor) -> Tensor:
        return torch.zeros_like(p).scatter(0, p.argmax(0, keepdim=True), 1.0)

    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        one, other = await b.engine.fork(branch, 2)
        (soft,) = await b.engine.decode(one, until=greedy(8), feedback=Soft(hard))
        (plain,) = await b.engine.decode(other, until=greedy(8), sampler=Sampler())
        assert soft.tokens == plain.tokens

    drive(b, work())


def test_latents_survive_preemption_and_pruning() -> None:
    b = bench(FORWARD, page_size=2)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(4), feedback=HIDDEN)
        before = (await b.engine.peek(branch, Want(logits=True))).logits
        b.engine.preempt(branch)
        assert branch.saved is not None, "tokens alone don't give latents back"
        branch.logits = None
        after = (await b.engine.peek(branch, Want(logits=True))).logits
        assert before is not None
        assert after is not None
        assert torch.allclose(before, after, atol=1e-6)
        await b.engine.prune(branch, [(3, 7)])
        peek = await b.engine.peek(branch, Want(logits=True))
        vectors = {branch.entry(i): v for i, v in branch.vectors.items()}
        text = [branch.tokens[i] for i in branch.resident]
        fresh = FORWARD.dense(text, vectors=vectors)[-1]
        assert peek.logits is not None
        assert torch.allclose(peek.logits, fresh, atol=1e-5)

    drive(b, work())


class Simple(TinyForward):
    """A backend that serves plain rows only."""

    def unserved(self, batch: ForwardBatch) -> str | None:
        if batch.vectors is not None or batch.overrides or batch.attached or batch.hidden_layers:
            return "the simple backend serves plain rows; use the torch decoder"
        return None


def test_what_a_backend_does_not_serve_is_refused_by_name() -> None:
    from workbench.forward import Override

    b = bench(Simple())

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        (other,) = await b.engine.fork(branch)
        verbs = [
            b.engine.open(torch.zeros(1, 16), request=b.request),
            b.engine.feed(branch, torch.zeros(1, 16)),
            b.engine.open(TEXT, request=b.request, override=Override(adapter="x")),
            b.engine.fork(branch, override=Override(exit_layer=1)),
            b.engine.peek(branch, Want(hidden=(0,))),
            b.engine.feed(branch, "x", want=Want(hidden=(0,))),
            b.engine.decode(branch, until=greedy(1), feedback=HIDDEN),
            b.engine.decode(branch, until=greedy(1), feedback=Soft(lambda p: p)),
        ]
        for verb in verbs:
            with pytest.raises(Unserved, match="simple backend"):
                await verb
        with pytest.raises(Unserved, match="simple backend"):
            b.engine.attach(branch, [other])
        await b.engine.decode([branch, other], until=greedy(2))

    drive(b, work())


@pytest.mark.parametrize("layers", [(9,), (-2,)])
def test_layers_that_are_not_there_are_refused(layers: tuple[int, ...]) -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        with pytest.raises(BadArgument, match="layers"):
            await b.engine.peek(branch, Want(hidden=layers))

    drive(b, work())
