"""Random programs of verbs: whatever is asked in whatever order, pages add up and logits are
right."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.contract.engine.subjects import LaptopSubject
from tests.contract.engine.test_real_nets import Poisoned
from tests.fakes import Bench, TinyForward, bench, drive, poison_unowned, text_of
from workbench.engine.errors import BadArgument, PoolTooSmall, WindowFull
from workbench.engine.protocols import Sampler, Until, Want
from workbench.engine.sequence import Branch
from workbench.events import (
    BranchOpened,
    PageAllocated,
    PageCached,
    PageCopied,
    PageFreed,
    PageReleased,
    PageShared,
    Pruned,
    StepEnded,
    TokenSampled,
    TokensFed,
)
from workbench.words import Finish, FreeReason, PruneMode

EXAMPLES = settings().max_examples  # of the profile: a few in CI, hundreds in the long run


class Net(Protocol):
    """A forward and what its logits must be."""

    forward: Any

    def agree(self, got: Tensor, ids: list[int]) -> None: ...


class Tiny:
    def __init__(self) -> None:
        self.forward = TinyForward()

    def agree(self, got: Tensor, ids: list[int]) -> None:
        assert (got - self.forward.dense(ids)[-1]).abs().max() < 1e-5


class Laptop:
    """The laptop engine: logits are those of a fresh prefill, to the bit."""

    def __init__(self) -> None:
        facts = {"vocabulary": TinyForward().facts.vocabulary, "layers": 2, "sliding": (None, None)}
        self.subject = LaptopSubject("llama", **facts)
        self.forward = Poisoned(self.subject.model)

    def agree(self, got: Tensor, ids: list[int]) -> None:
        self.subject.agree(got, self.subject.says(ids)[-1])


NETS: dict[str, Callable[[], Net]] = {"tiny": cache(Tiny), "numba": cache(Laptop)}
on_each = pytest.mark.parametrize("net", NETS)


@dataclass
class Program:
    """A stream of random wishes over one engine. Typed refusals are outcomes like any other."""

    net: Net
    bench: Bench
    random: random.Random
    exact: bool  # only wishes after which memory equals a fresh prefill of what is resident
    branches: list[Branch] = field(default_factory=list)

    def pick(self) -> Branch | None:
        return self.random.choice(self.branches) if self.branches else None

    async def run(self, wishes: int) -> None:
        engine = self.bench.engine
        for _ in range(wishes):
            verbs: list[Callable[[], object]] = [
                self.open, self.fork, self.feed, self.decode, self.decode, self.prune, self.edit,
                self.drop, self.preempt, self.peek,
            ]  # fmt: skip
            if not self.exact:
                verbs += [self.attach, self.detach, self.feed_vectors, self.feed_placed]
            try:
                wish = self.random.choice(verbs) if self.branches else self.open
                await wish()  # type: ignore[misc]
            except (PoolTooSmall, WindowFull, BadArgument):
                pass
            engine.audit()

    async def open(self) -> None:
        text = self.random.choice(["a common beginning, ", "x"]) + self.text(6)
        share = self.random.random() < 0.8
        branch = self.bench.engine.open(text, request=self.bench.request, share=share)
        self.branches.append(await branch)

    async def fork(self) -> None:
        if branch := self.pick():
            at = self.random.choice([None, self.random.randint(1, len(branch.tokens))])
            n = self.random.randint(1, 2)
            self.branches += await self.bench.engine.fork(branch, n, at=at)

    async def feed(self) -> None:
        if branch := self.pick():
            want = self.random.choice([Want(), Want(logprobs=True)])
            await self.bench.engine.feed(branch, self.text(7), want=want)

    async def decode(self) -> None:
        some = self.random.sample(self.branches, min(len(self.branches), self.random.randint(1, 3)))
        sampler = Sampler(temperature=self.random.choice([0.0, 1.0]))
        until = Until(max_tokens=self.random.randint(1, 6), eos=False)
        if some:
            await self.bench.engine.decode(some, until=until, sampler=sampler)

    async def prune(self) -> None:
        if branch := self.pick():
            mode = PruneMode.REENCODE
            if not self.exact:
                mode = self.random.choice(list(PruneMode))
            spans = []
            for _ in range(self.random.randint(1, 3)):
                a, b = (self.random.randint(0, len(branch.tokens)) for _ in range(2))
                spans.append((min(a, b), max(a, b)))
            await self.bench.engine.prune(branch, spans, mode=mode)

    async def edit(self) -> None:
        if branch := self.pick():
            a, b = sorted(self.random.randint(0, len(branch.tokens)) for _ in range(2))
            b = min(b, a + 5)
            new = list(self.text(3).encode()) if self.random.random() < 0.7 else []
            reuse = "recompute" if self.exact else self.random.choice(["recompute", "reposition"])
            await self.bench.engine.edit(branch, a, b, new, reuse=reuse)

    async def drop(self) -> None:
        if len(self.branches) > 3 and (branch := self.pick()):
            self.bench.engine.drop(branch, "not wanted")
            self.branches.remove(branch)

    async def preempt(self) -> None:
        if (branch := self.pick()) and self.bench.engine.movable(branch):
            self.bench.engine.preempt(branch)

    async def peek(self) -> None:
        if branch := self.pick():
            await self.bench.engine.peek(branch, Want(hidden=self.random.choice([(), (0, -1)])))

    async def attach(self) -> None:
        if branch := self.pick():
            others = [b for b in self.branches if b is not branch][:2]
            start = self.random.randint(0, branch.length)
            self.bench.engine.attach(branch, others, start=start)

    async def detach(self) -> None:
        if branch := self.pick():
            self.bench.engine.detach(branch)

    async def feed_vectors(self) -> None:
        if branch := self.pick():
            await self.bench.engine.feed(branch, torch.randn(2, self.net.forward.facts.width))

    async def feed_placed(self) -> None:
        if branch := self.pick():
            first = self.random.randint(0, 300)
            await self.bench.engine.feed(branch, [65, 66], positions=[first, first + 1])

    def text(self, most: int) -> str:
        return "".join(self.random.choice("abc ") for _ in range(self.random.randint(1, most)))

    async def check(self) -> None:
        """Each branch's next-token logits are those of its resident text, computed afresh, no
        pages."""
        for branch in self.branches:
            try:
                peek = await self.bench.engine.peek(branch, Want(logits=True))
            except PoolTooSmall:
                continue
            assert peek.logits is not None
            assert not peek.logits.isnan().any(), f"{branch!r} read a slot that nobody owns"
            if self.exact:
                self.net.agree(peek.logits, text_of(branch))


def replay(b: Bench, branches: list[Branch]) -> None:
    """The facts alone tell the same story: what each page went through, what each stream became."""
    count = dict.fromkeys(range(b.engine.memory.pages.pages), 0)
    cached: set[int] = set()
    streams: dict[int, list[int]] = {}
    for event in b.told:
        match event:
            case PageAllocated(page=page) | PageCopied(page=page):
                assert count[page] == 0
                assert page not in cached, "only a free page is given out"
                count[page] = 1
            case PageShared(page=page, refcount=refcount):
                assert count[page] > 0 or page in cached
                cached.discard(page)
                count[page] += 1
                assert refcount == count[page]
            case PageReleased(page=page, refcount=refcount):
                count[page] -= 1
                assert refcount == count[page] >= 0
            case PageCached(page=page):
                assert count[page] == 0
                cached.add(page)
            case PageFreed(page=page, reason=reason):
                assert count[page] == 0
                assert (page in cached) is (reason is FreeReason.EVICTED)
                cached.discard(page)
            case StepEnded(pages_held=held):
                assert held == sum(refs > 0 for refs in count.values())
            case BranchOpened(seq=seq, parent=parent, at=at):
                streams[seq] = [] if parent is None else streams[parent][:at]
            case TokensFed(seq=seq, index=index, tokens=tokens):
                streams[seq] = [*streams[seq][:index], *tokens]
            case TokenSampled(seq=seq, index=index, token=token):
                assert index == len(streams[seq])
                streams[seq].append(token)
            case Pruned(seq=seq, start=start, cause="edit"):
                streams[seq] = streams[seq][:start]
            case Pruned(length_before=before, length_after=after, removed=removed):
                assert before - after == removed
    assert not any(count.values())
    for branch in branches:
        if branch.seq in streams:
            assert streams[branch.seq] == branch.tokens


def run_program(net: Net, seed: int, wishes: int, page_size: int, pages: int, exact: bool) -> None:
    rng = random.Random(seed)
    b = bench(
        net.forward, pages=pages, page_size=page_size, limit=rng.choice([60, 200]),
        chunk=rng.choice([3, 64]), max_rows=rng.choice([2, 32]),
    )  # fmt: skip
    poison_unowned(b)
    program = Program(net, b, rng, exact)

    async def all_of_it() -> None:
        await program.run(wishes)
        await program.check()
        b.engine.end_request(b.request, Finish.STOP)

    drive(b, all_of_it())
    pages_table = b.engine.memory.pages
    assert pages_table.held == 0
    assert not any(pages_table.refcount)
    assert pages_table.resident == 0
    replay(b, program.branches)


@on_each
@settings(deadline=None, max_examples=EXAMPLES)
@given(
    seed=st.integers(0, 2**32), wishes=st.integers(1, 25), page_size=st.integers(1, 5),
    pages=st.sampled_from([14, 30, 90]),
)  # fmt: skip
def test_reencoding_programs_equal_a_dense_pass(
    net: str, seed: int, wishes: int, page_size: int, pages: int
) -> None:
    run_program(NETS[net](), seed, wishes, page_size, pages, exact=True)


@on_each
@settings(deadline=None, max_examples=EXAMPLES)
@given(
    seed=st.integers(0, 2**32), wishes=st.integers(1, 25), page_size=st.integers(1, 5),
    pages=st.sampled_from([14, 30, 90]),
)  # fmt: skip
def test_any_program_keeps_its_books(
    net: str, seed: int, wishes: int, page_size: int, pages: int
) -> None:
    run_program(NETS[net](), seed, wishes, page_size, pages, exact=False)
