"""The pilot's problems: prompts, tool tables and what a right run emits, as token ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.tasks.gold import Call, Work, tree_pieces
from workbench.tasks.gold import Problem as Gold
from workbench.tools import Lookup
from workbench.train.views import encode_gold, pruned_view

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


def peak(problem: Problem, tokenizer: Any) -> int:
    """Tokens in memory at most on the way through the gold text at threshold 0, from the packed
    view that training uses: arithmetic on the text, no engine."""
    text = tokenizer.decode(problem.gold_ids[:-1])
    gold = encode_gold(tree_pieces(worked(problem, json.loads(text))), tokenizer.encode, END)
    assert list(gold.ids) == problem.gold_ids
    return int(pruned_view(problem.prompt_ids, gold, 0).positions.max()) + 1


def worked(problem: Problem, tree: Mapping[str, Any]) -> Gold:
    """The gold tree as the tasks write it."""

    def work(node: Mapping[str, Any]) -> Work:
        call = None
        if use := node.get("tooluse"):
            ((parameter, argument),) = use["parameters"].items()
            call = Call(use["tool_name"], parameter, argument, use["tool_result"])
        children = tuple(map(work, node.get("subtasks", ())))
        return Work(node["thought"], node["conclusion"], call, children)

    tool, parameter = problem.tool["name"], problem.tool["parameter"]
    reasoning = tuple(map(work, tree["reasoning"]))
    return Gold(
        problem.family,
        problem.steps,
        problem.prompt,
        problem.answer,
        tool,
        parameter,
        {},
        reasoning,
    )
