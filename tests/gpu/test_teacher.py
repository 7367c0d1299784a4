"""The engine on the GPU, led along the CPU engine's float32 text: the same opinion of every token.

20 prompts, 512 tokens each (`tests/gpu/teacher.py`). The reference distributions are those of the
torch ops in float32 on this machine's CPU, which share no kernel with what is judged.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu import teacher
from tests.unit.model.nets import Paged
from workbench.bench.ours import replays
from workbench.engine.engine import Engine
from workbench.engine.protocols import Until
from workbench.model import Model, load_model
from workbench.ops.contract import Sampled, SamplerRow

AGREE, MARGIN, KL = 0.98, 0.1, 1e-3


def reference(model: Model, prompt: Sequence[int], text: Sequence[int]) -> Tensor:
    """Logits [n, V] that the reference gives before each token of `text`."""
    ids = [*prompt, *text[:-1]]
    paged = Paged(model, 16, pages=len(ids) // 16 + 1)
    rows = torch.arange(len(prompt) - 1, len(ids))
    return paged.step([(paged.row(ids), len(ids))], logit_rows=rows).logits


@dataclass
class Led:
    """A `sample` that draws what the teacher said, and compares the logits on the way."""

    texts: Tensor  # [B, n]
    wanted: Tensor  # [B, n, V] float32, on the device
    agree: int = 0
    total: int = 0
    kl: float = 0.0
    margins: list[float] = field(default_factory=list)  # of the reference, where top-1 differs

    def __call__(
        self, logits: Tensor, rows: Sequence[SamplerRow], mask: Tensor | None,
        seen: Sequence[Tensor], bias: Sequence[Any], uniforms: Tensor, top_n: int,
    ) -> Sampled:  # fmt: skip
        count = len(self.texts)
        assert len(logits) == count, f"all {count} rows in one step, got {len(logits)}"
        at = self.total // count
        want, got = self.wanted[:, at], logits.float()
        self.total += count
        top = want.topk(2, -1)
        same = top.indices[:, 0] == got.argmax(-1)
        self.agree += int(same.sum())
        self.margins += (top.values[:, 0] - top.values[:, 1])[~same].tolist()
        p = want.log_softmax(-1)
        self.kl += float((p.exp() * (p - got.log_softmax(-1))).sum())
        nothing = torch.zeros(count)
        return Sampled(
            self.texts[:, at], nothing, nothing, torch.zeros(count, 0), torch.zeros(count, 0)
        )


def led_through(model: Model, rows: list[tuple[list[int], list[int]]], wanted: Tensor) -> Led:
    """The engine decodes all rows together, token by token, where the teacher leads."""
    led = Led(torch.tensor([text for _, text in rows]), wanted)
    n = led.texts.shape[1]
    longest = max(len(prompt) for prompt, _ in rows) + n
    engine = Engine(
        model, pages=len(rows) * (longest // 16 + 2), max_rows=len(rows), chunk=8192,
        emit=lambda event: None, detokenize=model.tokenizer.token_bytes,
        tokenize=model.tokenizer.encode, eos=(), ops_sample=led, record_top=0,
    )  # fmt: skip

    async def all_of_them() -> None:
        running = asyncio.create_task(engine.run())
        request = engine.new_request(title="led", strategy="test", params="{}", seed=0)
        branches = [await engine.open(p, request=request, share=False) for p, _ in rows]
        await engine.decode(branches, until=Until(max_tokens=n, eos=False))
        engine.audit()
        engine.close_loop()
        await running

    asyncio.run(all_of_them())
    assert led.total == led.texts.numel()
    print(model.name, replays(engine))
    return led


def references(count: int, n: int, threads: int) -> list[Tensor]:
    """[n, V] of the first `count` prompts."""
    model = load_model(
        teacher.MODEL, backend="cpu", dtype="fp32", weights="as loaded", threads=threads
    )
    rows = [(prompt, text[:n]) for prompt, text in teacher.load()[:count]]
    found = [reference(model, *row) for row in rows]
    told = torch.stack(found).argmax(-1) == torch.tensor([text for _, text in rows])
    assert float(told.float().mean()) > 0.999  # the text is the reference's own
    return found


def judged(backend: str, dtype: str, wanted: Tensor) -> Led:
    """A backend's record beside logits [B, n, V]."""
    count, n = wanted.shape[:2]
    rows = [(prompt, text[:n]) for prompt, text in teacher.load()[:count]]
    model = load_model(teacher.MODEL, backend=backend, dtype=dtype, threads=None)
    led = led_through(model, rows, wanted)
    print(
        f"{backend} {dtype}: top-1 {led.agree}/{led.total} = {led.agree / led.total:.4f},"
        f" mean KL {led.kl / led.total:.2e}, widest margin where they differ"
        f" {max(led.margins, default=0):.3f}"
    )
    return led


@pytest.fixture(scope="module")
def truth() -> list[Tensor]:
    return references(len(teacher.PROMPTS), teacher.TOKENS, threads=8)


@pytest.mark.gpu
@pytest.mark.model
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_same_opinion_as_the_cpu_in_float32(truth: list[Tensor], dtype: str) -> None:
    """Where tops differ the reference has to be undecided: 0.1 in float16. bfloat16 rounds eight
    times as coarsely, whoever computes: there torch's own operations set the margin."""
    wanted = torch.stack(truth).cuda()
    led = judged("cuda", dtype, wanted)
    assert led.agree / led.total >= AGREE
    assert led.kl / led.total <= KL
    widest, limit = max(led.margins, default=0.0), MARGIN
    if dtype == "bf16":
        twin = judged("torch-cuda", dtype, wanted)
        limit = max(MARGIN, max(twin.margins, default=0.0))
    assert widest <= limit


@pytest.mark.model
def test_the_method_finds_rounding_and_nothing_else() -> None:
    """Without a GPU: float32 led along its own text never differs."""
    led = judged("cpu", "fp32", torch.stack(references(2, 12, threads=1)))
    assert led.agree == led.total == 24
    assert led.kl / led.total < 1e-8
