"""The net in token order: facts, weights, tokenizer, decoder. The door is `load_model`."""

from .errors import ModelError
from .load import Model, ModelSource, Opened, load_model, open_model

__all__ = ["Model", "ModelError", "ModelSource", "Opened", "load_model", "open_model"]
