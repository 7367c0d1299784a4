"""The four arms of an evaluation, and what is wrong with an answer.

`tim` thinks in a tree that forgets; `flat` writes the same work as lines and keeps all of them;
`window` writes lines and keeps no more tokens than the tree held on the very same problem; `base`
is the model as it was published, shown two worked problems. All have the problem's own tool, and
all but `base` their adapter.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.tasks.catalogue import task
from workbench.tasks.gold import Piece, Problem, flat_pieces, tree_pieces
from workbench.tools import Faulty, Lookup, Tool

SHOTS = (3, 5)  # levels of the worked problems that `base` is shown
SLACK = 1.25  # of the tokens of a right output, after which a run that went astray is ended
INSTRUCTION = (
    "Work line by line, as in the examples. Write NAME(ARGUMENT)=> to call a tool; its result is"
    " put in for you. End with 'answer: ' and the answer alone."
)
FAULTS = "faults"  # a cell's parameter that is the evaluation's own, not the strategy's
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Arm:
    """A strategy with the parameters that make it this arm."""

    name: str
    strategy: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_tree(self) -> bool:
        return self.strategy == "tim"


ARMS = {
    "tim": Arm("tim", "tim"),
    "flat": Arm("flat", "lines"),
    "window": Arm("window", "lines"),  # its `peak` is set problem by problem
    "base": Arm("base", "lines", {"adapter": None}),
}


@dataclass(frozen=True)
class Cell:
    """`n` problems of each of the `seeds`, one family, one level, one arm."""

    task: str
    level: int
    arm: Arm
    n: int
    seeds: tuple[int, ...] = (0,)
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What two equal cells share, however many problems they ask for."""
        return f"{self.task} {self.level} {self.arm.name} {json.dumps(self.params, sort_keys=True)}"

    def described(self) -> dict[str, Any]:
        """As a plan names it."""
        return {
            "task": self.task, "level": self.level, "arm": self.arm.name, "n": self.n,
            "seeds": list(self.seeds), "params": dict(self.params),
        }  # fmt: skip

    def items(self, seed: int | None = None) -> "Iterator[Item]":
        """All, or those of one seed."""
        for one in self.seeds if seed is None else (seed,):
            for place in range(self.n):
                yield Item(self, one, place)


@dataclass(frozen=True)
class Item:
    """One problem for one arm."""

    cell: Cell
    seed: int
    place: int

    @property
    def key(self) -> str:
        return f"{self.cell.key} {self.seed} {self.place}"

    @property
    def problem_key(self) -> str:
        """What the arms share: a window takes its size from the tree's run on this problem."""
        return f"{self.cell.task} {self.cell.level} {self.seed} {self.place}"

    def problem(self) -> Problem:
        return task(self.cell.task, self.cell.level, self.seed * 100_003 + self.place)


def tools_for(item: Item, problem: Problem) -> list[Tool]:
    """The problem's tool; the parameter `faults` is the share of its calls that fail."""
    if not problem.tool:
        return []
    tool = Lookup(problem.results, name=problem.tool, parameter=problem.parameter)
    share = float(item.cell.params.get(FAULTS, 0))
    return [Faulty(tool, share, seed=item.place) if share else tool]


def pieces_of(problem: Problem, arm: Arm) -> list[Piece]:
    return list(tree_pieces(problem) if arm.is_tree else flat_pieces(problem))


def params_for(item: Item, problem: Problem, encode: Encode, peak: int | None) -> dict[str, Any]:
    """The strategy's parameters for one problem; `peak` is the tree's on it, for `window`."""
    arm = item.cell.arm
    params: dict[str, Any] = {**arm.params, **item.cell.params}
    if arm.name == "window":
        assert peak is not None, "a window's size is the tree's peak"
        params["peak"] = peak
    retries = 1 / (1 - float(params.pop(FAULTS, 0)))
    if problem.reasoning:
        most = most_tokens(pieces_of(problem, arm), encode)
        params.setdefault("max_tokens", int(retries * most))
    return params


def most_tokens(pieces: Iterable[Piece], encode: Encode) -> int:
    """Sampled tokens after which a run has gone astray."""
    return int(SLACK * sum(len(encode(piece.text)) for piece in pieces if not piece.fed)) + 64


def few_shots(item: Item, chat: Callable[[Sequence[Mapping[str, str]]], list[int]]) -> list[int]:
    """The prompt of `base` as tokens: an instruction, worked problems, the problem. Their seeds are
    negative, so no item ever asks one of them."""
    messages = [{"role": "system", "content": INSTRUCTION}]
    for number, level in enumerate(SHOTS, 1):
        shown = task(item.cell.task, min(level, item.cell.level), -number)
        worked = "".join(piece.text for piece in flat_pieces(shown))
        messages.append({"role": "user", "content": shown.prompt})
        messages.append({"role": "assistant", "content": worked})
    return chat([*messages, {"role": "user", "content": item.problem().prompt}])


def slip(text: str, pieces: Sequence[Piece]) -> tuple[str, int]:
    """In what kind of piece a text first leaves the right one, and the character there: thought,
    argument, conclusion, answer, structure; "end" where it only stops too early, "" where it never
    leaves it."""
    at, role = 0, ""
    for piece in pieces:
        rest = text[at : at + len(piece.text)]
        if rest != piece.text:
            if piece.text.startswith(rest):
                return "end", len(text)
            runs_on = not piece.role and rest[0] != piece.text[0]  # content that should have ended
            return piece.role or (runs_on and role) or "structure", at
        at, role = at + len(piece.text), piece.role
    return ("" if at == len(text) else "structure"), at
