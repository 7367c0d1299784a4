"""Long prompts through another net of the same checkpoint: for CPUs whose bf16 units outrun the
fused step (AMX does, twofold; without it the fused step leads at every length).

Off by default. The two nets round differently, so that K and V would depend on which of them ran:
on how a prompt was cut, on who was in the step, on whether a branch was computed again after it had
to give way. The engine's promise, that a row is the same bits whoever runs beside it, is worth more
than the wait for a first token, so a person decides: `WORKBENCH_CPU_PROMPTS=fast` takes the other
net where the probe (probe.py) found it faster, and gives the promise up; `exact`, the default,
keeps it. `workbench doctor` shows what the choice would bring here.
"""

import os
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from workbench.cpu.pool import DimPool
from workbench.forward import PLAIN, Forward, ForwardBatch, ForwardOutput, Pool

Choice = Literal["exact", "fast"]
VARIABLE = "WORKBENCH_CPU_PROMPTS"


class TokenPool(Pool, Protocol):
    """A pool of order "token": per layer [P * S, H, D]."""

    keys: Any
    values: Any


def asked() -> Choice:
    """What WORKBENCH_CPU_PROMPTS says. Raises ValueError for another word."""
    match os.environ.get(VARIABLE, "exact"):
        case "exact":
            return "exact"
        case "fast":
            return "fast"
        case word:
            raise ValueError(f"{VARIABLE} must be exact or fast, got {word!r}")


class Prompts:
    """Steps of one plain row with at least `least` new tokens, run by `other` over a pool of its
    own: what the row reads is copied there, what it made is copied back."""

    def __init__(self, other: Forward, least: int) -> None:
        self.other, self.least = other, least

    def takes(self, batch: ForwardBatch) -> bool:
        return (
            batch.rows == 1
            and batch.tokens >= self.least
            and batch.vectors is None
            and batch.ancestors is None
            and not any(batch.attached)
            and all(override.same_net(PLAIN) for override in batch.overrides)
        )

    def run(
        self, batch: ForwardBatch, pool: DimPool, pulse: Callable[[], None] | None
    ) -> ForwardOutput:
        """As `Forward.__call__`; a step that is given up has written nothing."""
        size = pool.layout.page_size
        stored = int(batch.kv_lens[0])
        pages = -(-stored // size)
        own: Any = self.other.new_pool(self.other.layout(pages, size))
        entries = torch.arange(stored)
        slots = batch.block_tables[0, entries // size] * size + entries % size
        old = stored - batch.tokens
        for layer in range(pool.layout.layers if old else 0):
            k, v = pool.read(layer, slots[:old])
            own.keys[layer][:old] = k.to(own.layout.dtype)
            own.values[layer][:old] = v.to(own.layout.dtype)
        moved = ForwardBatch(
            batch.token_ids, batch.positions, entries[old:], batch.query_start, batch.kv_lens,
            torch.arange(pages)[None], logit_rows=batch.logit_rows, hidden_rows=batch.hidden_rows,
            hidden_layers=batch.hidden_layers, routing=batch.routing,
        )  # fmt: skip
        out = self.other(moved, own, pulse or _never)
        for layer in range(pool.layout.layers):
            pool.write(layer, batch.slots, own.keys[layer][old:stored],
                       own.values[layer][old:stored])  # fmt: skip
        return out


def _never() -> None:
    """Nothing stops the step."""


def plain_row(tokens: Tensor, page_size: int) -> tuple[ForwardBatch, int]:
    """A prompt of its own from position 0, and the pages that it fills."""
    n = len(tokens)
    pages = -(-n // page_size)
    entries = torch.arange(n)
    batch = ForwardBatch(
        tokens, entries, entries, torch.tensor([0, n]), torch.tensor([n]),
        torch.arange(pages)[None], logit_rows=entries[-1:],
    )  # fmt: skip
    return batch, pages
