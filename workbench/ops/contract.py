"""What an implementation of the net's operations owes: shapes, dtypes, who owns what.

`ops.reference` (slow and obvious: the specification), `ops.cpu` (torch, the default without a GPU;
runs unchanged on CUDA tensors) and `kernels_cupy` (CUDA C++) implement it; one contract test
compares them.

Axis letters: T tokens of the step, B rows, Q query heads, H KV heads, D head_dim, M model width,
F feed-forward width, E experts, k experts a token, V vocabulary. Activations share the weights'
dtype; statistics, softmax, router weights and logits are float32.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from workbench.forward import ForwardBatch, Pool


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    """Frequencies of a RoPE, scaling (linear, llama3, YaRN) already worked in.

    Pairs are (i, i + D/2), the layout of Hugging Face checkpoints. `scale` multiplies cos and sin
    (YaRN's attention factor); it must not be applied a second time when stored K is turned further.
    """

    inv_freq: Tensor  # [D / 2] float32
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class HeadNorm:
    """Weights [D] by which each head of q and k is RMS-normalised before it is turned (Qwen3)."""

    q: Tensor
    k: Tensor
    eps: float


class Linear(Protocol):
    """A packed weight. Called with [T, in], gives [T, out] in x's dtype."""

    out_features: int
    in_features: int
    form: str  # "as loaded", "bf16 prepacked", "int4 (file groups)", …

    def __call__(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class Unrounded(Protocol):
    """A `Linear` that can give its product as it was summed: logits of 16 and more are an eighth
    apart in bfloat16."""

    def float32(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out] in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplerRow:
    """How one row's next token is drawn. Applied in the order of the fields."""

    repetition_penalty: float = 1.0  # over `seen`
    presence_penalty: float = 0.0
    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0


def nothing() -> None:
    """There is nothing to wait for."""


@dataclass(slots=True, eq=False)
class Sampled:
    """Outcome of a draw for R rows, on the host once `wait` has returned.

    `wait` raises ValueError when a row's mask allows nothing. A backend that draws elsewhere also
    leaves the tokens there (`on_device`), for a next pass that is launched before they are read.
    """

    token: Tensor  # [R] int64
    logprob: Tensor  # [R] float32, of the token under the masked, unscaled distribution
    entropy: Tensor  # [R] float32, nats, of the same distribution
    top_ids: Tensor  # [R, n] int64
    top_logprobs: Tensor  # [R, n] float32
    on_device: Tensor | None = None  # [R] int64
    wait: Callable[[], None] = nothing


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a net carries out a step of few new tokens, for a backend that may capture it.

    `body(token_ids, plan, indexes, asked)` launches the step from device tensors alone: [T] int64,
    what `prepare` would have given, `indexes` and `asked` moved to the device. Its first result is
    [T, V], or that of the tokens `asked`. Steps with equal `net` and equally many tokens differ in
    tensors' values alone. With `pads`, tokens that nobody asked for may be added behind: they cost
    a net without experts nothing.
    """

    net: Hashable
    heads: int
    windows: tuple[int | None, ...]  # sliding windows that the layers have, each once
    indexes: tuple[Tensor, ...]  # int64 [T] each, of the packed tokens
    asked: Tensor | None  # int64 [R], packed tokens whose logits are wanted; None: all, in order
    pads: bool
    body: Callable[[Tensor, Any, Sequence[Tensor], Tensor | None], tuple[Tensor, ...]]


@runtime_checkable
class Replays(Protocol):
    """An `Ops` that captures steps of few new tokens, and replays them."""

    def replay(
        self, batch: ForwardBatch, pool: Pool, rotary: Rotary, recipe: Recipe
    ) -> tuple[Tensor, ...] | None:
        """The body's results, captured or not, valid until the next replay; None where the step
        has to run on its own plan. Nothing is attached, no row is a tree of drafts."""


class Ops(Protocol):
    """One implementation. Results are fresh tensors that the caller owns, except where said."""

    name: str

    def prepare(self, batch: ForwardBatch, pool: Pool, rotary: Rotary) -> Any:
        """The step's plan (index tensors on the device, cos and sin of the positions, work
        division). Made once a step, handed to `rope_store` and `attention`; valid until the next
        `prepare`."""

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """A weight [out, in] in the form that this implementation multiplies fastest."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """[..., N] normalised over the last axis in float32, times `weight` [N]."""

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual); the sum is rounded to the activations' dtype
        first."""

    def rope_store(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: Any,
        layer: int,
        norm: HeadNorm | None = None,
    ) -> Tensor:
        """Turn q [T, Q, D] and k [T, H, D] to the tokens' positions, normed first where `norm` is
        given, write k and v to the tokens' slots of `layer`, and return q turned."""

    def attention(
        self, q: Tensor, plan: Any, layer: int, scale: float, sliding_window: int | None
    ) -> Tensor:
        """Softmax attention of q [T, Q, D] over the rows' entries, read through the block tables
        alone; causal among a row's new tokens, or along the ancestors of a token tree (not with a
        window). With `sliding_window` w, token at entry i reads
        entries > i - w. Returns [T, Q, D]."""

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """[T, 2F] -> [T, F]: silu(first half) * second half."""

    def route(self, logits: Tensor, k: int, normalise: bool) -> tuple[Tensor, Tensor]:
        """Softmax over [T, E] in float32, the k largest: experts [T, k] int64 (best first, lower id
        first among equals) and weights [T, k] float32, divided by their sum when `normalise`."""

    def expert_mlp(
        self, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        """x [T, M] through each token's experts: gate_up [E, 2F, M], down [E, M, F]; weighted and
        summed in ascending expert id. Returns [T, M]."""

    def sample(
        self,
        logits: Tensor,
        rows: Sequence[SamplerRow],
        mask: Tensor | None,
        seen: Sequence[Tensor],
        bias: Sequence[tuple[Tensor, Tensor] | None],
        uniforms: Tensor,
        top_n: int,
    ) -> Sampled:
        """Draw a token for each row of logits [R, V] float32. `mask` is [R, ceil(V/32)] int32, bit
        set = allowed (little end first), or None; `seen` lists each row's token ids for the
        penalties; `bias` adds values to ids; `uniforms` [R] float64 in [0, 1) decide, row by row,
        independently of the batch. Raises ValueError, here or in `Sampled.wait`, when a row's mask
        allows nothing."""
