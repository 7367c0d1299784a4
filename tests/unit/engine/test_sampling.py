"""Draws belong to a branch's own stream; settings do what they say."""

import pytest

from tests.fakes import bench, drive
from workbench.engine.errors import BadArgument
from workbench.engine.philox import child_seed, philox, uniform
from workbench.engine.protocols import Decoded, Sampler, Until
from workbench.events import TokenSampled

WARM = Sampler(temperature=1.0)


def until(n: int) -> Until:
    return Until(max_tokens=n, eos=False)


def test_philox_gives_the_published_words() -> None:
    assert philox(0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = philox((1 << 128) - 1, (1 << 64) - 1)
    assert ones == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


def test_uniforms_are_spread_over_the_unit_interval() -> None:
    draws = [uniform(7, i) for i in range(4000)]
    assert all(0 <= x < 1 for x in draws)
    for tenth in range(10):
        assert 320 < sum(tenth / 10 <= x < (tenth + 1) / 10 for x in draws) < 480
    assert len({child_seed(7, i) for i in range(1000)}) == 1000


def decoded(seed: int, neighbours: int, sampler: Sampler = WARM, page_size: int = 4) -> Decoded:
    b = bench(seed=seed, page_size=page_size)

    async def work() -> Decoded:
        branch = await b.engine.open("once upon a time", request=b.request)
        others = [
            await b.engine.open(f"neighbour {i} says", request=b.request) for i in range(neighbours)
        ]
        return (await b.engine.decode([branch, *others], until=until(12), sampler=sampler))[0]

    return drive(b, work())


def test_a_branch_draws_the_same_whatever_runs_beside_it() -> None:
    alone = decoded(3, 0)
    assert decoded(3, 5).tokens == alone.tokens
    assert decoded(3, 0, page_size=1).tokens == alone.tokens
    assert decoded(4, 0).tokens != alone.tokens


def test_forks_of_one_branch_draw_apart_and_a_seed_replaces_the_stream() -> None:
    b = bench()

    async def work() -> None:
        branch = await b.engine.open("once upon a time", request=b.request)
        kids = await b.engine.fork(branch, 4)
        texts = [d.tokens for d in await b.engine.decode(kids, until=until(8), sampler=WARM)]
        assert len(set(texts)) == 4
        seeded = Sampler(temperature=1.0, seed=11)
        kids = await b.engine.fork(branch, 2)
        first = [d.tokens for d in await b.engine.decode(kids, until=until(8), sampler=seeded)]
        kids = await b.engine.fork(branch, 2)
        again = [d.tokens for d in await b.engine.decode(kids, until=until(8), sampler=seeded)]
        assert first == again
        assert first[0] != first[1]

    drive(b, work())


def test_settings_reach_the_draw() -> None:
    greedy = decoded(0, 0, Sampler())
    assert decoded(9, 0, Sampler()).tokens == greedy.tokens, "greedy needs no seed"
    assert decoded(5, 0, Sampler(temperature=1.0, top_k=1)).tokens == greedy.tokens
    assert decoded(5, 0, Sampler(temperature=1.0, top_p=1e-6)).tokens == greedy.tokens
    assert decoded(5, 0, Sampler(temperature=1.0, min_p=1.0)).tokens == greedy.tokens
    assert decoded(5, 0, Sampler(bias={65: 1e4})).tokens == (65,) * 12
    forbidden = Sampler(bias=dict.fromkeys(set(greedy.tokens), -1e4))
    assert not set(decoded(5, 0, forbidden).tokens) & set(greedy.tokens)
    assert len(set(decoded(5, 0, Sampler(presence_penalty=1e4)).tokens)) == 12
    assert decoded(5, 0, Sampler(repetition_penalty=50.0)).tokens != greedy.tokens


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"min_p": 2.0},
        {"repetition_penalty": 0.0}, {"bias": {9999: 1.0}},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(bad: dict[str, object]) -> None:
    with pytest.raises(BadArgument, match=f"Sampler.{next(iter(bad))}"):
        decoded(0, 0, Sampler(**bad))  # type: ignore[arg-type]


def test_top_n_logprobs_and_entropy_are_told() -> None:
    b = bench(record_top=3)

    async def work() -> None:
        branch = await b.engine.open("abc", request=b.request)
        await b.engine.decode(branch, until=until(4))

    drive(b, work())
    for event in b.of(TokenSampled):
        assert len(event.top_ids) == 3
        assert event.token == event.top_ids[0]
        assert event.logprob == event.top_logprobs[0]
        assert event.entropy > 0
