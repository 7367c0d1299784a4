"""Draws the next token of every row that has logits: one call of the backend's `sample` a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from workbench.engine.jobs import Generate
from workbench.engine.philox import uniform, uniforms
from workbench.ops.contract import Sampled, SamplerRow

FEW = 4  # numbers that are worked out one by one
_NONE_SEEN = torch.empty(0, dtype=torch.int64)


class Sample(Protocol):
    """`ops.contract.Ops.sample`."""

    def __call__(
        self, logits: Tensor, rows: Sequence[SamplerRow], mask: Tensor | None,
        seen: Sequence[Tensor], bias: Sequence[tuple[Tensor, Tensor] | None], uniforms: Tensor,
        top_n: int,
    ) -> Sampled: ...  # fmt: skip


class Draw(NamedTuple):
    """One row's outcome."""

    token: int
    logprob: float
    entropy: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Draws:
    rows: list[Draw]
    grammar_s: float  # filling the masks


@dataclass(frozen=True, slots=True)
class Drawing:
    """A draw under way: `land` waits for it."""

    sampled: Sampled
    grammar_s: float

    def land(self) -> Draws:
        """Raises ValueError when a row's mask allows nothing."""
        sampled = self.sampled
        sampled.wait()
        if not sampled.top_ids.shape[1]:
            told = zip(
                sampled.token.tolist(), sampled.logprob.tolist(), sampled.entropy.tolist(),
                strict=True,
            )  # fmt: skip
            return Draws([Draw(*one, (), ()) for one in told], self.grammar_s)
        rows = zip(
            sampled.token.tolist(),
            sampled.logprob.tolist(),
            sampled.entropy.tolist(),
            sampled.top_ids.tolist(),
            sampled.top_logprobs.tolist(),
            strict=True,
        )
        return Draws(
            [Draw(token, lp, ent, *_possible(ids, lps)) for token, lp, ent, ids, lps in rows],
            self.grammar_s,
        )


def draw(
    sample: Sample, jobs: Sequence[Generate], logits: Tensor, record_top: int,
    behind: Sequence[int] | None = None,
) -> Drawing:  # fmt: skip
    """Begin to draw a token for each job from its row of `logits` [R, V]. A row's draw depends on
    its own stream only. `behind`: how many of its job's drafted tokens a row stands behind; none
    where None."""
    vocabulary = logits.shape[1]
    began = perf_counter()
    mask = _mask(jobs, vocabulary, behind)
    grammar_s = perf_counter() - began if mask is not None else 0.0
    sampled = sample(
        logits,
        [job.row for job in jobs],
        mask,
        [job.seen.upto(job.branch.tokens) if job.seen else _NONE_SEEN for job in jobs],
        [job.bias for job in jobs],
        _uniforms(jobs, behind),
        max(record_top, max(job.want.top for job in jobs)),
    )
    return Drawing(sampled, grammar_s)


def _uniforms(jobs: Sequence[Generate], behind: Sequence[int] | None) -> Tensor:
    """Each row's number for its token; 0 where it draws none."""
    indexes = [len(job.branch.tokens) for job in jobs]
    if behind is not None:
        indexes = [index + n for index, n in zip(indexes, behind, strict=True)]
    heated = [job for job in jobs if job.row.temperature > 0]
    if len(heated) <= FEW:
        numbers = [
            uniform(job.seed, index) if job.row.temperature > 0 else 0.0
            for job, index in zip(jobs, indexes, strict=True)
        ]
        return torch.tensor(numbers, dtype=torch.float64)
    return torch.from_numpy(uniforms([job.seed for job in jobs], indexes))


def _possible(ids: list[int], logprobs: list[float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Without what the grammar forbids, which comes last."""
    if logprobs and logprobs[-1] == -math.inf:
        n = logprobs.index(-math.inf)
        return tuple(ids[:n]), tuple(logprobs[:n])
    return tuple(ids), tuple(logprobs)


def _mask(jobs: Sequence[Generate], vocabulary: int, behind: Sequence[int] | None) -> Tensor | None:
    if all(job.matcher is None for job in jobs):
        return None
    rows = np.full((len(jobs), -(-vocabulary // 32)), -1, np.int32)
    together: dict[type, list[int]] = {}
    for i, job in enumerate(jobs):
        if job.matcher is None:
            continue
        if behind is not None and job.draft is not None:
            rows[i] = job.draft.masks[behind[i]]
            continue
        if hasattr(job.matcher, "fill_many"):
            together.setdefault(type(job.matcher), []).append(i)
        else:
            job.matcher.fill(rows[i])
    for kind, some in together.items():
        kind.fill_many([jobs[i].matcher for i in some], [rows[i] for i in some])  # type: ignore[attr-defined]
    return torch.from_numpy(rows)
