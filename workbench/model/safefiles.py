"""Safetensors files, one or many beside an index, read by memory map, with errors that advise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import ModelError


class SafeFile:
    """One safetensors file. Tensors are views of the mapped file until converted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            opened: Any = safe_open
            self._file: Any = opened(str(path), "pt")
        except FileNotFoundError as error:
            raise ModelError(
                f"wanted {path}, which does not exist; give a complete folder"
            ) from error
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is no complete safetensors file ({error}); it may be cut short: "
                f"{path.stat().st_size} bytes are here, fetch it again"
            ) from error
        self.names: frozenset[str] = frozenset(self._file.keys())

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


def open_folder(folder: Path) -> Mapping[str, SafeFile]:
    """Tensor name -> the file that holds it, for `model.safetensors` or a sharded index."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        file = SafeFile(folder / "model.safetensors")
        return dict.fromkeys(file.names, file)
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise ModelError(f"{index} has no readable weight_map ({error}); fetch it again") from error
    files = {name: SafeFile(folder / name) for name in sorted(set(weight_map.values()))}
    for tensor, name in weight_map.items():
        if tensor not in files[name].names:
            raise ModelError(f"{index} places {tensor} in {name}, which lacks it; fetch both again")
    return {tensor: files[name] for tensor, name in weight_map.items()}
