"""A net's weights as the step reads them: one block of memory, kept as a file beside its index.

The file is a line of JSON (version, what lies where, a checksum) and the bytes behind it; a reader
that finds it cut short, changed or of another version packs anew.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.cpu import packing
from workbench.cpu.dots import COLS, Q4_1, Q8_0, ROWS, Form
from workbench.model.shape import ModelShape

VERSION = 1
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
class Placed:
    """Where a matrix lies in the block, and what it is. `bias` is an offset too, -1: none."""

    form: str
    offset: int
    tiles: int
    blocks: int
    out: int
    bias: int = -1

    @property
    def packed_form(self) -> Form:
        return packing.form_named(self.form)

    @property
    def bytes(self) -> int:
        return self.tiles * self.blocks * self.packed_form.block


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
        raw = self.memory[at.offset : at.offset + at.bytes]
        return packing.dense(raw.reshape(at.tiles, at.blocks, -1), at.packed_form, at.out)

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that one token's step reads."""
        skipped = {"embedding"} if "head" in self.matrices else set()
        return sum(m.bytes for name, m in self.matrices.items() if name not in skipped)


def unpackable(shape: ModelShape) -> str | None:
    """Why the step does not serve nets of this shape; None when it does."""
    for name, size in (
        ("width", shape.width), ("ffn", shape.ffn),
        ("heads x head_dim", shape.heads * shape.head_dim),
    ):  # fmt: skip
        if size % COLS:
            return f"{name} must be a multiple of {COLS}, got {size}"
    if shape.head_dim % 16:
        return f"head_dim must be a multiple of 16, got {shape.head_dim}"
    if shape.clip_qkv is not None:
        return "clip_qkv is not served"
    if shape.moe is not None:
        return "experts are not served"
    return None


def pack(
    source: Source, shape: ModelShape, weights: Weights, say: Callable[[str], None]
) -> PackedNet:
    """Pack every matrix of the net. "file" keeps the file's quantised blocks to the bit; "q8"
    and "q4" quantise floats (int8, or int4 with an int8 embedding and head). Raises Unpackable."""
    reason = unpackable(shape)
    if reason:
        raise Unpackable(f"{source.path}: {reason}; use the torch backend")
    packer = _Packer(source, shape, weights)
    for layer in range(shape.layers):
        packer.layer(layer)
        if shape.layers >= 8 and layer % (shape.layers // 4) == 0:
            say(f"cpu: packing {source.path.name}, layer {layer + 1} of {shape.layers}")
    packer.outer()
    return packer.done()


class _Packer:
    def __init__(self, source: Source, shape: ModelShape, weights: Weights) -> None:
        self.source, self.shape, self.weights = source, shape, weights
        self._parts: list[NDArray[np.uint8]] = []
        self._size = 0
        self._matrices: dict[str, Placed] = {}
        self._vectors: dict[str, tuple[int, int]] = {}

    def layer(self, index: int) -> None:
        s, at, to = self.shape, f"model.layers.{index}.", f"{index}."
        attention = [f"{at}self_attn.{part}_proj" for part in "qkv"]
        self._matrix(f"{to}qkv", attention, s.qkv_bias)
        self._matrix(f"{to}out", [f"{at}self_attn.o_proj"], s.o_bias)
        self._matrix(f"{to}gate_up", [f"{at}mlp.gate_proj", f"{at}mlp.up_proj"], s.mlp_bias)
        self._matrix(f"{to}down", [f"{at}mlp.down_proj"], s.mlp_bias)
        self._vector(f"{to}attention_norm", f"{at}input_layernorm.weight")
        self._vector(f"{to}mlp_norm", f"{at}post_attention_layernorm.weight")
        if s.qk_norm != "none":
            self._vector(f"{to}q_norm", f"{at}self_attn.q_norm.weight")
            self._vector(f"{to}k_norm", f"{at}self_attn.k_norm.weight")

    def outer(self) -> None:
        self._matrix("embedding", ["model.embed_tokens"], False)
        if not self.shape.tied_head:
            self._matrix("head", ["lm_head"], False)
        self._vector("final_norm", "model.norm.weight")

    def done(self) -> PackedNet:
        memory = aligned(self._size)
        at = 0
        for part in self._parts:
            memory[at : at + len(part)] = part
            at += len(part)
        return PackedNet(self.shape, self.weights, memory, self._matrices, self._vectors)

    def _matrix(self, name: str, stems: list[str], biased: bool) -> None:
        rows = [self._rows(f"{stem}.weight", name in ("embedding", "head")) for stem in stems]
        forms = {form for _, form in rows}
        if len(forms) > 1:
            raise Unpackable(
                f"{self.source.path}: {' and '.join(stems)} are quantised differently "
                f"({', '.join(sorted(f.name for f in forms))}); ask for weights 'q8'"
            )
        form = forms.pop()
        tiles = packing.tiles_of(np.concatenate([part for part, _ in rows]), form)
        out = sum(len(part) for part, _ in rows)
        bias = -1
        if biased:
            values = [self.source.tensor(f"{stem}.bias").float().numpy() for stem in stems]
            padded = np.zeros(tiles.shape[0] * ROWS, np.float32)
            padded[:out] = np.concatenate(values)
            bias = self._keep(padded)
        self._matrices[name] = Placed(
            form.name, self._keep(tiles), tiles.shape[0], tiles.shape[1], out, bias
        )

    def _rows(self, name: str, outer: bool) -> tuple[NDArray[np.uint8], Form]:
        """A file's rows of the tensor, and their form."""
        if self.weights == "file":
            blocks = self.source.blocks(name)
            kind = None if blocks is None else blocks.kind
            if kind not in packing.KINDS:
                raise Unpackable(
                    f"{self.source.path}: {name} is {kind or 'not quantised'}, the step keeps "
                    f"{', '.join(packing.KINDS)} as they are; ask for weights 'q8' or 'q4'"
                )
            return np.ascontiguousarray(blocks.rows), packing.KINDS[kind]
        form = Q8_0 if self.weights == "q8" or outer else Q4_1
        return packing.quantised(self.source.tensor(name).float().numpy(), form), form

    def _vector(self, name: str, tensor: str) -> None:
        values = self.source.tensor(tensor).float().numpy()
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


def packed(
    source: Source, shape: ModelShape, weights: Weights, folder: Path, say: Callable[[str], None]
) -> tuple[PackedNet, str]:
    """The packed net from `folder`, or packed now and kept there; and how it came about."""
    stat = source.path.stat()
    identity = f"{source.path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{weights}|{VERSION}"
    name = (
        f"{source.path.stem}-{weights}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.packed"
    )
    path = folder / name
    found, reason = read(path, shape)
    if found is not None:
        return found, f"packed weights from {path.name} in the cache"
    say(f"cpu: {reason}; packing {source.path.name} once")
    net = pack(source, shape, weights, say)
    try:
        write(net, path)
    except OSError as error:
        return net, f"packed now, not kept ({type(error).__name__} at {folder})"
    return net, f"packed now, kept at {path}"


def write(net: PackedNet, path: Path) -> None:
    head = {
        "version": VERSION,
        "weights": net.weights,
        "bytes": len(net.memory),
        "sha256": hashlib.sha256(net.memory.data).hexdigest(),
        "matrices": {name: asdict(at) for name, at in net.matrices.items()},
        "vectors": net.vectors,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(json.dumps(head).encode() + b"\n")
        net.memory.tofile(file)
    os.replace(beside, path)


def read(path: Path, shape: ModelShape) -> tuple[PackedNet | None, str]:
    """A packed net, or None and what is wrong with the file."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline())
            if head["version"] != VERSION:
                return None, f"{path.name} is of version {head['version']}, not {VERSION}"
            memory = aligned(head["bytes"])
            if file.readinto(memory) != len(memory):  # type: ignore[arg-type]
                return None, f"{path.name} is cut short"
    except FileNotFoundError:
        return None, "no packed weights in the cache"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{path.name} cannot be read ({type(error).__name__})"
    if hashlib.sha256(memory.data).hexdigest() != head["sha256"]:
        return None, f"{path.name} is damaged"
    matrices = {name: Placed(**at) for name, at in head["matrices"].items()}
    vectors = {name: (at[0], at[1]) for name, at in head["vectors"].items()}
    return PackedNet(shape, head["weights"], memory, matrices, vectors), "read"
