"""How near to fp32 each implementation's logits stay on the same quantised file, teacher-forced."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from workbench.bench.laptop_steps import LlamaCppStep, Step
from workbench.bench.peers import Transformers
from workbench.bench.rows import Row
from workbench.model.load import Opened
from workbench.tasks.catalogue import task

CHUNK = 250  # tokens at a time: logits of a few hundred take as many hundred MiB
Says = Callable[[list[int], int], Tensor]  # tokens, entries before them -> logits [n, V]


def text(opened: Opened, tokens: int) -> list[int]:
    """Ordinary text of the package's own tasks, as the model would meet it."""
    ids: list[int] = []
    draw = random.Random(0)
    while len(ids) < tokens:
        ids += opened.tokenizer.encode(task("chain", draw.randrange(2, 9), len(ids)).prompt)
    return ids[:tokens]


def rows(
    opened: Opened, steps: list[Step], peers: list[LlamaCppStep], tokens: int
) -> Iterator[Row]:
    ids = text(opened, tokens)
    exact = Transformers(Path(opened.source.path), torch.float32)
    says: dict[str, Says] = {step.name: partial(ours, step) for step in steps}
    says |= {peer.name: peer.logits for peer in peers}
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in says}
    with torch.inference_mode():
        want = exact.model(torch.tensor([ids])).logits[0].float()
    for first in range(0, tokens, CHUNK):
        part, wanted = ids[first : first + CHUNK], want[first : first + CHUNK]
        for name, say in says.items():
            sums[name] += compared(say(part, first), wanted)
    count = torch.tensor([tokens * want.shape[1], tokens, tokens], dtype=torch.float64)
    shape = f"{tokens:,} tokens, teacher-forced, beside fp32"
    found = {name: (total / count).tolist() for name, total in sums.items()}
    for name, (square, divergence, same) in found.items():
        for metric, value, unit in (
            ("rms logit error", square**0.5, ""), ("KL", divergence, "nat"),
            ("top-1 same", 100 * same, "%"),
        ):  # fmt: skip
            yield Row(metric, shape, name, value, unit)


def compared(got: Tensor, want: Tensor) -> Tensor:
    """Sums of squared errors, of KL(want || got) and of equal best tokens."""
    p, q = want.log_softmax(-1), got.log_softmax(-1)
    return torch.tensor(
        [
            float((got - want).double().square().sum()),
            float((p.exp() * (p - q)).sum(-1).double().sum()),
            float((got.argmax(-1) == want.argmax(-1)).sum()),
        ],
        dtype=torch.float64,
    )


def ours(step: Step, ids: list[int], start: int) -> Tensor:
    batch = step.batch(ids, start, 1)
    batch.logit_rows = torch.arange(len(ids))
    return step.forward(batch, step.pool).logits
