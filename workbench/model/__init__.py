"""The net in token order: facts, weights, tokenizer, decoder. The door is `load_model`."""

from .errors import ModelError
from .load import Model, ModelSource, load_model

__all__ = ["Model", "ModelError", "ModelSource", "load_model"]
