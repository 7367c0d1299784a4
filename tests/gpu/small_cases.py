"""Every kernel once over small cases, checked against its twin: what compute-sanitizer watches.

compute-sanitizer --tool racecheck python -m tests.gpu.small_cases [cuda:0]
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch

from kernels_cupy.rms_norm import add_rms_norm
from kernels_cupy.sample import sample
from kernels_cupy.silu_mul import silu_mul
from tests.unit.kernels import checks, twins
from tests.unit.kernels.cases import Step
from workbench.ops.contract import SamplerRow
from workbench.ops.cpu import CpuOps

BF16 = torch.bfloat16
ATTENDED = (
    Step(((1, 5), (0, 7), (1, 200)), 8, 1, 128, 16), Step(((1, 70), (2, 90)), 8, 2, 128, 1),
    Step(((1, 70), (1, 90)), 8, 8, 96, 64, window=50), Step(((1, 70),), 12, 4, 256, 16),
    Step(((70, 170), (5, 130)), 4, 1, 64, 16, window=33), Step(((70, 70), (50, 300)), 4, 1, 128, 1),
    Step(((40, 100),), 4, 1, 256, 16), Step(((5, 70), (1, 90), (3, 3)), 2, 2, 64, 16, trees=(0, 2)),
    Step(((20, 140), (9, 9)), 8, 2, 128, 8, trees=(0, 1)),
    Step(((1, 200), (2, 110)), 8, 2, 64, 16, attached=((0, 1, 100, 37), (1, 0, 64, 5))),
)  # fmt: skip
SHARED = Step(((1, 400), (1, 310), (1, 270)), 8, 2, 64, 16, prefix=256)


def draws(vocabulary: int, spread: float, device: str) -> None:
    """Of peaked, flat and level rows."""
    rows = [
        SamplerRow(), SamplerRow(temperature=1.0, top_p=0.9),
        SamplerRow(temperature=0.7, top_k=20), SamplerRow(temperature=1.0, min_p=0.1),
    ]  # fmt: skip
    g = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(len(rows), vocabulary, generator=g) * spread
    none = [torch.empty(0, dtype=torch.int64)] * len(rows)
    u, no_bias = torch.rand(len(rows), generator=g, dtype=torch.float64), [None] * len(rows)
    got = sample(logits.to(device), rows, None, none, no_bias, u, 4)
    got.wait()
    want = CpuOps().sample(logits, rows, None, none, no_bias, u, 4)
    assert torch.equal(got.token.cpu(), want.token), (got.token, want.token)


def small_ops(device: str) -> None:
    x, y = (torch.randn(5, 576).to(device, BF16) for _ in range(2))
    normed, total = add_rms_norm(x, y, x[0], 1e-6)
    assert twins.distance(normed, twins.rms_norm(total, x[0], 1e-6)) <= checks.LIMIT[BF16]
    assert twins.distance(silu_mul(x), twins.silu_mul(x)) <= checks.LIMIT[BF16]


def cases(device: str) -> Iterator[tuple[str, Callable[[], None]]]:
    for step in ATTENDED:
        yield f"attention {step}", partial(checks.attention, step, 1, device)
    yield f"shared {SHARED}", partial(checks.attention, SHARED, 1, device, share=True)
    for tokens in (3, 130):
        run = partial(checks.experts, tokens, 4, 2, 128, 192, BF16, device)
        yield f"{tokens} tokens through experts", run
    for spread in (3.0, 0.05, 0.0):
        yield f"draws, spread {spread}", partial(draws, 5003, spread, device)
    yield "norms, RoPE, store", partial(checks.normed_rope_store, 64, BF16, device)
    yield "moves", partial(checks.moves, 3, 64, BF16, device)
    yield "small ops", partial(small_ops, device)


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda:0"
    count = 0
    for name, run in cases(device):
        sys.stdout.write(name + "\n")
        run()
        count += 1
    sys.stdout.write(f"{count} cases agree\n")


if __name__ == "__main__":
    main()
