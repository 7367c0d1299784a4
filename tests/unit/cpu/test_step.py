"""The step against plain torch, and against itself: alone, in a batch, forked, recomputed."""

import random

import pytest
import torch

from tests.unit.cpu import nets
from tests.unit.cpu.oracle import Oracle
from tests.unit.model.nets import Paged, Row
from workbench.cpu import NumbaForward
from workbench.cpu.plan import Workspace
from workbench.forward import Abandoned, ForwardBatch, Override, Segment, Steering, StopFlag
from workbench.model.lora import Pair

# rms, of the deviation. Rows agree to 1e-6 until a value on the border of two int8 steps falls the
# other way; such a flip goes on through the layers and to all later rows, and these nets are small.
NEAR, EXACT = 0.03, 1e-4
CALM = {"biases": 3}  # seeds of texts whose first token flips none
# the same against a net without int8 activations: small nets round coarsely, and where experts
# nearly tie another may be chosen
INT8, INT8_SPARSE = 0.08, 0.16


def near(got: torch.Tensor, want: torch.Tensor, bound: float = NEAR) -> None:
    assert not got.isnan().any()
    rows = (got - want).square().mean(-1).sqrt() / want.std()
    error = rows.square().mean().sqrt()
    assert error < bound, f"rms error {error:.4f} of the deviation"
    assert bound > NEAR or len(rows) < 20 or rows.min() < EXACT, f"best row {rows.min():.5f}"


@pytest.fixture(scope="module")
def llama() -> NumbaForward:
    return NumbaForward(nets.net("llama"))


@pytest.fixture(scope="module", params=["llama", "many heads", "qwen3 moe", "olmoe"])
def some(request: pytest.FixtureRequest, llama: NumbaForward) -> NumbaForward:
    return llama if request.param == "llama" else NumbaForward(nets.net(request.param))


@pytest.mark.parametrize("name", nets.SHAPES)
@pytest.mark.parametrize("kind", ["q8", "q4"])
def test_logits_equal_torch(name: str, kind: str) -> None:
    packed = nets.net(name, kind)
    forward, ids = NumbaForward(packed), nets.tokens(45, CALM.get(name, 0))
    want = Oracle(packed).logits(ids)
    for page_size, chunks in [(16, [45]), (5, [17, 1, 1, 20, 2, 1, 1, 1, 1]), (1, [3, 1, 41])]:
        near(Paged(forward, page_size).all_logits(ids, chunks), want)
    bound = INT8_SPARSE if packed.shape.moe else INT8
    near(want, Oracle(packed, rounded=False).logits(ids), bound)


def test_a_row_does_not_depend_on_its_neighbours(some: NumbaForward) -> None:
    """Bit for bit: alone token by token, as one prompt, in batches of every size, after a fork."""
    ids = nets.tokens(40)
    alone = Paged(some, 16).all_logits(ids, [1] * 40)
    assert torch.equal(Paged(some, 16, seed=5).all_logits(ids, [40]), alone)
    assert torch.equal(Paged(some, 3, seed=6).all_logits(ids, [7, 9, 1, 23]), alone)
    for others in range(1, 12):
        paged = Paged(some, 16, pages=90, seed=others)
        rows = [paged.row(nets.tokens(40, seed=n)) for n in range(others)]
        rows.insert(others // 2, mine := paged.row(ids))
        paged.step([(row, 39 if row is mine else 5 + n) for n, row in enumerate(rows)])
        got = paged.step([(row, 1) for row in rows]).logits[others // 2]
        assert torch.equal(got, alone[39])


def test_a_fork_is_the_same_bits(some: NumbaForward) -> None:
    ids = nets.tokens(40)
    paged = Paged(some, 16)
    parent = paged.row(ids)
    want = paged.step([(parent, 37)]).logits[-1], paged.step([(parent, 1)]).logits[0]
    copied = paged.row(ids)
    paged.pool.copy_pages(parent.pages[2:], copied.pages[2:])
    child = Row(ids, [*parent.pages[:2], copied.pages[2]], stored=37)
    assert torch.equal(paged.step([(child, 1)]).logits[0], want[1])


def test_threads_change_nothing(some: NumbaForward) -> None:
    ids = nets.tokens(40)
    want = Paged(some, 16).all_logits(ids, [20, 1, 19])
    for threads in (2, 3, 5):
        crew = NumbaForward(some.net, threads=threads)
        assert torch.equal(Paged(crew, 16).all_logits(ids, [20, 1, 19]), want)
        crew.close()


@pytest.mark.parametrize("name", ["llama", "qwen3 moe"])
def test_the_plain_step_of_any_cpu(name: str) -> None:
    """Loops without one special instruction: the same values, rounded elsewhere by chance."""
    packed, ids = nets.net(name, "q4"), nets.tokens(40)
    plain = NumbaForward(packed, instructions="plain")
    got = Paged(plain, 16).all_logits(ids, [40])
    near(got, Oracle(packed).logits(ids))
    assert torch.equal(Paged(plain, 7).all_logits(ids, [9, 1, 1, 29]), got)


@pytest.mark.parametrize("seed", range(8))
def test_random_batches(llama: NumbaForward, seed: int) -> None:
    """Mixed prompts and decode rows in any page order, everything else poisoned."""
    chance = random.Random(seed)
    paged = Paged(llama, chance.choice([1, 4, 7, 16, 33]), pages=600, seed=seed)
    oracle = Oracle(llama.net)
    streams = [nets.tokens(chance.randint(10, 60), seed * 20 + n) for n in range(6)]
    rows = [paged.row(ids) for ids in streams]
    got: list[list[torch.Tensor]] = [[] for _ in rows]
    while any(row.stored < len(row.ids) for row in rows):
        work = [
            (row, min(chance.choice([1, 1, 1, 2, 9, 30]), len(row.ids) - row.stored))
            for row in rows
            if row.stored < len(row.ids) and chance.random() < 0.7
        ]
        if work:
            parts = paged.step(work).logits.split([n for _, n in work])
            for (row, _), part in zip(work, parts, strict=True):
                got[rows.index(row)].append(part)
    for ids, parts in zip(streams, got, strict=True):
        near(torch.cat(parts), oracle.logits(ids))


@pytest.mark.parametrize("name", ["qwen3 moe", "mixtral", "olmoe"])
def test_router_choices(name: str) -> None:
    """As the definition gives them, layer by layer; the same in any batch."""
    packed, ids = nets.net(name), nets.tokens(30)
    forward, oracle = NumbaForward(packed, threads=2), Oracle(packed)
    oracle.logits(ids)
    paged = Paged(forward, 16)
    rows = [paged.row(nets.tokens(11, seed=5)), paged.row(ids), paged.row(nets.tokens(2, seed=6))]
    routing = paged.step([(row, len(row.ids)) for row in rows], routing=True).routing
    lone = Paged(forward, 5)
    alone = lone.step([(lone.row(ids), 30)], routing=True).routing
    moe = packed.shape.moe
    assert moe is not None
    assert [r.layer for r in routing] == [n for n, sparse in enumerate(moe.layers) if sparse]
    for r, one in zip(routing, alone, strict=True):
        assert r.experts.shape == r.weights.shape == (43, moe.k)
        assert torch.equal(r.experts[11:41], one.experts)
        assert torch.equal(r.weights[11:41], one.weights)
        experts, weights = oracle.routed[r.layer]
        same = (one.experts == experts).all(-1)  # an int8 step may turn a near tie
        assert same.float().mean() > 0.9
        torch.testing.assert_close(one.weights[same], weights[same], atol=0.02, rtol=0)
    forward.close()


def test_of_equal_experts_the_first_are_chosen() -> None:
    packed = nets.net("mixtral")
    for layer in range(3):
        packed.vector(f"{layer}.router")[:] = 0
    paged = Paged(NumbaForward(packed), 16)
    for r in paged.step([(paged.row(nets.tokens(9)), 9)], routing=True).routing:
        assert (r.experts == torch.tensor([0, 1])).all()
        assert (r.weights == 0.5).all()


def test_poison_reaches_the_experts() -> None:
    paged = Paged(NumbaForward(nets.net("olmoe")), 16)
    row = paged.row(nets.tokens(20))
    paged.step([(row, 19)])
    paged.pool.poison(torch.tensor([row.pages[0] * 16 + 3]))
    out = paged.step([(row, 1)], routing=True)
    assert out.logits.isnan().all()
    assert ((out.routing[1].experts >= 0) & (out.routing[1].experts < 8)).all()


def test_poison_is_seen(llama: NumbaForward) -> None:
    """A read of a poisoned slot must reach the logits, or the tests above would prove nothing."""
    paged = Paged(llama, 16)
    row = paged.row(nets.tokens(20))
    paged.step([(row, 19)])
    paged.pool.poison(torch.tensor([row.pages[0] * 16 + 3]))
    assert paged.step([(row, 1)]).logits.isnan().all()


def adapter(of: NumbaForward, rank: int, seed: int) -> list[dict[str, Pair]]:
    torch.manual_seed(seed)
    s = of.facts
    wide = s.heads * s.head_dim
    sizes = {
        "qkv": (s.width, [wide, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim]),
        "o": (wide, [s.width]), "gate_up": (s.width, [s.ffn, s.ffn]), "down": (s.ffn, [s.width]),
    }  # fmt: skip
    layers = []
    for _ in range(s.layers):
        pairs = {}
        for name, (inward, outs) in sizes.items():
            a = torch.randn(inward, rank * len(outs)) * inward**-0.5
            b = torch.block_diag(*(torch.randn(rank, out) * 0.3 for out in outs))
            pairs[name] = Pair(a.bfloat16().float(), b.bfloat16().float())
        layers.append(pairs)
    return layers


def test_adapters_act_on_their_own_rows(llama: NumbaForward) -> None:
    first, second = adapter(llama, 5, 1), adapter(llama, 16, 2)
    del second[1]["o"], second[2]["qkv"]
    llama.add_adapter("first", first)
    llama.add_adapter("second", second)
    oracle, ids = Oracle(llama.net), nets.tokens(30)
    overrides = [
        Override(), Override("first"), Override("first", 0.5), Override("second", 2.0),
        Override("second", 0.0),
    ]  # fmt: skip
    paged = Paged(llama, 16)
    rows = [paged.row(ids, override) for override in overrides]
    together = paged.step([(row, 30) for row in rows]).logits.view(5, 30, -1)
    pairs = {None: None, "first": first, "second": second}
    for got, override in zip(together, overrides, strict=True):
        near(got, oracle.logits(ids, adapter=pairs[override.adapter], scale=override.scale))
        lone = Paged(llama, 16)
        assert torch.equal(lone.step([(lone.row(ids, override), 30)]).logits, got)
    assert torch.equal(together[0], together[4])
    assert (together[0] - together[1]).abs().max() > 1


def test_a_lone_token_on_threads_of_their_own_panels(llama: NumbaForward) -> None:
    """Adapter, steering and hidden states of one token: the same bits on any number of threads."""
    pairs, ids = adapter(llama, 16, 3), nets.tokens(20)
    llama.add_adapter("lone", pairs)
    push = torch.randn(llama.facts.width, generator=torch.manual_seed(4))
    override = Override("lone", steering=(Steering(1, push),))
    found = []
    for threads in (1, 2, 3):
        crew = NumbaForward(llama.net, threads=threads)
        crew.add_adapter("lone", pairs)
        paged = Paged(crew, 16)
        row = paged.row(ids, override)
        paged.step([(row, 19)])
        out = paged.step([(row, 1)], hidden_rows=torch.tensor([0]), hidden_layers=(0, -1))
        found.append(torch.cat([out.logits[0], out.hidden[0][0], out.hidden[-1][0]]))
        crew.close()
    assert torch.equal(found[1], found[0]) and torch.equal(found[2], found[0])


def test_steering_exits_and_hidden_states(llama: NumbaForward) -> None:
    oracle, ids = Oracle(llama.net), nets.tokens(20)
    torch.manual_seed(3)
    push = torch.randn(llama.facts.width) * 3
    overrides = [Override(), Override(exit_layer=1), Override(steering=(Steering(1, push),))]
    paged = Paged(llama, 16)
    rows = [paged.row(ids, override) for override in overrides]
    out = paged.step(
        [(row, 20) for row in rows], hidden_rows=torch.tensor([3, 25, 59]), hidden_layers=(0, 1, -1)
    )
    logits = out.logits.view(3, 20, -1)
    near(logits[0], oracle.logits(ids))
    near(logits[1], oracle.logits(ids, exit_layer=1))
    near(logits[2], oracle.logits(ids, steering={1: push}))
    plain, steered = oracle.residuals(ids), oracle.residuals(ids, steering={1: push})
    near(out.hidden[0], torch.stack([plain[0][3], plain[0][5], plain[0][19]]))
    near(out.hidden[1], torch.stack([plain[1][3], plain[1][5], steered[1][19]]))
    last = torch.stack([plain[2][3], plain[0][5], steered[2][19]])  # the second row left early
    near(out.hidden[-1], oracle.norm(last, "final_norm"))
    head, normed = oracle.w["head"].T, oracle.norm(last, "final_norm")
    near(llama.project(last, normed=False), oracle.int8(normed) @ head)
    near(llama.project(last, normed=True), oracle.int8(last) @ head)


def test_vectors_replace_embeddings(llama: NumbaForward) -> None:
    ids = nets.tokens(20)
    want = Paged(llama, 16).all_logits(ids, [20])
    rows = torch.tensor([0, 7, 19])
    vectors = llama.embed(torch.tensor(ids)[rows])
    assert torch.equal(vectors, Oracle(llama.net).w["embedding"][torch.tensor(ids)[rows]])
    paged = Paged(llama, 16)
    other = [50 if n in rows else token for n, token in enumerate(ids)]
    got = paged.step([(paged.row(other), 20)], vectors=vectors, vector_rows=rows).logits
    assert torch.equal(got, want)


def test_attached_segments(llama: NumbaForward) -> None:
    """Reading another branch's entries as if they stood elsewhere equals having them there."""
    ids = nets.tokens(40)
    want = Oracle(llama.net).logits(ids)
    paged = Paged(llama, 4)
    other = paged.row(nets.tokens(3, seed=9) + ids[:12])  # entries 3 to 15 are ours, 3 too far on
    other.stored = 0
    lone = Paged(llama, 4)
    # keys and values of ids[:12] as they are at positions 0 to 12, moved to the other's slots
    source = lone.row(ids)
    lone.step([(source, 12)])
    places = torch.tensor([other.pages[e // 4] * 4 + e % 4 for e in range(3, 15)])
    origins = torch.tensor([source.pages[e // 4] * 4 + e % 4 for e in range(12)])
    for layer in range(llama.facts.layers):
        k, v = lone.pool.read(layer, origins)
        page, slot = places // 4, places % 4
        paged.pool.k[layer][page, :, :, slot] = k.half()
        paged.pool.v[layer][page, :, slot] = v.half()
    paged.pool.move(places, places, 3)  # now keys stand at 3 to 15
    mine = paged.row(ids[12:])
    n = len(mine.ids)
    batch = ForwardBatch(
        torch.tensor(mine.ids), torch.arange(12, 40),
        torch.tensor([mine.pages[e // 4] * 4 + e % 4 for e in range(n)]),
        torch.tensor([0, n]), torch.tensor([n]), torch.tensor([mine.pages]),
        attached=[[Segment(other.pages, 3, 9, -3), Segment(other.pages, 9, 15, -3)]],
        logit_rows=torch.arange(n),
    )  # fmt: skip
    near(llama(batch, paged.pool).logits, want[12:], INT8)  # keys were rounded twice more


def test_a_token_tree_is_all_its_branches(some: NumbaForward) -> None:
    """Drafts that share a stem, in one row: each token's logits are its own path's."""
    stem, parents = nets.tokens(21), [-1, 0, 0, 1, 2, 2, 4]
    drafts = nets.tokens(7, seed=8)
    bits: list[int] = []
    for n, parent in enumerate(parents):
        bits.append(1 << n | (bits[parent] if parent >= 0 else 0))
    paged = Paged(some, 5)
    tree, beside = paged.row(stem + drafts), paged.row(nets.tokens(9, seed=3))
    paged.step([(tree, 21)])
    depths = [bit.bit_count() for bit in bits]
    batch = paged.batch(
        [(beside, 9), (tree, 7)],
        ancestors=torch.tensor([0] * 9 + bits),
        logit_rows=torch.arange(9, 16),
    )
    batch.positions[9:] = torch.tensor([20 + depth for depth in depths])
    got = some(batch, paged.pool).logits
    for n in range(7):
        path = [drafts[i] for i in range(n + 1) if bits[n] >> i & 1]
        want = Paged(some, 16).all_logits(stem + path, [len(stem) + len(path)])[-1]
        near(got[n : n + 1], want[None])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stop_ends_the_step_between_layers(llama: NumbaForward, threads: int) -> None:
    forward = NumbaForward(llama.net, threads=threads)
    ids = nets.tokens(20)
    want = Paged(llama, 16).all_logits(ids, [20])
    paged = Paged(forward, 16)
    row = paged.row(ids)
    batch = ForwardBatch(
        torch.tensor(ids), torch.arange(20),
        torch.tensor([row.pages[e // 16] * 16 + e % 16 for e in range(20)]),
        torch.tensor([0, 20]), torch.tensor([20]), torch.tensor([row.pages]),
        logit_rows=torch.arange(20),
    )  # fmt: skip
    flag = StopFlag()
    flag.set()
    with pytest.raises(Abandoned):
        forward(batch, paged.pool, flag)
    assert paged.pool.k.isnan().all()  # the flag was read before the first layer
    calls = iter([False, True])

    def pulse() -> None:
        if next(calls):
            raise Abandoned

    with pytest.raises(Abandoned):
        forward(batch, paged.pool, pulse)
    written = [not paged.pool.k[layer].isnan().all() for layer in range(3)]
    assert written == [True, False, False]
    flag.clear()
    assert torch.equal(forward(batch, paged.pool, flag).logits, want)
    forward.close()


def test_a_batch_that_no_memory_holds_is_named() -> None:
    with pytest.raises(MemoryError, match=r"MiB for 'panel'.*fewer rows or a smaller chunk"):
        Workspace().room("panel", 1 << 60)


def test_wrong_numbers_are_refused(llama: NumbaForward) -> None:
    paged = Paged(llama, 16)
    row = paged.row(nets.tokens(20))
    row.ids[4] = nets.VOCABULARY
    with pytest.raises(ValueError, match="token_ids: wanted values of 0 to 102, got"):
        paged.step([(row, 20)])
    row.ids[4] = 0
    row.stored, row.pages[1] = 0, 64
    with pytest.raises(ValueError, match="slots"):
        paged.step([(row, 20)])
    batch = ForwardBatch(*[torch.zeros(1, dtype=torch.int64)] * 6, overrides=(Override("none"),))
    assert "not loaded" in (llama.unserved(batch) or "")
