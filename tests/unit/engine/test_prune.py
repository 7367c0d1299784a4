"""prune: both modes against a net that never saw the pruned text, or saw it and forgot."""

import pytest
import torch

from tests.fakes import Bench, TinyForward, bench, drive, poison_unowned, text_of, turn
from workbench.commands import PinPage
from workbench.engine.errors import BadArgument
from workbench.engine.protocols import Sampler, Until, Want
from workbench.engine.sequence import Branch
from workbench.events import PageCopied, PageFreed, Pruned, StepEnded
from workbench.words import FreeReason, PageId, PruneMode

TEXT = "what is kept. WHAT IS PRUNED AWAY FOR GOOD and what survives behind it"
HOLE = (14, 43)
FORWARD = TinyForward()


def greedy(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


async def logits(b: Bench, branch: Branch) -> torch.Tensor:
    peek = await b.engine.peek(branch, Want(logits=True))
    assert peek.logits is not None
    return peek.logits


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_reencode_equals_a_fresh_prefill_of_the_surviving_text(page_size: int) -> None:
    b = bench(FORWARD, page_size=page_size, pages=100)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(5))
        report = await b.engine.prune(branch, [HOLE])
        assert report.removed == 29
        assert report.reencoded == len(TEXT) + 4 - HOLE[1], "the pending token had no K/V yet"
        assert (report.rotated, report.kept) == (0, 0)
        fresh = FORWARD.dense(text_of(branch))[-1]
        assert torch.allclose(await logits(b, branch), fresh, atol=1e-5)
        await b.engine.decode(branch, until=greedy(5))
        fresh = FORWARD.dense(text_of(branch))[-1]
        assert torch.allclose(await logits(b, branch), fresh, atol=1e-5)

    drive(b, work())
    extend = [e for e in b.of(StepEnded) if e.reencode]
    assert len(extend) == 1, "survivors and pending token run as one pass"
    assert extend[0].decode == 1
    assert {e.reason for e in b.of(PageFreed)} <= {FreeReason.PRUNED, FreeReason.REENCODED}
    (told,) = b.of(Pruned)
    assert (told.start, told.stop, told.length_before - told.length_after) == (*HOLE, 29)


@pytest.mark.parametrize("mode", list(PruneMode))
def test_several_spans_leave_at_once(mode: PruneMode) -> None:
    b = bench(FORWARD)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        report = await b.engine.prune(branch, [(30, 40), (3, 9), (5, 12), (60, 60)], mode=mode)
        gone = [*range(3, 12), *range(30, 40)]
        assert branch.resident == [i for i in range(len(TEXT)) if i not in gone]
        assert branch.tokens == list(TEXT.encode()), "the stream forgets nothing"
        behind = report.reencoded if mode is PruneMode.REENCODE else report.rotated
        assert behind == len(TEXT) - 3 - len(gone)
        again = await b.engine.prune(branch, [(3, 12)], mode=mode)
        assert again.removed == 0
        await b.engine.decode(branch, until=greedy(3))
        if mode is PruneMode.REENCODE:
            fresh = FORWARD.dense(text_of(branch))[-1]
            assert torch.allclose(await logits(b, branch), fresh, atol=1e-5)

    drive(b, work())
    assert [(e.start, e.stop) for e in b.of(Pruned)] == [(3, 12), (30, 40)]


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_rotate_leaves_layer_0_as_a_fresh_prefill_and_deeper_layers_as_they_were(
    page_size: int,
) -> None:
    b = bench(FORWARD, page_size=page_size, pages=100)
    poison_unowned(b)

    async def work() -> None:
        memory = b.engine.memory
        branch = await b.engine.open(TEXT, request=b.request)
        (fresh,) = [await b.engine.open(TEXT[: HOLE[0]] + TEXT[HOLE[1] :], request=b.request)]
        before = memory.pool.read(1, torch.from_numpy(memory.slots(branch, 0, branch.length)))[0]
        report = await b.engine.prune(branch, [HOLE], mode=PruneMode.ROTATE)
        assert report.rotated == len(TEXT) - HOLE[1] == branch.length - HOLE[0]
        for layer, like in ((0, True), (1, False)):
            mine, theirs = (
                memory.pool.read(layer, torch.from_numpy(memory.slots(x, 0, x.length)))
                for x in (branch, fresh)
            )
            assert torch.allclose(mine[0], theirs[0], atol=1e-6) is like
        kept = torch.tensor([i for i in range(len(TEXT)) if not HOLE[0] <= i < HOLE[1]])
        turned = before[kept].double()
        shift = torch.full((len(TEXT) - HOLE[1],), HOLE[0] - HOLE[1])
        turned[HOLE[0] :] = turn(turned[HOLE[0] :], shift, FORWARD.inv_freq)
        now = memory.pool.read(1, torch.from_numpy(memory.slots(branch, 0, branch.length)))[0]
        assert torch.allclose(now, turned.float(), atol=1e-5), "what was seen is remembered"

    drive(b, work())


@pytest.mark.parametrize("mode", list(PruneMode))
def test_siblings_that_share_the_pruned_tail_keep_their_bits(mode: PruneMode) -> None:
    def sibling(prune: bool) -> list[torch.Tensor]:
        b = bench(FORWARD, page_size=4)

        async def work() -> list[torch.Tensor]:
            branch = await b.engine.open(TEXT, request=b.request)
            one, other = await b.engine.fork(branch, 2)
            if prune:
                await b.engine.prune(one, [HOLE], mode=mode)
                await b.engine.decode(one, until=greedy(4))
            (decoded,) = await b.engine.decode(other, until=greedy(6), want=Want(logits=True))
            assert decoded.logits is not None
            return [*decoded.logits, await logits(b, branch)]

        rows = drive(b, work())
        if prune and mode is PruneMode.ROTATE:
            copied = b.of(PageCopied)
            first = [e for e in copied if e.seq == 1]
            assert len(first) == 1, "the page before the hole is copied, the others made anew"
        return rows

    for mine, theirs in zip(sibling(True), sibling(False), strict=True):
        assert torch.equal(mine, theirs)


def test_rotated_pages_never_enter_prefix_sharing() -> None:
    b = bench(FORWARD, page_size=4)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.prune(branch, [HOLE], mode=PruneMode.ROTATE)
        await b.engine.decode(branch, until=greedy(12))
        cached = b.engine.memory.prefix.match(0, text_of(branch)).pages
        assert len(cached) == HOLE[0] // 4
        again = await b.engine.open(text_of(branch), request=b.request)
        fresh = FORWARD.dense(text_of(branch))[-1]
        assert torch.allclose(await logits(b, again), fresh, atol=1e-5)

    drive(b, work())


def test_reencoded_text_is_shared_like_any_other() -> None:
    b = bench(FORWARD, page_size=4)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.prune(branch, [HOLE])
        await b.engine.decode(branch, until=greedy(8))
        before = b.engine.requests[b.request].reused
        again = await b.engine.open(text_of(branch), request=b.request)
        assert b.engine.requests[b.request].reused - before == (branch.length - 1) // 4 * 4
        fresh = FORWARD.dense(text_of(branch))[-1]
        assert torch.allclose(await logits(b, again), fresh, atol=1e-5)

    drive(b, work())


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_claimed_peak_is_enough(page_size: int) -> None:
    """A run that prunes on its way, again in a pool of exactly as many pages as it ever held."""

    def run(pages: int) -> tuple[list[int], int]:
        b = bench(FORWARD, page_size=page_size, pages=pages)

        async def work() -> list[int]:
            branch = await b.engine.open(TEXT, request=b.request)
            for _ in range(6):
                await b.engine.decode(branch, until=greedy(9))
                end = len(branch.tokens)
                await b.engine.prune(branch, [(end - 8, end - 2)])
            await b.engine.decode(branch, until=greedy(4))
            return branch.tokens

        tokens = drive(b, work())
        assert not any(type(e).__name__ == "BranchPreempted" for e in b.told)
        return tokens, b.engine.memory.pages.peak

    tokens, peak = run(400)
    assert peak < 400
    assert run(peak) == (tokens, peak)


def test_tokens_on_a_pinned_page_stay() -> None:
    b = bench(FORWARD, page_size=4)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        b.engine.submit(PinPage(PageId(branch.pages[4])))  # entries 16 to 19
        await b.engine.peek(branch)
        b.engine.control.obey()
        report = await b.engine.prune(branch, [HOLE])
        assert report.kept == 4
        assert [i for i in branch.resident if HOLE[0] <= i < HOLE[1]] == [16, 17, 18, 19]

    drive(b, work())


def test_a_hole_at_the_end_takes_the_pending_token_and_decoding_goes_on() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        await b.engine.decode(branch, until=greedy(6))
        await b.engine.prune(branch, [(len(TEXT) - 3, len(branch.tokens))])
        assert branch.pending == 0
        fresh = FORWARD.dense(list(TEXT[:-3].encode()))[-1]
        assert torch.allclose(await logits(b, branch), fresh, atol=1e-5)
        (decoded,) = await b.engine.decode(branch, until=greedy(1), sampler=Sampler())
        assert decoded.tokens == (int(fresh.argmax()),)
        assert decoded.start == len(TEXT) + 6, "stream indexes never shift"

    drive(b, work())


def test_impossible_spans_are_refused() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        for span in ((-1, 3), (5, 2), (0, 999)):
            with pytest.raises(BadArgument, match="span"):
                await b.engine.prune(branch, [span])
        with pytest.raises(BadArgument, match="nothing to go on from"):
            await b.engine.prune(branch, [(0, len(TEXT))])

    drive(b, work())
