"""The pilot's problems: prompts, tool tables and what a right run emits, as token ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.tools import Lookup

FILE = Path(__file__).parents[2] / "data" / "tim_pilot.jsonl"
END = 2


@dataclass(frozen=True)
class Problem:
    family: str
    steps: int
    prompt: str
    tool: Mapping[str, Any]
    answer: str
    nodes: int
    prompt_ids: list[int]
    gold_ids: list[int]
    tool_result_spans: list[list[int]]

    @property
    def lookup(self) -> Lookup:
        table = {key: json.loads(text) for key, text in self.tool["results"].items()}
        return Lookup(table, self.tool["name"], self.tool["parameter"])

    @property
    def sampled(self) -> int:
        """Tokens that the model has to write itself, the end token included."""
        return len(self.gold_ids) - sum(b - a for a, b in self.tool_result_spans)


@cache
def problems() -> tuple[Problem, ...]:
    return tuple(Problem(**json.loads(line)) for line in FILE.read_text().splitlines())


def of(family: str, steps: int) -> list[Problem]:
    return [p for p in problems() if p.family == family and p.steps == steps]
