"""feed, decode, stream, peek, score: every argument, and who is never blocked by whom."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.fakes import Bench, ScriptedModel, TinyForward, bench, drive, poison_unowned
from workbench.engine.errors import BadArgument, WindowFull
from workbench.engine.protocols import (
    Inject,
    Program,
    Score,
    Stop,
    Until,
    Verdict,
    Want,
)
from workbench.engine.sequence import Branch
from workbench.events import Scored, StepEnded, TokenSampled, TokensFed
from workbench.words import Finish, Origin

FORWARD = TinyForward()
TEXT = "tell me something"


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


def scripted(reply: str) -> Bench:
    return bench(ScriptedModel({"Q:": reply, "R:": "other words<end>"}))


@dataclass
class Only:
    """A grammar of one text, told token by token."""

    text: list[int]
    place: int = 0
    log: list[int] = field(default_factory=list)

    def fill(self, row: npt.NDArray[np.int32]) -> None:
        row[:] = 0
        token = self.text[self.place]
        row[token // 32] = np.uint32(1 << token % 32).astype(np.int32)

    def consume(self, token: int) -> None:
        if token != self.text[self.place]:
            raise ValueError(f"{token} is not allowed")
        self.place += 1
        self.log.append(token)

    @property
    def finished(self) -> bool:
        return self.place == len(self.text)

    def rollback(self, n: int) -> None:
        self.place -= n

    def copy(self) -> "Only":
        return Only(self.text, self.place)


# ---- until ----


@pytest.mark.parametrize(
    ("until", "text", "finish"),
    [
        (Until(), "one. two. three<end>", Finish.STOP),
        (Until(max_tokens=4), "one.", Finish.LENGTH),
        (Until(stop_ids=frozenset({ord("t")})), "one. t", Finish.STOP),
        (Until(stop_text=(". t",)), "one. t", Finish.STOP),
        (Until(stop_text=("zzz", "wo")), "one. two", Finish.STOP),
        (Until(predicate=lambda branch: branch.tokens[-1] == ord(" ")), "one. ", Finish.STOP),
    ],
)
def test_each_condition_ends_a_decode_with_its_token(
    until: Until, text: str, finish: Finish
) -> None:
    b = scripted("one. two. three<end>")

    async def work() -> None:
        branch = await b.engine.open("Q:", request=b.request)
        (decoded,) = await b.engine.decode(branch, until=until)
        assert (decoded.text, decoded.finish) == (text, finish)
        assert decoded.start == 2
        assert branch.tokens[2:] == list(decoded.tokens)
        assert branch.pending == 1, "the last token waits for the next pass"

    drive(b, work())


def test_an_end_token_can_be_ignored() -> None:
    b = scripted("one<end>more")

    async def work() -> None:
        branch = await b.engine.open("Q:", request=b.request)
        (decoded,) = await b.engine.decode(branch, until=Until(max_tokens=6, eos=False))
        assert decoded.text == "one<end>mo"

    drive(b, work())


def test_one_branch_that_ends_never_blocks_the_others() -> None:
    b = scripted("a long reply that goes on and on<end>")

    async def work() -> None:
        long = await b.engine.open("Q:", request=b.request)
        short = await b.engine.open("R:", request=b.request)
        ended = []

        async def one(branch: Branch) -> None:
            (decoded,) = await b.engine.decode(branch, until=Until())
            ended.append(decoded.text)

        await asyncio.gather(one(long), one(short))
        assert ended == ["other words<end>", "a long reply that goes on and on<end>"]
        mixed = await b.engine.open("Q:", request=b.request)
        b.forward.said[0] = 2
        brief = await b.engine.open("R:", request=b.request)
        b.forward.said[1] = 2
        both = await b.engine.decode([mixed, brief], until=Until(stop_text=("word",)))
        assert [d.text for d in both] == ["a long reply that goes on and on<end>", "other word"]

    drive(b, work())
    assert max(e.rows for e in b.of(StepEnded)) == 2


def test_requests_come_and_go_at_token_level() -> None:
    b = bench(FORWARD, max_rows=3)

    async def one(i: int) -> list[int]:
        await asyncio.sleep(0)
        branch = await b.engine.open(f"request {i} " * (1 + i % 3), request=b.request)
        await b.engine.decode(branch, until=greedy(3 + i % 5))
        tokens = branch.tokens
        b.engine.drop(branch, "done")
        return tokens

    async def work() -> None:
        texts = await asyncio.gather(*(one(i) for i in range(9)))
        for i, tokens in enumerate(texts):
            ids = list((f"request {i} " * (1 + i % 3)).encode())
            for _ in range(3 + i % 5):
                ids.append(int(FORWARD.dense(ids)[-1].argmax()))
            assert tokens == ids

    drive(b, work())
    steps = b.of(StepEnded)
    assert all(e.rows <= 3 for e in steps)
    assert any(e.prefill and e.decode for e in steps), "prompts and decodes share a step"
    assert b.engine.memory.pages.held == 0


# ---- window ----


def test_a_full_window_ends_a_decode_and_refuses_a_feed() -> None:
    b = bench(FORWARD, limit=len(TEXT) + 5)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        (decoded,) = await b.engine.decode(branch, until=Until(eos=False))
        assert (len(decoded.tokens), decoded.finish) == (5, Finish.LENGTH)
        with pytest.raises(WindowFull, match="22 tokens and 1 more"):
            await b.engine.feed(branch, "x")
        await b.engine.prune(branch, [(0, 10)])
        (more,) = await b.engine.decode(branch, until=Until(eos=False))
        assert len(more.tokens) == 10, "pruned room can be used again"

    drive(b, work())


# ---- monitor ----


def test_a_monitor_stops_or_injects() -> None:
    b = bench(FORWARD)
    seen: list[int] = []

    def monitor(branch: Branch, token: int) -> Verdict | None:
        seen.append(token)
        if len(seen) == 2:
            return Inject(tuple(b"!!"))
        return Stop("enough") if len(seen) == 4 else None

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        (decoded,) = await b.engine.decode(branch, until=greedy(99), monitor=monitor)
        assert (decoded.finish, decoded.why) == (Finish.MONITOR, "enough")
        assert list(decoded.tokens) == seen
        assert bytes(branch.tokens[len(TEXT) + 2 : len(TEXT) + 4]) == b"!!"
        assert branch.tokens[len(TEXT) + 4] == int(FORWARD.dense(branch.tokens[:-2])[-1].argmax())

    drive(b, work())
    assert b.of(TokensFed)[-1].tokens == (33, 33)


def test_what_a_caller_raises_reaches_that_caller_alone() -> None:
    b = bench(FORWARD)

    def monitor(branch: Branch, token: int) -> Verdict | None:
        raise LookupError("mine")

    async def work() -> None:
        one = await b.engine.open(TEXT, request=b.request)
        other = await b.engine.open(TEXT, request=b.request)
        fine = asyncio.ensure_future(b.engine.decode(other, until=greedy(5)))
        with pytest.raises(LookupError, match="mine"):
            await b.engine.decode(one, until=greedy(5), monitor=monitor)
        assert len((await fine)[0].tokens) == 5
        await b.engine.decode(one, until=greedy(2))

    drive(b, work())


# ---- grammar ----


def test_a_grammar_says_what_may_be_said_and_when_it_is_over() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        kids = await b.engine.fork(branch, 2)
        yes, no = Only(list(b"yes")), Only(list(b"no"))
        a, c = await b.engine.decode(kids, until=Until(), grammar=[yes, no])
        assert (a.text, a.finish, c.text) == ("yes", Finish.GRAMMAR, "no")
        assert yes.log == list(b"yes")
        (free,) = await b.engine.decode(branch, until=greedy(3), grammar=None)
        assert free.text != "yes"
        (half,) = await b.engine.decode(branch, until=greedy(1), grammar=Only(list(b"yes")))
        assert half.text == "y"
        assert half.logprobs[0] == pytest.approx(0.0, abs=1e-6), "under the masked distribution"
        with pytest.raises(BadArgument, match="matcher each"):
            await b.engine.decode(kids, until=greedy(1), grammar=yes)

    drive(b, work())
    assert any(e.grammar_s > 0 for e in b.of(StepEnded))
    by_grammar = [e for e in b.of(TokenSampled) if e.logprob == 0.0]
    assert by_grammar, "one token alone was allowed"
    assert all(e.top_ids == (e.token,) for e in by_grammar), "no forbidden alternative is recorded"


def test_a_grammar_that_allows_nothing_fails_its_own_decode() -> None:
    class Nothing(Only):
        def fill(self, row: npt.NDArray[np.int32]) -> None:
            row[:] = 0

    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        kids = await b.engine.fork(branch, 2)
        fine = asyncio.ensure_future(b.engine.decode(kids[1], until=greedy(3)))
        with pytest.raises(ValueError, match="allows nothing"):
            await b.engine.decode(kids[0], until=greedy(3), grammar=Nothing([1]))
        assert len((await fine)[0].tokens) == 3

    drive(b, work())


# ---- stream, want, feed, peek ----


def test_a_stream_gives_each_token_and_may_be_left() -> None:
    b = scripted("one. two. three<end>")

    async def work() -> None:
        branch = await b.engine.open("Q:", request=b.request)
        tokens = []
        async for token in b.engine.stream(branch, until=Until(stop_text=(".",))):
            tokens.append((token.index, token.text, token.finish))
        assert tokens == [
            (2, b"o", None), (3, b"n", None), (4, b"e", None), (5, b".", Finish.STOP)
        ]  # fmt: skip
        stream = b.engine.stream(branch, until=Until())
        async for token in stream:
            if token.text == b"w":
                break
        await stream.aclose()  # type: ignore[attr-defined]
        assert branch.job is None
        (rest,) = await b.engine.decode(branch, until=Until())
        assert rest.text == "o. three<end>"

    drive(b, work())


def test_wanted_logits_hidden_states_and_top_n_come_with_each_token() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        want = Want(logits=True, hidden=(0, -1), top=7)
        (decoded,) = await b.engine.decode(branch, until=greedy(4), want=want)
        assert decoded.logits is not None
        dense = FORWARD.dense(branch.tokens)[len(TEXT) - 1 : -1]
        assert torch.allclose(decoded.logits, dense, atol=1e-5)
        assert decoded.hidden[0].shape == decoded.hidden[-1].shape == (4, FORWARD.facts.width)
        assert torch.allclose(FORWARD.project(decoded.hidden[-1], True), dense, atol=1e-5)
        assert [len(top) for top in decoded.top] == [7] * 4
        assert [top[0][0] for top in decoded.top] == list(decoded.tokens)

    drive(b, work())


@pytest.mark.parametrize("chunk", [2, 512])
@pytest.mark.parametrize("sampled_before", [0, 3])
def test_a_feed_scores_what_is_fed(chunk: int, sampled_before: int) -> None:
    b = bench(FORWARD, chunk=chunk)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        if sampled_before:
            await b.engine.decode(branch, until=greedy(sampled_before))
        want = Want(logprobs=True, hidden=(-1,), logits=True)
        fed = await b.engine.feed(branch, " and why", want=want)
        assert (fed.stop - fed.start, branch.pending) == (8, 0)
        dense = FORWARD.dense(branch.tokens)
        expected = dense.log_softmax(-1)[fed.start - 1 : -1].gather(
            1, torch.tensor(branch.tokens[fed.start :])[:, None]
        )[:, 0]
        assert fed.logprobs is not None
        assert torch.allclose(fed.logprobs, expected, atol=1e-5)
        assert torch.allclose(FORWARD.project(fed.hidden[-1], True), dense[fed.start :], atol=1e-5)
        assert fed.logits is not None
        assert torch.allclose(fed.logits, dense[-1], atol=1e-5)

    drive(b, work())


def test_fed_tokens_join_the_next_pass_with_the_pending_one() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(2))
        fed = await b.engine.feed(branch, "tool says 7", origin=Origin.TOOL)
        assert fed.start == len(TEXT) + 2
        assert branch.pending == 12
        await b.engine.decode(branch, until=greedy(1))

    drive(b, work())
    last = b.of(StepEnded)[-1]
    assert (last.decode, last.extend, last.sampled) == (1, 11, 1)
    assert b.of(TokensFed)[-1].origin is Origin.TOOL


def test_positions_are_as_given_and_go_on_from_there() -> None:
    b = bench(FORWARD)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        places = [40, 41, 50]
        await b.engine.feed(branch, "abc", positions=places)
        await b.engine.decode(branch, until=greedy(3))
        peek = await b.engine.peek(branch, Want(logits=True))
        where = [*range(len(TEXT)), *places, 51, 52, 53]
        assert peek.logits is not None
        fresh = FORWARD.dense(branch.tokens, positions=where)[-1]
        assert torch.allclose(peek.logits, fresh, atol=1e-5)
        with pytest.raises(BadArgument, match="positions"):
            await b.engine.feed(branch, "ab", positions=[1])
        with pytest.raises(BadArgument, match="positions"):
            await b.engine.feed(branch, "a", positions=[9999])

    drive(b, work())


def test_a_peek_adds_nothing_and_sees_everything() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(2))
        before = list(branch.tokens)
        want = Want(top=4, logits=True, hidden=(0,), project=(0, -1), among=frozenset(range(128)))
        peek = await b.engine.peek(branch, want)
        assert branch.tokens == before
        logprobs = FORWARD.dense(before)[-1].log_softmax(-1)
        assert [token for token, _ in peek.top] == logprobs.topk(4).indices.tolist()
        entropy = -(logprobs.exp() * logprobs).sum().item()
        assert peek.entropy == pytest.approx(entropy, abs=1e-4)
        assert peek.among == pytest.approx(logprobs[:128].exp().sum().item(), abs=1e-5)
        assert [token for token, _ in peek.project[-1]] == [token for token, _ in peek.top]
        assert len(peek.project[0]) == 4
        assert peek.hidden[0].shape == (FORWARD.facts.width,)
        computed = b.engine.requests[b.request].computed
        await b.engine.peek(branch, want)
        assert b.engine.requests[b.request].computed == computed, "asked twice, computed once"

    drive(b, work())


# ---- score ----


def test_equal_streams_are_judged_once() -> None:
    b = bench(FORWARD)
    calls: list[int] = []

    class Judge:
        name = "judge"

        async def __call__(self, engine: object, branch: Branch) -> Score:
            calls.append(branch.seq)
            return Score(float(len(branch.tokens)), tokens=5)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        kids = await b.engine.fork(branch, 3)
        assert await b.engine.score(kids, Judge()) == [17.0] * 3
        assert len(calls) == 1
        assert await b.engine.score(kids, Judge(), prefix=False) == [17.0] * 3
        assert len(calls) == 4
        await b.engine.decode(kids[0], until=greedy(1))
        assert await b.engine.score(kids[0], Judge()) == [18.0]
        program = Program("length", lambda one: len(one.tokens) / 2)
        assert await b.engine.score(kids[1], program) == [8.5]
        record = b.engine.requests[b.request]
        assert (record.scorer_calls, record.scorer) == (6, 25)

    drive(b, work())
    assert len(b.of(Scored)) == 6


# ---- order ----
