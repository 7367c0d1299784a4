"""What a caller can get wrong ends in a typed error that says what was wanted, what came, what
to do."""

import pytest

from tests.fakes import bench, drive
from workbench.engine.errors import BadArgument, BranchGone, PromptTooLong
from workbench.engine.protocols import Until
from workbench.words import Finish, RequestId


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt(prompt: str | list[int]) -> None:
    b = bench()
    with pytest.raises(BadArgument, match="the prompt is empty"):
        drive(b, b.engine.open(prompt, request=b.request))


def test_a_prompt_over_the_window() -> None:
    b = bench(limit=10)
    with pytest.raises(PromptTooLong, match="the prompt has 11 tokens, the window 10"):
        drive(b, b.engine.open("x" * 11, request=b.request))


def test_a_token_that_is_none() -> None:
    b = bench()
    with pytest.raises(BadArgument, match=r"\[0, 257\), got 257"):
        drive(b, b.engine.open([1, 257], request=b.request))


def test_a_monitor_that_asks_for_what_is_not_served() -> None:
    b = bench()

    async def work() -> None:
        branch = await b.engine.open("ask", request=b.request)
        until = Until(max_tokens=3, eos=False)
        await b.engine.decode(branch, until=until, monitor=lambda branch, token: "fork")

    with pytest.raises(BadArgument, match="answers Stop, Inject or None, got 'fork'"):
        drive(b, work())


def test_a_request_that_is_not_there_or_over() -> None:
    b = bench()
    with pytest.raises(BranchGone, match="request 7"):
        drive(b, b.engine.open("x", request=RequestId(7)))
    b.engine.end_request(b.request, Finish.STOP, "answer")
    with pytest.raises(BranchGone, match="has ended"):
        drive(b, b.engine.open("x", request=b.request))


@pytest.mark.parametrize("setting", [{"max_rows": 0}, {"chunk": 0}])
def test_settings_that_could_never_run(setting: dict[str, int]) -> None:
    with pytest.raises(BadArgument, match="at least 1"):
        bench(**setting)


def test_a_pool_without_pages() -> None:
    with pytest.raises(ValueError, match="pages must be at least 1"):
        bench(pages=0)
