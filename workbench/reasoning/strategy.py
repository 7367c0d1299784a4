"""What a strategy is: an asynchronous function from a task to an answer, with a dataclass of
parameters.

A strategy speaks to the runtime through its `Context`: the engine's verbs bound to one request,
the tree, tools, notes and budgets. It never sees tensors of the pool, threads or the recorder.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from workbench.engine.protocols import (
    GREEDY,
    NOTHING,
    Decoded,
    Fed,
    Matcher,
    Monitor,
    Peek,
    PruneReport,
    Sampler,
    Until,
    Want,
)
from workbench.reasoning.structures import Structure
from workbench.reasoning.tree import Node, Tree
from workbench.tools.contract import Outcome, Tool
from workbench.words import Finish, NodeId, Origin, PruneMode


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is asked. `ids` is the prompt as tokens, chat template applied, where somebody fixed
    it."""

    prompt: str
    tools: tuple[Tool, ...] = ()
    ids: tuple[int, ...] | None = None

    def tool(self, name: str) -> Tool | None:
        return next((tool for tool in self.tools if tool.name == name), None)


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    finish: Finish = Finish.STOP
    error: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a stretch of work may spend at most. None: no limit of its own; outer ones still
    hold."""

    sampled: int | None = None  # tokens
    computed: int | None = None  # tokens run through the net, re-encoded ones included
    scorer: int | None = None  # tokens that scorers read
    seconds: float | None = None
    pages: int | None = None  # held by the request at one time


class BudgetSpent(Exception):
    """A budget is used up; the run ends with `Finish.BUDGET` unless the strategy catches it."""


class Context(Protocol):
    """The runtime as a strategy sees it. Verbs are the engine's, bound to this run's request."""

    tree: Tree
    seed: int

    # text
    def encode(self, text: str) -> list[int]: ...
    def text(self, ids: Sequence[int]) -> str: ...
    def token_bytes(self, token: int) -> bytes: ...
    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]: ...
    def is_end(self, token: int) -> bool: ...

    # verbs
    async def open(
        self, prompt: str | Sequence[int], *, adapter: str | None = None, scale: float = 1.0
    ) -> Any: ...
    async def fork(self, branch: Any, n: int = 1, *, at: int | None = None) -> list[Any]: ...
    async def feed(
        self,
        branch: Any,
        what: str | Sequence[int],
        *,
        origin: Origin = Origin.FED,
        want: Want = NOTHING,
    ) -> Fed: ...
    async def decode(
        self,
        branches: Any,
        *,
        until: Until,
        sampler: Sampler = GREEDY,
        grammar: Matcher | Sequence[Matcher | None] | None = None,
        monitor: Monitor | None = None,
        want: Want = NOTHING,
    ) -> list[Decoded]: ...
    async def peek(self, branch: Any, want: Want) -> Peek: ...
    def drop(self, branches: Any, reason: str) -> None: ...
    async def prune(
        self,
        branch: Any,
        spans: Sequence[tuple[int, int]],
        *,
        mode: PruneMode = PruneMode.REENCODE,
        node: NodeId | None = None,
        cause: str = "strategy",
    ) -> PruneReport: ...

    # services
    def has_adapter(self, name: str) -> bool: ...
    def tree_matcher(
        self,
        tools: Sequence[Tool],
        max_depth: int,
        max_text: int | None,
        structure: Structure | None = None,
    ) -> Matcher: ...
    async def tool(
        self, node: Node, branch: Any, tool: Tool | None, name: str, arguments: Any
    ) -> Outcome: ...
    def note(self, text: str, node: Node | None = None) -> None: ...
    def budget(self, **limits: float) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Strategy:
    """Subclasses are frozen dataclasses; each field is a parameter with a default, shown in
    forms."""

    name: ClassVar[str] = ""

    async def run(self, ctx: Context, task: Task) -> Answer:
        raise NotImplementedError

    async def go_on(
        self, ctx: Context, task: Task, branch: Any, start: int, at: int | None = None
    ) -> Answer:
        """Continue from a branch whose stream [start, …) was produced before: a fork or an edit
        that left its parent's stream before token `at`, or (None) a killed run that was fed
        again."""
        raise NotImplementedError(
            f"strategy {self.name!r} cannot go on from a branch; tim and chain can"
        )

    def objection(self, ctx: Context, task: Task, emitted: Sequence[int]) -> str:
        """Why it could not go on from these tokens of its own; empty when it could."""
        return ""


class UnknownStrategy(ValueError):
    """No such strategy, or no such parameter of it; names the near ones."""


_S = TypeVar("_S", bound=Strategy)
_REGISTRY: dict[str, type[Strategy]] = {}


def register(cls: type[_S]) -> type[_S]:
    _REGISTRY[cls.name] = cls
    return cls


def strategies() -> dict[str, type[Strategy]]:
    """Every strategy by name."""
    return dict(_REGISTRY)


def make_strategy(name: str, params: Mapping[str, Any]) -> Strategy:
    """The strategy `name` with `params`; texts from a command line are read as the field's type."""
    if name not in _REGISTRY:
        raise UnknownStrategy(f"strategy {name!r} is not known; {_near(name, _REGISTRY)}")
    cls = _REGISTRY[name]
    hints = typing.get_type_hints(cls)
    known = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    values = {}
    for key, value in params.items():
        if key not in known:
            raise UnknownStrategy(
                f"strategy {name!r} has no parameter {key!r}; {_near(key, known)}"
            )
        values[key] = _read(value, known[key], f"{name}.{key}")
    return cls(**values)


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, 3, 0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(sorted(known)) or 'none'}"


def _read(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`. Raises UnknownStrategy where it is none."""
    options = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (types.UnionType, typing.Union)
        else (hint,)
    )
    for option in options:
        if option is type(None):
            if value is None or (
                isinstance(value, str) and value.lower() in ("none", "inf", "null")
            ):
                return None
        elif typing.get_origin(option) is typing.Literal:
            if value in typing.get_args(option):
                return value
        elif option is Structure:
            if value not in (None, "none", "null"):
                return Structure.read(value)
        elif option is bool:
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in ("true", "false"):
                return value.lower() == "true"
        elif isinstance(option, type):
            try:
                if option is str and isinstance(value, str):
                    return value
                if (
                    option is not str
                    and not isinstance(value, bool)
                    and option(value) == (value if not isinstance(value, str) else option(value))
                ):
                    return option(value)
            except (TypeError, ValueError):
                continue
    names = " or ".join(_shown(option) for option in options)
    raise UnknownStrategy(f"{where}: {names} is wanted, {value!r} came")


def _shown(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return " or ".join(map(str, typing.get_args(option)))
    return "none" if option is type(None) else str(getattr(option, "__name__", option))


def at_least(least: int, strategy: Strategy, *names: str) -> None:
    """Raise ValueError where one of these parameters is a smaller number."""
    for name in names:
        value = getattr(strategy, name)
        if value is not None and value < least:
            raise ValueError(f"{strategy.name}.{name}: at least {least} is wanted, {value} came")
