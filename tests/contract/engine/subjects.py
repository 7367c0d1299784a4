"""Whom the engine's contract is tested on: a backend over a small net, and who says what is right.

torch's decoder is held to transformers within TOLERANCE. The laptop engine is held to the bit:
whatever the engine did with pages and batches, a branch's logits are those of one fresh prefill
of the same text in a pool of its own, and every such prefill is held to plain torch with the same
int8 rounding (tests/unit/cpu/oracle.py) within NEAR.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tests.unit.cpu import nets as laptop_nets
from tests.unit.cpu.oracle import Oracle
from tests.unit.model.nets import Paged, make
from workbench.forward import PLAIN, Override
from workbench.model import load_model
from workbench.model.shape import ModelShape

TOLERANCE = 1e-4
NEAR = 0.06  # rms of a text's rows, of the deviation: an int8 step may fall the other way
HALF = 4e-3  # of keys that were turned once more: stored as halves of numbers up to about 4


class Subject(Protocol):
    """A net under test and its oracle. V vocabulary, M width, D head size, H KV heads."""

    model: Any  # a `forward.Forward`
    keys: float  # how near a key that was turned comes to one made in its place
    tie: float  # logits of two tokens, either of which may be chosen

    def says(self, ids: list[int], override: Override = PLAIN) -> Tensor:
        """Logits [n, V] of a text."""

    def latent(self, ids: list[int]) -> Tensor:
        """State [M] behind a text, after the final norm."""

    def mixture(self, p: Tensor) -> Tensor:
        """Mean of the embeddings under p [V]: [M]."""

    def agree(self, got: Tensor, want: Tensor) -> None:
        """Logits of the engine and of `says`. Raises AssertionError."""

    def resemble(self, got: Tensor, want: Tensor) -> None:
        """The same for logits that `modules` led to, of a text whose keys were turned."""

    def modules(self) -> "Modules": ...


class Modules(Protocol):
    """The net layer by layer, for oracles that mix what others have seen."""

    layers: int
    scale: float

    def embed(self, token: int) -> Tensor: ...  # [1, M]
    def heads(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...  # [heads, 1, D]
    def turn(self, x: Tensor, places: Tensor) -> Tensor: ...  # x [heads, n, D]
    def rest(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor: ...  # [1, M]
    def logits(self, x: Tensor) -> Tensor: ...  # [V]


class TorchSubject:
    keys = tie = TOLERANCE

    def __init__(self, name: str, folder: Path) -> None:
        self.theirs = make(name, folder)
        self.model = load_model(folder, dtype="fp32", backend="cpu")

    @torch.no_grad()
    def says(self, ids: list[int], override: Override = PLAIN) -> Tensor:
        inner, handles = self.theirs.model, []
        for steering in override.steering:

            def push(_: Any, __: Any, out: Any, vector: Tensor = steering.vector) -> Any:
                return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

            handles.append(inner.layers[steering.layer].register_forward_hook(push))
        layers = inner.layers
        if override.exit_layer is not None:
            inner.layers = layers[: override.exit_layer]
        try:
            logits: Tensor = self.theirs(torch.tensor([ids]), use_cache=False).logits[0].float()
        finally:
            inner.layers = layers
            for handle in handles:
                handle.remove()
        return logits

    @torch.no_grad()
    def latent(self, ids: list[int]) -> Tensor:
        state: Tensor = self.theirs.model(torch.tensor([ids])).last_hidden_state[0, -1]
        return state

    @torch.no_grad()
    def mixture(self, p: Tensor) -> Tensor:
        mixed: Tensor = p @ self.theirs.get_input_embeddings().weight
        return mixed

    def agree(self, got: Tensor, want: Tensor) -> None:
        assert (got - want).abs().max() <= TOLERANCE

    resemble = agree

    def modules(self) -> Modules:
        return TransformersModules(self.theirs)


class TransformersModules:
    """transformers' own modules called one by one; its cache, masks and pages have no part."""

    def __init__(self, model: Any) -> None:
        self.model, self.blocks = model, model.model.layers
        self.layers, self.scale = len(self.blocks), self.blocks[0].self_attn.scaling

    def embed(self, token: int) -> Tensor:
        state: Tensor = self.model.model.embed_tokens(torch.tensor([token]))
        return state

    def heads(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        block = self.blocks[layer]
        h, attention = block.input_layernorm(x), block.self_attn
        q, k, v = (
            project(h).view(1, -1, attention.head_dim).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        return q, k, v

    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        cos, sin = self.model.model.rotary_emb(x, places[None])
        a, b = x.chunk(2, -1)
        turned: Tensor = x * cos[0] + torch.cat([-b, a], -1) * sin[0]
        return turned

    def rest(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
        block = self.blocks[layer]
        x = x + block.self_attn.o_proj(mixed)
        out: Tensor = x + block.mlp(block.post_attention_layernorm(x))
        return out

    def logits(self, x: Tensor) -> Tensor:
        found: Tensor = self.model.lm_head(self.model.model.norm(x))[0].float()
        return found


class LaptopSubject:
    keys, tie = HALF, 0.2

    def __init__(self, name: str, **facts: Any) -> None:
        from workbench.cpu import NumbaForward, weights

        self.shape = laptop_nets.SHAPES[name]
        if facts:
            self.shape = laptop_nets.shape(**facts)
        source = laptop_nets.RandomSource(self.shape)
        net = weights.pack(source, self.shape, "q8", lambda line: None)
        self.model = NumbaForward(net)
        self.oracle = Oracle(net)

    def says(self, ids: list[int], override: Override = PLAIN) -> Tensor:
        logits = self._fresh(ids, override).logits
        steering = {s.layer: s.vector for s in override.steering}
        want = self.oracle.logits(ids, steering=steering, exit_layer=override.exit_layer)
        close(logits, want)
        return logits

    def latent(self, ids: list[int]) -> Tensor:
        last = torch.tensor([len(ids) - 1])
        return self._fresh(ids, PLAIN, hidden_rows=last, hidden_layers=(-1,)).hidden[-1][0]

    def mixture(self, p: Tensor) -> Tensor:
        return p @ self.oracle.w["embedding"]

    def agree(self, got: Tensor, want: Tensor) -> None:
        assert torch.equal(got, want), f"differs by {(got - want).abs().max():.2e}"

    def resemble(self, got: Tensor, want: Tensor) -> None:
        close(got[None], want[None])

    def modules(self) -> Modules:
        return OracleModules(self.oracle, self.shape)

    def _fresh(self, ids: list[int], override: Override, **wants: Any) -> Any:
        paged = Paged(self.model, 16, pages=-(-len(ids) // 16))
        return paged.step([(paged.row(ids, override), len(ids))], **wants)


def close(got: Tensor, want: Tensor, bound: float = NEAR) -> None:
    assert not got.isnan().any()
    error = ((got - want).square().mean() / want.var()).sqrt()
    assert error < bound, f"rms error {error:.4f} of the deviation"


class OracleModules:
    def __init__(self, oracle: Oracle, shape: ModelShape) -> None:
        self.oracle, self.shape = oracle, shape
        self.layers, self.scale = shape.layers, shape.attention_scale
        oracle.adapter = None

    def embed(self, token: int) -> Tensor:
        return self.oracle.w["embedding"][token][None]

    def heads(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s, o = self.shape, self.oracle
        rows = o.linear(o.norm(x, f"{layer}.attention_norm"), layer, "qkv").view(-1, 1, s.head_dim)
        q, k, v = rows.split((s.heads, s.kv_heads, s.kv_heads))
        if s.qk_norm == "per-head":
            q, k = o.norm(q, f"{layer}.q_norm"), o.norm(k, f"{layer}.k_norm")
        return q, k, v.half().float()

    def turn(self, x: Tensor, places: Tensor) -> Tensor:
        o = self.oracle
        angles = places.float()[:, None] * o.inv_freq
        cos, sin = angles.cos() * o.turn_scale, angles.sin() * o.turn_scale
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def rest(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
        o = self.oracle
        x = x + o.linear(mixed, layer, "out")
        return x + o.mlp(o.norm(x, f"{layer}.mlp_norm"), layer)

    def logits(self, x: Tensor) -> Tensor:
        o = self.oracle
        head = o.w["embedding" if self.shape.tied_head else "head"]
        return (o.int8(o.norm(x, "final_norm")) @ head.T)[0]


def subject(backend: str, net: str, folder: Path) -> Subject:
    """`net`: a name of tests/unit/model/nets.py for torch, of tests/unit/cpu/nets.py for numba."""
    return TorchSubject(net, folder) if backend == "torch" else LaptopSubject(net)
