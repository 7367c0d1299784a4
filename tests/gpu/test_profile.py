"""What a decode step of the engine runs on the device: our kernels, cuBLAS, and hardly more."""

import asyncio

import pytest
import torch

from workbench.bench.ours import Ours
from workbench.bench.profile import profiled
from workbench.bench.random_net import random_model
from workbench.engine.protocols import Until

pytestmark = pytest.mark.gpu
# the embedding's rows, logits out of the graph, tokens and tables up, the draw's record down
REST = ("indexSelect", "index_select", "gather", "memcpy", "Memcpy", "Memset", "fill", "copy")


@pytest.mark.parametrize("name", ["qwen3-8b", "qwen3-30b-a3b"])
def test_only_our_kernels_and_cublas(name: str) -> None:
    ours = Ours(random_model(name, layers=4), 8 * 66, max_rows=8, chunk=4096, device_sample=True)
    request = ours.new_request()

    async def open_all() -> list[object]:
        ids = [list(range(1 + n, 1001 + n)) for n in range(8)]
        opened = (ours.engine.open(i, request=request, share=False) for i in ids)
        return list(await asyncio.gather(*opened))

    branches = ours.wait(open_all())

    def steps(n: int) -> None:
        until = Until(max_tokens=n, eos=False)
        ours.wait(ours.engine.decode(branches, until=until))  # type: ignore[arg-type]
        torch.cuda.synchronize()

    steps(8)
    row = profiled(lambda: steps(16), 16)
    others = [e for e in row["kernels"] if e["whose"] not in ("ours", "cuBLAS")]
    print(name, row["value"], row["spent_us"], others)
    assert row["value"] > 95  # of four layers; the rest does not grow with them
    assert all(any(word in e["kernel"] for word in REST) for e in others), others
    ours.close()
