"""A model for sessions that costs nothing, bytes as tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tests.fakes import ByteTokenizer, Facts, FakePool
from workbench.forward import ForwardBatch, ForwardOutput
from workbench.kv.layout import KVLayout
from workbench.model import ModelSource
from workbench.session import Session
from workbench.settings import Settings, resolve

LIKES = {'"': 6.0, "]": 2.0, "c": 1.0, "}": 2.0}


class FakeTokenizer:
    def __init__(self) -> None:
        self._bytes = ByteTokenizer()
        self.vocab_size, self.eos, self.special = 257, frozenset({256}), frozenset({256})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.bytes_of(token)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self.encode("".join(f"{m['role']}:{m['content']}\n" for m in messages))


class FakeModel:
    """Logits from the token and its position alone: no attention, so that long texts cost nothing.
    It likes quotes and closing brackets, so that trees end."""

    name = "fake"

    def __init__(self, window: int = 4096, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.facts = Facts(layers=1, width=8, window=window)
        self.table = torch.randn(self.facts.vocabulary, 8, generator=g)
        self.places = torch.randn(61, 8, generator=g)
        self.head = torch.randn(self.facts.vocabulary, 8, generator=g)
        self.bonus = torch.zeros(self.facts.vocabulary)
        for char, bonus in LIKES.items():
            self.bonus[ord(char)] = bonus
        self.tokenizer = FakeTokenizer()
        self.adapters: dict[str, Any] = {}
        self.source = ModelSource("fake", "test", "", "", "none", 0, "Fake")
        self.reasons = ("weights: random",)

    def layout(self, pages: int, page_size: int) -> KVLayout:
        return KVLayout(1, pages, page_size, 1, 2, torch.float64)

    def new_pool(self, layout: KVLayout) -> FakePool:
        return FakePool(layout, torch.zeros(1, dtype=torch.float64))

    def unserved(self, batch: ForwardBatch) -> str | None:
        return None

    def __call__(
        self, batch: ForwardBatch, pool: FakePool, pulse: Callable[[], None] = lambda: None
    ) -> ForwardOutput:
        pulse()
        rows = batch.logit_rows
        state = torch.tanh(
            self.table[batch.token_ids[rows]] + self.places[batch.positions[rows] % 61]
        )
        return ForwardOutput(state @ self.head.T + self.bonus)


def fake_session(window: int = 4096, **settings: Any) -> Session:
    settings = {"pages": 512, "page_size": 4, "backend": "cpu", **settings}
    return Session(FakeModel(window), resolve(Settings(**settings)))
