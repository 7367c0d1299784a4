"""attach: what Hogwild! computes, against keys rotated one by one to where each worker sees
them."""

import pytest
import torch
from torch import Tensor

from tests.fakes import Bench, TinyForward, bench, drive, norm, poison_unowned, turn
from workbench.engine.errors import BadArgument, WindowFull
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch
from workbench.events import PageShared
from workbench.forward import PLAIN, Override

FORWARD = TinyForward()
PROMPT = "a common question"


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


class Worker:
    """One worker of the oracle: per layer the unturned keys and the values of its own tokens."""

    def __init__(self) -> None:
        self.k: list[list[Tensor]] = [[] for _ in range(FORWARD.facts.layers)]
        self.v: list[list[Tensor]] = [[] for _ in range(FORWARD.facts.layers)]
        self.logits = torch.empty(0)


def think(views: list[tuple[Worker, list[Worker]]], tokens: list[int]) -> None:
    """All named workers compute one token in the same pass. Each sees the others' caches, in the
    order given, and then its own; every key is turned to its place in that row."""
    states = [FORWARD.table[token][None] for token in tokens]
    for layer in range(FORWARD.facts.layers):
        queries = []
        for (worker, _), x in zip(views, states, strict=True):
            q, k, v = FORWARD._project_in(x, layer)
            worker.k[layer].append(k[0])
            worker.v[layer].append(v[0])
            queries.append(q[0])
        for i, (worker, before) in enumerate(views):
            keys = torch.stack([k for w in [*before, worker] for k in w.k[layer]])  # [n, H, D]
            values = torch.stack([v for w in [*before, worker] for v in w.v[layer]])
            places = torch.arange(len(keys))
            keys = turn(keys, places, FORWARD.inv_freq)[:, 0]
            q = turn(queries[i][None], places[-1:], FORWARD.inv_freq)[0]
            weights = (q @ keys.T / FORWARD.head_dim**0.5).softmax(-1)
            mixed = (weights @ values[:, 0]).reshape(1, -1)
            states[i] = FORWARD._rest(states[i], mixed, layer, [PLAIN])
    for (worker, _), x in zip(views, states, strict=True):
        worker.logits = (norm(x) @ FORWARD.head.T)[0].float()


def solo(worker: Worker, before: list[Worker], text: list[int]) -> None:
    for token in text:
        think([(worker, before)], [token])


async def logits(b: Bench, branch: Branch) -> Tensor:
    peek = await b.engine.peek(branch, Want(logits=True))
    assert peek.logits is not None
    return peek.logits


async def workers(b: Bench, texts: list[str]) -> list[Branch]:
    root = await b.engine.open(PROMPT, request=b.request)
    branches = await b.engine.fork(root, len(texts))
    for branch, text in zip(branches, texts, strict=True):
        await b.engine.feed(branch, text, want=Want(logits=True))
    return branches


@pytest.mark.parametrize("page_size", [1, 3, 4, 17])
def test_a_branch_reads_another_that_stands_before_it(page_size: int) -> None:
    b = bench(FORWARD, page_size=page_size, pages=200)
    poison_unowned(b)

    async def work() -> None:
        one, other = await workers(b, ["mine ", "yours is longer "])
        b.engine.attach(one, [other], start=len(PROMPT))
        shared, theirs, own = Worker(), Worker(), Worker()
        solo(shared, [], list(PROMPT.encode()))
        solo(theirs, [shared], list(b"yours is longer "))
        solo(own, [shared], list(b"mine "))  # computed before it was attached
        for text in ("and ", "so"):
            await b.engine.feed(one, text)
            solo(own, [shared, theirs], list(text.encode()))
            assert torch.allclose(await logits(b, one), own.logits, atol=1e-5)
            await b.engine.feed(other, "grows", want=Want(logits=True))
            solo(theirs, [shared], list(b"grows"))
            await b.engine.feed(one, "!")
            solo(own, [shared, theirs], list(b"!"))
            assert torch.allclose(await logits(b, one), own.logits, atol=1e-5), "it sees the growth"
        assert torch.allclose(await logits(b, other), theirs.logits, atol=1e-5)

    drive(b, work())


@pytest.mark.parametrize("page_size", [1, 4])
def test_workers_see_each_others_current_token_in_the_same_step(page_size: int) -> None:
    b = bench(FORWARD, page_size=page_size, pages=200)
    poison_unowned(b)

    async def work() -> None:
        texts = ["first ", "second one ", "3 "]
        branches = await workers(b, texts)
        shared = Worker()
        solo(shared, [], list(PROMPT.encode()))
        crew = [Worker() for _ in texts]
        for worker, text in zip(crew, texts, strict=True):
            solo(worker, [shared], list(text.encode()))
        for branch in branches:
            others = [x for x in branches if x is not branch]
            b.engine.attach(branch, others, start=len(PROMPT))
        await b.engine.decode(branches, until=greedy(1))
        # Attaching changed what the last token sees: it is run again, all workers at once.
        for worker in crew:
            for layer in range(FORWARD.facts.layers):
                worker.k[layer].pop(), worker.v[layer].pop()
        views = [(w, [shared, *(x for x in crew if x is not w)]) for w in crew]
        think(views, [text.encode()[-1] for text in texts])
        for _ in range(4):
            nexts = [int(worker.logits.argmax()) for worker in crew]
            assert [branch.tokens[-1] for branch in branches] == nexts
            await b.engine.decode(branches, until=greedy(1))
            think(views, nexts)

    drive(b, work())


def test_attached_pages_never_enter_prefix_sharing_and_detaching_ends_it() -> None:
    b = bench(FORWARD, page_size=4, pages=200)
    poison_unowned(b)

    async def work() -> None:
        one, other = await workers(b, ["mine ", "yours "])
        b.engine.attach(one, [other], start=len(PROMPT))
        await b.engine.decode(one, until=greedy(9))
        before = len(b.of(PageShared))
        text = list(one.tokens)
        again = await b.engine.open(text, request=b.request)
        assert len(b.of(PageShared)) - before <= len(PROMPT + "mine ") // 4
        fresh = FORWARD.dense(text)[-1]
        assert torch.allclose(await logits(b, again), fresh, atol=1e-5)
        b.engine.detach(one)
        assert one.reading == ()
        await b.engine.decode(one, until=greedy(5))
        b.engine.drop(other, "nobody reads it")
        (child,) = await b.engine.fork(one)
        assert torch.allclose(await logits(b, child), await logits(b, one))

    drive(b, work())


def test_a_fork_of_an_attached_branch_reads_only_itself() -> None:
    b = bench(FORWARD, page_size=4, pages=200)
    poison_unowned(b)

    async def work() -> None:
        one, other = await workers(b, ["mine ", "yours "])
        b.engine.attach(one, [other], start=len(PROMPT))
        (child,) = await b.engine.fork(one)
        fresh = FORWARD.dense(child.tokens)[-1]
        assert torch.allclose(await logits(b, child), fresh, atol=1e-5)

    drive(b, work())


def test_impossible_attachments_are_refused() -> None:
    b = bench(FORWARD, pages=200, limit=60)

    async def work() -> None:
        one, other = await workers(b, ["mine ", "yours "])
        foreign = await b.engine.open("x", request=b.request, override=Override(adapter="y"))
        for others, start in (
            ([one], 0),
            ([], 0),
            ([other, other], 0),
            ([other], 99),
            ([foreign], 0),
        ):
            with pytest.raises(BadArgument):
                b.engine.attach(one, others, start=start)
        long = await b.engine.open("x" * 50, request=b.request)
        with pytest.raises(WindowFull, match="would read"):
            b.engine.attach(one, [long], start=0)
        b.engine.attach(one, [other], start=3)
        with pytest.raises(BadArgument, match="detach it first"):
            b.engine.attach(one, [other])
        with pytest.raises(BadArgument, match="is read by"):
            b.engine.drop(other, "no")
        b.engine.drop([one, other], "together they may")

    drive(b, work())
