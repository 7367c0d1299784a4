"""Text to token ids and back, and chat turns to a prompt."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from .errors import ModelError

# special tokens that end a turn, whatever a config says
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<|end|>")
Message = Mapping[str, str]  # {"role": …, "content": …}


class ModelTokenizer:
    """A checkpoint's tokenizer. Special tokens in a text are recognised; `encode` adds none."""

    def __init__(self, text: str, config: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"tokenizer.json is not readable ({error}); fetch it again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template = _template(config.get("chat_template"))
        self._names = {key: _text(config.get(key)) for key in ("bos_token", "eos_token")}
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos: frozenset[int] = self._ends(config)
        self._special = frozenset(
            index
            for index, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        )

    def _ends(self, config: Mapping[str, Any]) -> frozenset[int]:
        named = config.get("eos_token_id")
        ids = {named} if isinstance(named, int) else set(named or ())
        texts = [self._names["eos_token"]]
        texts += [text for text in TURN_ENDS if text in (self._template or "")]
        ids |= {i for t in texts if t and (i := self._tokenizer.token_to_id(t)) is not None}
        return frozenset(ids)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of ids; special tokens are shown unless `special` is False."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=not special)
        return text

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; parts of a character are parts."""
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    @property
    def special(self) -> frozenset[int]:
        return self._special

    @cached_property
    def _bytes(self) -> list[bytes]:
        added = self._tokenizer.get_added_tokens_decoder()
        decoder = self._tokenizer.decoder  # None: tokens are the text
        level = decoder is not None and '"ByteLevel"' in decoder.__getstate__().decode()
        plain = _byte_of_character() if level else None
        return [
            b"" if (text := self._tokenizer.id_to_token(index)) is None
            else text.encode() if index in added
            else _byte_level(text, plain) if plain
            else _byte_fallback(text)
            for index in range(self.vocab_size)
        ]  # fmt: skip

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation by the checkpoint's own template; of its bare texts, a blank line
        between them, where a base model has none. Raises ModelError where it refuses them."""
        return self.encode(self.chat_text(messages, add_generation_prompt))

    def chat_text(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        if self._template is None:
            return "\n\n".join(message["content"] for message in messages)
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = raise_exception
        names = {key: text or "" for key, text in self._names.items()}
        try:
            text: str = environment.from_string(self._template).render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **names
            )
        except TemplateError as error:
            raise ModelError(f"the chat template refused the messages: {error}") from error
        return text


def _template(given: Any) -> str | None:
    """A config names one template, or a list of {"name", "template"}."""
    if isinstance(given, list):
        named = {entry["name"]: entry["template"] for entry in given}
        return named.get("default")
    return given if isinstance(given, str) else None


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from 256."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in kept}
    others = [byte for byte in range(256) if byte not in table.values()]
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


def _byte_level(text: str, table: Mapping[str, int]) -> bytes:
    return b"".join(bytes([table[c]]) if c in table else c.encode() for c in text)


def _byte_fallback(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes([int(text[3:5], 16)])
    return text.replace("▁", " ").encode()
