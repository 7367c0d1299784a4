"""edit: the same branch, another text."""

import pytest
import torch

from tests.fakes import TinyForward, bench, drive, poison_unowned, turn
from workbench.engine.errors import BadArgument
from workbench.engine.protocols import Until, Want
from workbench.engine.sequence import Branch
from workbench.events import Pruned, TokensFed
from workbench.words import Origin

FORWARD = TinyForward()
TEXT = "the cat sat on the mat and slept."


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize(
    ("start", "stop", "new"),
    [(4, 7, "big dog"), (4, 7, "x"), (4, 4, "old "), (4, 8, ""), (0, 3, "a"), (30, 33, "!")],
)
def test_recompute_equals_a_fresh_open_on_the_edited_text(
    start: int, stop: int, new: str, page_size: int
) -> None:
    b = bench(FORWARD, page_size=page_size, pages=200)
    poison_unowned(b)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        seq, edited = branch.seq, TEXT[:start] + new + TEXT[stop:]
        assert await b.engine.edit(branch, start, stop, list(new.encode())) is branch
        assert (branch.seq, bytes(branch.tokens).decode()) == (seq, edited)
        assert branch.resident == list(range(len(edited)))
        peek = await b.engine.peek(branch, Want(logits=True))
        assert peek.logits is not None
        fresh = FORWARD.dense(list(edited.encode()))[-1]
        assert torch.allclose(peek.logits, fresh, atol=1e-5)
        await b.engine.decode(branch, until=Until(max_tokens=3, eos=False))

    drive(b, work())
    (told,) = b.of(Pruned)
    assert (told.cause, told.start, told.stop) == ("edit", start, len(TEXT))
    fed = [e for e in b.of(TokensFed) if e.index >= start][-2 if new else -1 :]
    assert b"".join(bytes(e.tokens) for e in fed if e.index or start == 0)[-5:]


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("new", ["big dog", "x", ""])
def test_reposition_turns_what_follows_to_its_new_place(new: str, page_size: int) -> None:
    b = bench(FORWARD, page_size=page_size, pages=200)
    poison_unowned(b)

    async def work() -> None:
        memory = b.engine.memory

        def keys(branch: Branch, layer: int, a: int, z: int) -> torch.Tensor:
            return memory.pool.read(layer, torch.from_numpy(memory.slots(branch, a, z)))[0]

        branch = await b.engine.open(TEXT, request=b.request)
        before = [keys(branch, layer, 7, len(TEXT)) for layer in (0, 1)]
        await b.engine.edit(branch, 4, 7, list(new.encode()), reuse="reposition")
        edited = TEXT[:4] + new + TEXT[7:]
        assert bytes(branch.tokens).decode() == edited
        assert branch.stored == branch.length == len(edited)
        start = 4 + len(new)
        shift = torch.full((len(TEXT) - 7,), len(new) - 3)
        for layer in (0, 1):
            turned = turn(before[layer].double(), shift, FORWARD.inv_freq)
            now = keys(branch, layer, start, len(edited)).double()
            same = torch.isclose(now, turned, atol=1e-5).flatten(1).all(1)
            assert same[:-1].all(), "what followed was not computed again"
            assert not (layer and new and same[-1]), "but the last one, for its logits"
        other = await b.engine.open(edited, request=b.request, share=False)
        gap = [keys(one, 1, 4, start) for one in (branch, other)]
        assert torch.allclose(*gap, atol=1e-6), "the new text sees only what stands before it"
        await b.engine.decode(branch, until=Until(max_tokens=3, eos=False))
        found = memory.prefix.match(0, list(edited.encode())).pages
        assert not set(found) & set(branch.pages[4:]), "it never enters prefix sharing"

    drive(b, work())


def test_an_edited_stream_keeps_its_origins() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open("prompt", request=b.request)
        await b.engine.decode(branch, until=Until(max_tokens=4, eos=False))
        await b.engine.feed(branch, "tool", origin=Origin.TOOL)
        await b.engine.edit(branch, 2, 4, list(b"EDIT"))
        kinds = [branch.origin_of(i) for i in range(len(branch.tokens))]
        assert kinds == (
            [Origin.PROMPT] * 2 + [Origin.FED] * 4 + [Origin.PROMPT] * 2
            + [Origin.SAMPLED] * 4 + [Origin.TOOL] * 4
        )  # fmt: skip

    drive(b, work())


def test_impossible_edits_are_refused() -> None:
    b = bench(FORWARD)

    async def work() -> None:
        branch = await b.engine.open(TEXT, request=b.request)
        for start, stop in ((-1, 2), (3, 2), (0, 99)):
            with pytest.raises(BadArgument, match="span"):
                await b.engine.edit(branch, start, stop)
        with pytest.raises(BadArgument, match="at least one token"):
            await b.engine.edit(branch, 0, len(TEXT))
        with pytest.raises(BadArgument, match="reuse"):
            await b.engine.edit(branch, 0, 1, reuse="guess")  # type: ignore[arg-type]

    drive(b, work())
