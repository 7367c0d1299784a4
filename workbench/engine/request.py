"""What a request has cost so far."""

from dataclasses import dataclass

from workbench.words import Finish, RequestId


@dataclass(slots=True)
class Request:
    """One run of a strategy: the tokens of all its branches, counted."""

    id: RequestId
    title: str
    seed: int
    opened: float  # seconds since the engine started
    branches: int = 0  # opened, forks left out
    sampled: int = 0
    fed: int = 0  # put in from outside, prompts included
    computed: int = 0  # tokens run through the net
    drafted: int = 0  # tokens run on a guess, beside those computed
    kept: int = 0  # of these, the right ones: they are computed ones
    reused: int = 0  # tokens whose pages were found instead
    scorer: int = 0  # tokens that scorers read
    scorer_calls: int = 0
    pruned: int = 0
    reencoded: int = 0
    rotated: int = 0
    peak_pages: int = 0  # held in the pool, over all requests, while this one lived
    peak_tokens: int = 0  # in the pool, likewise
    peak_own: int = 0  # tokens that its own branches held
    first_token: float | None = None  # seconds since the engine started
    last_token: float | None = None
    finish: Finish | None = None  # None while it lives
