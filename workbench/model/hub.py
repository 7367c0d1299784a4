"""Checkpoints by hub id, where a hub can be reached."""

from pathlib import Path

from .errors import ModelError

WANTED = ("*.json", "*.safetensors", "*.jinja")


def fetch_hub(name: str) -> Path:
    """A snapshot's folder in the hub library's own cache. Raises ModelError."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(
            f"{name!r} looks like a hub id, and huggingface_hub is not installed; "
            "`pip install huggingface_hub`, or give a local folder"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # network, HTTP and cache errors have no common base
        first = str(error).strip().splitlines()
        raise ModelError(
            f"wanted the hub's {name!r}, which could not be fetched ({type(error).__name__}: "
            f"{first[0] if first else 'no detail'}); check the name and the network, or give "
            "a local folder"
        ) from error
