"""Worked problems: a prompt, a tool's table, and the tree that a right run would grow.

A `Work` tree is written by the program that made the problem; `tree_pieces` gives it as Thread-2
JSON (2507.16784 Figure 2: thought, tooluse, subtasks, conclusion; null fields left out) and
`flat_pieces` as plain lines with the same calls. Pieces are tokenised one by one, so that
structure and content never share a token and every prune boundary is a token boundary.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of a worked problem. `slip`: its argument is malformed and not to be
    learned."""

    tool: str
    parameter: str
    argument: str
    result: Mapping[str, str]
    slip: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """A task as it should be thought: its children come after its call, its conclusion last.

    `told`: flat text writes the thought although there is no call, since what follows needs it.
    """

    thought: str
    conclusion: str
    call: Call | None = None
    subtasks: tuple["Work", ...] = ()
    told: bool = False

    def walk(self) -> Iterator["Work"]:
        yield self
        for child in self.subtasks:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Problem:
    """A checkable problem. `level` is the size that tables are made over; `steps` counts calls."""

    family: str
    level: int
    prompt: str
    answer: str
    tool: str
    parameter: str
    results: Mapping[str, Mapping[str, str]]
    reasoning: tuple[Work, ...] = field(repr=False)

    @property
    def steps(self) -> int:
        return sum(1 for task in self.reasoning for work in task.walk() if work.call)

    @property
    def nodes(self) -> int:
        return sum(1 for task in self.reasoning for _ in task.walk())

    @property
    def depth(self) -> int:
        def below(work: Work) -> int:
            return 1 + max((below(child) for child in work.subtasks), default=0)

        return max(below(task) for task in self.reasoning)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text that is tokenised on its own.

    `fed` pieces are put in by the runtime, or not to be learned. `opens` and `closes` mark the
    contents of a subtask list; `owner_closed` marks the brace after which the list of that task
    may be pruned. `role` is the field that content stands in, "" for structure.
    """

    text: str
    fed: bool = False
    opens: bool = False
    closes: bool = False
    owner_closed: bool = False
    role: str = ""


def compact(value: Mapping[str, str]) -> str:
    """JSON as the runtime feeds it: no spaces, keys in order."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def tree_pieces(problem: Problem) -> Iterator[Piece]:
    """The Thread-2 text of a problem, piece by piece."""
    yield Piece('{"')
    yield Piece("reasoning")
    yield Piece('":')
    yield Piece("[")
    for place, task in enumerate(problem.reasoning):
        if place:
            yield Piece(",")
        yield from _task_pieces(task)
    yield Piece("]")
    yield Piece(',"')
    yield Piece("answer")
    yield Piece('":"')
    yield Piece(problem.answer, role="answer")
    yield Piece('"}')


def _task_pieces(task: Work) -> Iterator[Piece]:
    yield Piece('{"')
    yield Piece("thought")
    yield Piece('":"')
    yield Piece(task.thought, role="thought")
    bare = True  # the string of the thought is still open: its quote joins the next separator
    if task.call:
        yield from _call_pieces(task.call)
        bare = False
    if task.subtasks:
        yield Piece('","' if bare else ',"')
        yield Piece("subtasks")
        yield Piece('":')
        yield Piece("[", opens=True)
        for place, child in enumerate(task.subtasks):
            if place:
                yield Piece(",")
            yield from _task_pieces(child)
        yield Piece("]", closes=True)
        bare = False
    yield Piece('","' if bare else ',"')
    yield Piece("conclusion")
    yield Piece('":"')
    yield Piece(task.conclusion, role="conclusion")
    yield Piece('"}', owner_closed=bool(task.subtasks))


def _call_pieces(call: Call) -> Iterator[Piece]:
    yield Piece('","')
    yield Piece("tooluse")
    yield Piece('":')
    yield Piece('{"')
    yield Piece("tool_name")
    yield Piece('":"')
    yield Piece(call.tool, role="tool_name")
    yield Piece('","')
    yield Piece("parameters")
    yield Piece('":')
    yield Piece('{"')
    yield Piece(call.parameter)
    yield Piece('":"')
    yield Piece(call.argument, fed=call.slip, role="argument")
    yield Piece('"}', fed=call.slip)
    yield Piece(',"')
    yield Piece("tool_result")
    yield Piece('":')
    yield Piece(compact(call.result), fed=True, role="result")
    yield Piece("}")


def flat_pieces(problem: Problem) -> Iterator[Piece]:
    """The same work as lines of plain text: the fair control, same calls and same conclusions."""
    for task in problem.reasoning:
        yield from _flat_task(task)
    yield Piece("answer: ")
    yield Piece(problem.answer, role="answer")


def _flat_task(task: Work) -> Iterator[Piece]:
    if task.call:
        yield Piece(task.thought, role="thought")
        yield Piece(" ")
        yield Piece(f"{task.call.tool}(")
        yield Piece(task.call.argument, fed=task.call.slip, role="argument")
        yield Piece(")=>", fed=task.call.slip)
        yield Piece(compact(task.call.result), fed=True, role="result")
        yield Piece("\n")
    elif task.told or not task.subtasks:
        yield Piece(task.thought, role="thought")
        yield Piece("\n")
    for child in task.subtasks:
        yield from _flat_task(child)
    if task.call or not task.subtasks or task.conclusion != task.subtasks[-1].conclusion:
        # else the line above says it already
        yield Piece(task.conclusion, role="conclusion")
        yield Piece("\n")
