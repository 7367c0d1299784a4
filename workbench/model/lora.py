"""Low-rank adapters beside the weights, never merged: y + scale * (x A^T) B^T (2106.09685, eq. 3).

Read from PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`). The projections that
the decoder fuses get fused adapters: A stacked, B block-diagonal.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ModelError
from .safefiles import SafeFile
from .shape import ModelShape

# fused projection of the decoder -> its parts, in order
FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
EVEN = 16  # ranks are filled up with zeros: rows of odd lengths have slow products on a GPU
UNSERVED = ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save", "fan_in_fan_out")


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One fused projection's adapter, its alpha / r worked in."""

    a: Tensor  # [in, r], transposed for the product
    b: Tensor  # [r, out]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    name: str
    path: str
    rank: int
    layers: tuple[Mapping[str, Pair], ...]  # per layer: fused projection -> pair


def sizes(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """(in, out) of every projection that an adapter may touch."""
    attention, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "self_attn.q_proj": (shape.width, attention),
        "self_attn.k_proj": (shape.width, kv),
        "self_attn.v_proj": (shape.width, kv),
        "self_attn.o_proj": (attention, shape.width),
        "mlp.gate_proj": (shape.width, shape.ffn),
        "mlp.up_proj": (shape.width, shape.ffn),
        "mlp.down_proj": (shape.ffn, shape.width),
    }


def load_adapter(
    name: str, path: Path, shape: ModelShape, dtype: torch.dtype, device: torch.device
) -> Adapter:
    """Read a PEFT directory for a net of `shape`. Raises ModelError."""
    config = _config(path)
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    file = SafeFile(path / "adapter_model.safetensors")
    found = {_plain(key): key for key in file.names}
    wanted = sizes(shape)
    layers: list[Mapping[str, Pair]] = []
    for layer in range(shape.layers):
        pairs = {}
        for fused, parts in FUSED.items():
            pair = _pair(file, found, layer, parts, wanted, scale)
            if pair is not None:
                more = -pair.a.shape[1] % EVEN
                a, b = F.pad(pair.a, (0, more)), F.pad(pair.b, (0, 0, 0, more))
                pairs[fused] = Pair(a.to(device, dtype), b.to(device, dtype))
        layers.append(pairs)
    if found:
        raise ModelError(
            f"adapter {name}: wanted LoRA weights of {', '.join(wanted)} in layers 0 to "
            f"{shape.layers - 1}, found {sorted(found.values())[0]} as well; "
            "train the adapter for this net and these projections"
        )
    if not any(layers):
        raise ModelError(f"adapter {name}: {file.path} holds no LoRA weight")
    return Adapter(name, str(path), int(config["r"]), tuple(layers))


def _config(path: Path) -> dict[str, Any]:
    file = path / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"adapter: wanted a PEFT directory with adapter_config.json at {path} ({error}); "
            "give the folder that `save_pretrained` wrote"
        ) from error
    if config.get("peft_type") != "LORA":
        raise ModelError(f"adapter {path}: peft_type LORA is served, got {config.get('peft_type')}")
    for field in UNSERVED:
        if config.get(field):
            raise ModelError(
                f"adapter {path}: {field}={config[field]!r} is not served; train without"
            )
    if config.get("bias", "none") != "none":
        raise ModelError(
            f"adapter {path}: bias={config['bias']!r} is not served; train with 'none'"
        )
    return config


def _plain(key: str) -> str:
    """`base_model.model.model.layers.3.mlp.up_proj.lora_A.weight` -> `3.mlp.up_proj.lora_A`."""
    return key.removesuffix(".weight").removesuffix(".default").split("layers.", 1)[-1]


def _pair(
    file: SafeFile,
    found: dict[str, str],
    layer: int,
    parts: tuple[str, ...],
    wanted: Mapping[str, tuple[int, int]],
    scale: float,
) -> Pair | None:
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for part in parts:
        inward, outward = wanted[part]
        keys = [found.pop(f"{layer}.{part}.lora_{side}", None) for side in "AB"]
        if keys == [None, None]:
            ups.append(torch.zeros(outward, 0))
            continue
        if keys[0] is None or keys[1] is None:
            raise ModelError(
                f"adapter {file.path}: {part} of layer {layer} has lora_A or lora_B alone"
            )
        down, up = file.tensor(keys[0]).float(), file.tensor(keys[1]).float()
        if down.shape[1:] != (inward,) or up.shape != (outward, down.shape[0]):
            raise ModelError(
                f"adapter {file.path}: {part} of layer {layer} wants A [r, {inward}] and "
                f"B [{outward}, r], got {list(down.shape)} and {list(up.shape)}; "
                "it was trained for another net"
            )
        downs.append(down)
        ups.append(up * scale)
    if not downs:
        return None
    return Pair(torch.cat(downs).T.contiguous(), _block_diagonal(ups).T.contiguous())


def _block_diagonal(parts: list[Tensor]) -> Tensor:
    out = torch.zeros(sum(p.shape[0] for p in parts), sum(p.shape[1] for p in parts))
    row = column = 0
    for part in parts:
        out[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return out
