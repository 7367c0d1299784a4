"""A net's weights as the step reads them: all matrices and vectors in one block of memory."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.cpu import packing
from workbench.cpu.dots import COLS, ROWS, Form
from workbench.model.shape import ModelShape

ALIGN = 64
Weights = Literal["file", "q8", "q4"]


class Rows(Protocol):
    """A tensor as its file keeps it: rows of quantised blocks."""

    @property
    def kind(self) -> str: ...  # "Q4_1", "Q8_0", …
    @property
    def rows(self) -> NDArray[np.uint8]: ...  # [out, bytes of a row]


class Source(Protocol):
    """Where tensors come from, under the names of Hugging Face checkpoints."""

    path: Path

    def has(self, name: str) -> bool: ...
    def tensor(self, name: str) -> torch.Tensor: ...
    def blocks(self, name: str) -> Any: ...  # Rows, or None where the tensor is not quantised


class Unpackable(ValueError):
    """The checkpoint cannot be packed as asked. The message says what to ask for instead."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tiles of one form that lie together."""

    form: str
    offset: int
    tiles: int

    @property
    def packed_form(self) -> Form:
        return packing.form_named(self.form)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a matrix lies in the block, and what it is: rows from several tensors may be of
    several forms. `bias` is an offset too, -1: none."""

    parts: tuple[Part, ...]
    blocks: int
    out: int
    bias: int = -1

    @property
    def forms(self) -> str:
        return " and ".join(sorted({part.form for part in self.parts}))

    @property
    def bytes(self) -> int:
        return sum(part.tiles * self.blocks * part.packed_form.block for part in self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class PackedNet:
    """Packed matrices and float32 vectors by name, in one block of memory."""

    shape: ModelShape
    weights: Weights
    memory: NDArray[np.uint8]
    matrices: dict[str, Placed]
    vectors: dict[str, tuple[int, int]]  # offset, length

    def address(self, offset: int) -> int:
        return int(self.memory.ctypes.data) + offset

    def vector(self, name: str) -> NDArray[np.float32]:
        offset, length = self.vectors[name]
        return self.memory[offset : offset + 4 * length].view(np.float32)

    def dense(self, name: str) -> NDArray[np.float32]:
        """Values [out, in] of a matrix, for oracles."""
        at = self.matrices[name]
        rows = [
            packing.dense(self.tiles(at, part), part.packed_form, part.tiles * ROWS)
            for part in at.parts
        ]
        return np.concatenate(rows)[: at.out]

    def tiles(self, at: Placed, part: Part) -> NDArray[np.uint8]:
        """A part's tiles [tiles, blocks, bytes of a block]."""
        size = part.packed_form.block
        raw = self.memory[part.offset : part.offset + part.tiles * at.blocks * size]
        return raw.reshape(part.tiles, at.blocks, size)

    @property
    def step_bytes(self) -> int:
        """Bytes of quantised weights that one token's step reads: of the experts, k."""
        moe = self.shape.moe
        total = 0
        for name, matrix in self.matrices.items():
            if name == "embedding" and "head" in self.matrices:
                continue
            layer, _, part = name.partition(".")
            sparse = part in ("gate_up", "down") and self.shape.sparse(int(layer))
            total += matrix.bytes * moe.k // moe.count if sparse and moe else matrix.bytes
        return total


def unpackable(shape: ModelShape) -> str | None:
    """Why the step does not serve nets of this shape; None when it does."""
    sizes = {"width": shape.width, "heads x head_dim": shape.heads * shape.head_dim}
    if shape.moe is None or not all(shape.moe.layers):
        sizes["ffn"] = shape.ffn
    if shape.moe is not None:
        sizes["ffn of an expert"] = shape.moe.ffn
    for name, size in sizes.items():
        if size % COLS:
            return f"{name} must be a multiple of {COLS}, got {size}"
    if shape.head_dim % 16:
        return f"head_dim must be a multiple of 16, got {shape.head_dim}"
    return None


def unkept(source: Source, shape: ModelShape) -> str | None:
    """Why the step cannot keep this file's blocks as they are; None when it can."""
    for _, tensors, _ in matrices(shape):
        for name in tensors:
            if (why := _unkept(source, name)) is not None:
                return why
    return None


def _unkept(source: Source, name: str) -> str | None:
    blocks = source.blocks(name)
    if blocks is not None and blocks.kind in packing.KINDS:
        return None
    came = "not quantised" if blocks is None else blocks.kind
    return (
        f"{name} is {came}, the step keeps {', '.join(packing.KINDS)} as they are; "
        "ask for weights 'q8' or 'q4'"
    )


def matrices(shape: ModelShape) -> Iterator[tuple[str, list[str], bool]]:
    """Every matrix of a net: its name here, the tensors whose rows it holds, whether it has a
    bias."""
    s = shape
    for layer in range(s.layers):
        at, to = f"model.layers.{layer}.", f"{layer}."
        yield f"{to}qkv", [f"{at}self_attn.{part}_proj.weight" for part in "qkv"], s.qkv_bias
        yield f"{to}out", [f"{at}self_attn.o_proj.weight"], s.o_bias
        if s.moe is not None and s.sparse(layer):
            gate, up, down = s.expert_tensors(layer)[1]
            every = range(s.moe.count)
            yield f"{to}gate_up", [part.format(e) for part in (gate, up) for e in every], False
            yield f"{to}down", [down.format(e) for e in every], False
        else:
            yield (
                f"{to}gate_up",
                [f"{at}mlp.{part}_proj.weight" for part in ("gate", "up")],
                (s.mlp_bias),
            )
            yield f"{to}down", [f"{at}mlp.down_proj.weight"], s.mlp_bias
    yield "embedding", ["model.embed_tokens.weight"], False
    if not s.tied_head:
        yield "head", ["lm_head.weight"], False


def pack(
    source: Source, shape: ModelShape, weights: Weights, say: Callable[[str], None]
) -> PackedNet:
    """Pack every matrix of the net. "file" keeps the file's quantised blocks to the bit; "q8"
    and "q4" quantise floats (int8, or int4 with an int8 embedding and head). Raises Unpackable."""
    reason = unpackable(shape)
    if reason:
        raise Unpackable(f"{source.path}: {reason}; use the torch backend")
    packer = _Packer(source, shape, weights)
    quarter = max(1, shape.layers // 4)
    for name, tensors, biased in matrices(shape):
        packer.matrix(name, tensors, biased)
        layer, _, part = name.partition(".")
        if part == "qkv" and shape.layers >= 8 and int(layer) % quarter == 0:
            say(f"cpu: packing {source.path.name}, layer {int(layer) + 1} of {shape.layers}")
    for index in range(shape.layers):
        packer.norms(index)
    packer.vector("final_norm", "model.norm.weight")
    return packer.done()


class _Packer:
    def __init__(self, source: Source, shape: ModelShape, weights: Weights) -> None:
        self.source, self.shape, self.weights = source, shape, weights
        self._parts: deque[NDArray[np.uint8]] = deque()
        self._size = 0
        self._matrices: dict[str, Placed] = {}
        self._vectors: dict[str, tuple[int, int]] = {}

    def norms(self, index: int) -> None:
        s, at, to = self.shape, f"model.layers.{index}.", f"{index}."
        self.vector(f"{to}attention_norm", f"{at}input_layernorm.weight")
        self.vector(f"{to}mlp_norm", f"{at}post_attention_layernorm.weight")
        if s.qk_norm != "none":
            self.vector(f"{to}q_norm", f"{at}self_attn.q_norm.weight")
            self.vector(f"{to}k_norm", f"{at}self_attn.k_norm.weight")
        if s.sparse(index):
            self.vector(f"{to}router", s.expert_tensors(index)[0])

    def done(self) -> PackedNet:
        memory = aligned(self._size)
        at = 0
        while self._parts:  # each is let go once it has been copied
            part = self._parts.popleft()
            memory[at : at + len(part)] = part
            at += len(part)
        return PackedNet(self.shape, self.weights, memory, self._matrices, self._vectors)

    def matrix(self, name: str, tensors: list[str], biased: bool) -> None:
        parts: list[Part] = []
        out = blocks = 0
        outer = name in ("embedding", "head")
        for kind, run in groupby((self._rows(t, outer) for t in tensors), lambda rows: rows[0]):
            if out % ROWS:
                raise Unpackable(
                    f"{self.source.path}: {tensors[0]} and its neighbours are quantised "
                    f"differently, after {out} rows, no multiple of {ROWS}; ask for weights 'q8'"
                )
            rows = np.concatenate([part for _, part in run])
            tiles = packing.tiles_from(rows, kind)
            parts.append(Part(packing.KINDS[kind].name, self._keep(tiles), len(tiles)))
            out, blocks = out + len(rows), tiles.shape[1]
        bias = -1
        if biased:
            names = [f"{tensor.removesuffix('weight')}bias" for tensor in tensors]
            padded = np.zeros(-(-out // ROWS) * ROWS, np.float32)
            padded[:out] = np.concatenate([self._floats(bias_of) for bias_of in names])
            bias = self._keep(padded)
        self._matrices[name] = Placed(tuple(parts), blocks, out, bias)

    def _rows(self, name: str, outer: bool) -> tuple[str, NDArray[np.uint8]]:
        """A file's rows of the tensor, and their kind."""
        if self.weights == "file":
            if (why := _unkept(self.source, name)) is not None:
                raise Unpackable(f"{self.source.path}: {why}")
            blocks = self.source.blocks(name)
            return blocks.kind, np.ascontiguousarray(blocks.rows)
        kind = "Q8_0" if self.weights == "q8" or outer else "Q4_1"
        return kind, packing.quantised(self._floats(name), packing.KINDS[kind])

    def _floats(self, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.source.tensor(name).float().numpy()
        return values

    def vector(self, name: str, tensor: str) -> None:
        """Floats as they are: a norm, or a router's rows [E, M] end to end."""
        values = self._floats(tensor).reshape(-1)
        self._vectors[name] = (self._keep(values), len(values))

    def _keep(self, part: NDArray[Any]) -> int:
        raw = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        at, gap = self._size, -len(raw) % ALIGN
        self._parts.append(raw)
        if gap:
            self._parts.append(np.zeros(gap, np.uint8))
        self._size += len(raw) + gap
        return at


def aligned(size: int) -> NDArray[np.uint8]:
    """Memory that starts on a cache line; numpy asks for huge pages from 4 MiB up."""
    raw = np.empty(size + ALIGN, np.uint8)
    start = -int(raw.ctypes.data) % ALIGN
    return raw[start : start + size]
