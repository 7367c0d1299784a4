"""The engine on a GPU: replayed and begun ahead, it samples what it samples step by step."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kernels_cupy.ops import CudaOps
from tests.fakes import drive
from tests.gpu.test_decoder import NETS
from tests.unit.kernels.test_graphs import Twins
from tests.unit.model import nets
from workbench.engine.engine import Engine
from workbench.engine.grammar import Vocabulary, regex
from workbench.engine.protocols import Sampler, Until

pytestmark = pytest.mark.gpu
ROWS = 7  # fewer than are held back for: the same rows in every step, so the same bits


class Run:
    """One engine over a net, with graphs and guesses or without."""

    def __init__(self, folder: Path, fast: bool, pages: int = 512) -> None:
        forward = Twins.decoder(folder, CudaOps(replays=fast))
        forward.ahead = fast
        self.engine = Engine(
            forward, pages=pages, emit=lambda event: None, detokenize=lambda t: b"%d " % t,
            tokenize=lambda text: [], eos={2}, ops_sample=forward.sample,
        )  # fmt: skip
        self.request = self.engine.new_request(title="", strategy="", params="", seed=7)

    def __call__(self, work: Any) -> Any:
        return drive(self, work(self))


async def sampled(run: Run) -> list[tuple[int, ...]]:
    """Rows of equal length under several samplers, two of them under a grammar; then a prune, a
    fork, and on."""
    engine, request = run.engine, run.request
    branches = [
        await engine.open(nets.tokens(40 + i, i), request=request, share=False) for i in range(ROWS)
    ]
    words = [bytes([33 + i]) for i in range(nets.VOCABULARY)]
    vocabulary = Vocabulary(words, frozenset({2}), lambda text: [ord(c) - 33 for c in text])
    grammars: list[Any] = [None] * ROWS
    grammars[3], grammars[5] = (regex(vocabulary, r"([A-G]|[a-k]5){100,}") for _ in range(2))
    told = []
    for turn, sampler in enumerate(
        (Sampler(), Sampler(temperature=0.9, top_p=0.9), Sampler(temperature=1.2, min_p=0.02))
    ):
        until = Until(max_tokens=30, eos=False)
        told += await engine.decode(branches, until=until, sampler=sampler, grammar=grammars)
        await engine.prune(branches[1], [(5 + turn, 20 + turn)])
        (child,) = await engine.fork(branches[2], 1)
        engine.drop(branches[-1], "makes room")
        branches[-1] = child
    return [decoded.tokens for decoded in told]


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3 moe"])
def test_samples_what_it_samples_step_by_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(nets.NETS, name, NETS[name])
    nets.make(name, tmp_path)
    torch.cuda.synchronize()
    slow, fast = Run(tmp_path, False), Run(tmp_path, True)
    want, got = slow(sampled), fast(sampled)
    ahead = fast.engine.ahead
    print(name, fast.engine.memory.pool.graphs.counts, ahead.hits, ahead.misses)  # type: ignore[attr-defined]
    assert ahead.hits > 60 and slow.engine.ahead.hits == 0
    assert got == want
