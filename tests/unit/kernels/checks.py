"""Checks of the kernels against their twins, run on a GPU by tests/gpu and emulated by
tests/unit/kernels.
"""

import torch
from torch import Tensor

from kernels_cupy.attention import attention as run_attention
from kernels_cupy.attention import plan_attention
from kernels_cupy.expert_mlp import expert_mlp
from kernels_cupy.plan import shared_prefixes
from kernels_cupy.pool import CudaPool
from kernels_cupy.route import route
from kernels_cupy.store_kv import rope_store, rope_table
from tests.unit.kernels import twins
from tests.unit.kernels.cases import Step, make
from workbench.kv.layout import KVLayout
from workbench.ops.contract import HeadNorm

LIMIT = {torch.bfloat16: 4e-3, torch.float16: 5e-4}  # ||got - want|| / ||want|| of the worst row


def attention(case: Step, seed: int, device: str, *, share: bool = False) -> None:
    """The output is poisoned before, slots that nobody owns are NaN throughout."""
    m, where, scale = make(case, seed, device), torch.device(device), case.dim**-0.5
    shared = shared_prefixes(m.batch, case.page, 1, worth=1) if share else []
    assert bool(shared) == share
    turns = lambda shifts: rope_table(  # noqa: E731
        torch.tensor(shifts, device=device), m.inv_freq, 1.0, case.dim
    )
    plan = plan_attention(
        m.batch, case.window, case.heads, case.kv_heads, case.dim, where, turns, shared
    )
    for _ in range(2):  # the counters of the first launch must be back at zero
        out = torch.full_like(m.q, torch.nan)
        run_attention(m.q, m.keys, m.values, out, plan, case.page, scale, case.window)
    want = twins.attention(
        m.q, m.keys, m.values, m.batch, case.page, scale, case.window, m.inv_freq
    )
    error = twins.distance(out, want)
    limit = LIMIT[case.dtype] * (1.5 if case.attached else 1.0)  # q is rounded once more
    assert error <= limit, f"{case}: {error}"


def experts(
    tokens: int, count: int, k: int, width: int, inner: int, dtype: torch.dtype, device: str
) -> None:
    g = torch.Generator().manual_seed(tokens)
    random = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    x, logits = random(tokens, width).to(device, dtype), random(tokens, count).to(device, dtype)
    gate_up = (random(count, 2 * inner, width) * width**-0.5).to(device, dtype)
    down = (random(count, width, inner) * inner**-0.5).to(device, dtype)
    chosen, weights = route(logits, k, True)
    want_chosen, want_weights = twins.route(logits, k, True)
    assert torch.equal(chosen.cpu(), want_chosen)
    assert float((weights.cpu() - want_weights).abs().max()) < 1e-6
    got = expert_mlp(x, chosen, weights, gate_up, down)
    want = twins.expert_mlp(x, want_chosen, want_weights, gate_up, down)
    assert twins.distance(got, want) <= 1.5 * LIMIT[dtype]


def normed_rope_store(dim: int, dtype: torch.dtype, device: str) -> None:
    """Heads of a fused projection, normalised, turned, stored to scattered slots; others stay as
    they are.
    """
    g = torch.Generator().manual_seed(dim)
    tokens, heads, kv_heads, slots = 7, 6, 2, 40
    qkv = torch.randn(tokens, heads + 2 * kv_heads, dim, generator=g).to(device, dtype)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    weights = [(1 + 0.2 * torch.randn(dim, generator=g)).to(device, dtype) for _ in range(2)]
    keys = torch.full((slots, kv_heads, dim), torch.nan).to(device, dtype)
    values = keys.clone()
    where = torch.randperm(slots, generator=g)[:tokens].to(device)
    positions = torch.tensor([0, 1, 77, 5000, 131071, 3, 1000000], device=device)
    inv_freq = (10000.0 ** (-torch.arange(0, dim, 2).float() / dim)).to(device)
    table = rope_table(positions, inv_freq, 1.0, dim)
    norm = HeadNorm(weights[0], weights[1], 1e-6)
    got = rope_store(q, k, v, table, where, keys, values, norm)
    want_q = twins.rotate(twins.rms_norm(q, weights[0], 1e-6), positions, inv_freq)
    want_k = twins.rotate(twins.rms_norm(k, weights[1], 1e-6), positions, inv_freq)
    assert twins.distance(got, want_q) <= LIMIT[dtype]
    assert twins.distance(keys[where], want_k) <= LIMIT[dtype]
    assert torch.equal(values[where], v)
    rest = torch.ones(slots, dtype=torch.bool, device=device)
    rest[where] = False
    assert bool(keys[rest].isnan().all() and values[rest].isnan().all())


def moves(kv_heads: int, dim: int, dtype: torch.dtype, device: str) -> None:
    """Scattered survivors, each with its own shift; then one shift within overlapping slots."""
    g = torch.Generator().manual_seed(dim)
    layout = KVLayout(2, 12, 16, kv_heads, dim, dtype)
    inv_freq = 10000.0 ** (-torch.arange(0, dim, 2).float() / dim)
    pool = CudaPool(layout, inv_freq, device)
    pool.k.copy_(torch.randn(layout.k_shape, generator=g))
    pool.v.copy_(torch.randn(layout.v_shape, generator=g))
    order = torch.randperm(layout.slots, generator=g)
    for src, dst, shifts in (
        (order[:37], order[50:87], torch.randint(-5000, 5000, (37,), generator=g)),
        (order[3:60], order[:57], torch.full((57,), -3)),
    ):
        before = [_read(pool, layer) for layer in range(2)]
        if bool((shifts == shifts[0]).all()):
            pool.move(src, dst, int(shifts[0]))
        else:
            pool.move_each(src, dst, shifts)
        for layer, (k, v) in enumerate(before):
            got_k, got_v = _read(pool, layer)
            want = twins.rotate(k[src], shifts, inv_freq)
            assert twins.distance(got_k[dst], want) <= LIMIT[dtype]
            assert torch.equal(got_v[dst], v[src])
            rest = torch.ones(layout.slots, dtype=torch.bool)
            rest[dst] = False
            assert torch.equal(got_k[rest], k[rest]) and torch.equal(got_v[rest], v[rest])


def _read(pool: CudaPool, layer: int) -> tuple[Tensor, Tensor]:
    k, v = pool.read(layer, torch.arange(pool.layout.slots))
    return k.cpu(), v.cpu()
