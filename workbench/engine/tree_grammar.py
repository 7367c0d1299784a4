"""The grammar of a Thread-2 tree (2507.16784), aware of depth, structure and content tokenised
apart.

    {"reasoning":[TASK,…],"answer":"…"}
    TASK = {"thought":"…"[,"tooluse":{"tool_name":"…","parameters":{…},"tool_result":…}]
            [,"subtasks":[TASK,…]],"conclusion":"…"}

Fields stand in this order and are absent when null; separators are compact. Each piece of
structure is the tokenizer's own encoding of that piece, so no token straddles a list's bracket and
a prune boundary is a token boundary. After a task's `]` only `conclusion` is legal, `answer` only
at the root. Parameters are typed by the tool's schema; `tool_result` is any JSON value, put in by
the runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from workbench.engine.grammar import (
    GrammarError,
    GrammarMatcher,
    Mask,
    Schema,
    Vocabulary,
    allow,
    compile_schema,
)
from workbench.engine.strings import strings_of


class Place(IntEnum):
    """Where in the tree the stream stands: the content whose tokens come next."""

    START = 0
    THOUGHT = 1
    PARAMETERS = 2
    RESULT = 3
    CONCLUSION = 4
    ANSWER = 5
    END = 6  # an end token, which stands in the stream
    DONE = 7


Stack = tuple[tuple[int, int], ...]
"""Open lists and tasks of a typed tree, from the root down: (type, state of its list)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A run of structure tokens and the content behind it."""

    tokens: tuple[int, ...]
    to: Place
    depth: int  # open tasks behind it
    tool: int | None = None
    stack: Stack = ()


class State(NamedTuple):
    """Where a stream stands. A tuple, since one is made for each token."""

    place: Place = Place.START
    depth: int = 0
    tool: int | None = None
    text: int = 0  # state of the string automaton
    length: int = 0  # content tokens so far
    value: tuple[int, ...] = ()  # tokens of a JSON value so far
    rules: tuple[Rule, ...] = ()  # candidates while a run of structure is under way
    at: int = 0  # their tokens already seen
    stack: Stack = ()

    def to(
        self, text: int, length: int, value: tuple[int, ...], rules: tuple[Rule, ...] = (),
        at: int = 0,
    ) -> "State":  # fmt: skip
        """At the same place, a token on."""
        return State(
            self.place, self.depth, self.tool, text, length, value, rules, at, self.stack
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolShape:
    """Name of a tool and the JSON schema of its parameters."""

    name: str
    parameters: Schema


@dataclass(frozen=True, slots=True)
class TreeShape:
    """What trees may look like. `max_text` bounds the tokens of one string."""

    tools: tuple[ToolShape, ...] = ()
    max_depth: int = 5
    max_text: int | None = None
    answer: Schema | None = None  # None: a string


class TreeGrammar:
    """The rules of a shape over one vocabulary; matchers of one grammar share them."""

    def __init__(self, vocabulary: Vocabulary, shape: TreeShape = TreeShape()) -> None:
        if shape.max_depth < 1:
            raise GrammarError(f"tree: max_depth {shape.max_depth} came; at least 1 is wanted")
        self.vocabulary = vocabulary
        self.shape = shape
        self.strings = strings_of(vocabulary)
        self.schemas = [compile_schema(tool.parameters) for tool in shape.tools]
        self.any_json = compile_schema({})
        self.answer = None if shape.answer is None else compile_schema(shape.answer)
        self._values: dict[str, GrammarMatcher] = {}
        self._rules: dict[tuple[Place, int, Stack], tuple[Rule, ...]] = {}

    def matcher(self) -> "TreeMatcher":
        return TreeMatcher(self)

    def value(self, schema: str) -> GrammarMatcher:
        """A matcher at the beginning of a value of `schema`."""
        if schema not in self._values:
            self._values[schema] = GrammarMatcher(self.vocabulary, schema, "JSON value")
        return self._values[schema].copy()

    def rules(self, state: State) -> tuple[Rule, ...]:
        key = (state.place, state.depth, state.stack)
        if key not in self._rules:
            self._rules[key] = tuple(self._make(*key))
        return self._rules[key]

    def _make(self, place: Place, depth: int, stack: Stack) -> list[Rule]:
        item = ['{"', "thought", '":"']
        answer = ["answer", '":"' if self.answer is None else '":']
        if place is Place.START:
            return [self._rule(['{"', "reasoning", '":', "[", *item], Place.THOUGHT, 1)]
        if place is Place.THOUGHT:
            return [*self._calls(depth), *self._after(['","'], depth)]
        if place is Place.PARAMETERS:
            return [self._rule([',"', "tool_result", '":'], Place.RESULT, depth)]
        if place is Place.RESULT:
            return self._after(["}", ',"'], depth)
        if place is Place.CONCLUSION:
            up = ["conclusion", '":"'] if depth > 1 else answer
            to = Place.CONCLUSION if depth > 1 else Place.ANSWER
            return [
                self._rule(['"}', ",", *item], Place.THOUGHT, depth),
                self._rule(['"}', "]", ',"', *up], to, depth - 1),
            ]
        if place is Place.ANSWER:
            return [self._rule(['"}' if self.answer is None else "}"], Place.END, 0)]
        return []

    def _after(self, head: list[str], depth: int) -> list[Rule]:
        down = [*head, "subtasks", '":', "[", '{"', "thought", '":"']
        deeper = (
            [self._rule(down, Place.THOUGHT, depth + 1)] if depth < self.shape.max_depth else []
        )
        return [*deeper, self._rule([*head, "conclusion", '":"'], Place.CONCLUSION, depth)]

    def _calls(self, depth: int) -> list[Rule]:
        head = ['","', "tooluse", '":', '{"', "tool_name", '":"']
        return [
            self._rule([*head, tool.name, '","', "parameters", '":'], Place.PARAMETERS, depth, i)
            for i, tool in enumerate(self.shape.tools)
        ]

    def _rule(self, pieces: list[str], to: Place, depth: int, tool: int | None = None) -> Rule:
        tokens = [token for piece in pieces for token in self.vocabulary.encode(piece)]
        return Rule(tuple(tokens), to, depth, tool)


class TreeMatcher:
    """Follows the full emitted stream of one tree, tool results included; what is pruned does not
    matter.

    States are values, so that a copy or a rollback of any length is cheap; the live llguidance
    matcher inside a JSON value is rebuilt from the value's few tokens where it does not fit.
    """

    def __init__(self, grammar: TreeGrammar, history: Sequence[State] = (State(),)) -> None:
        self.grammar = grammar
        self._history = list(history)
        self._live: GrammarMatcher | None = None
        self._live_for: tuple[Place, int | None, tuple[int, ...]] | None = None

    @property
    def state(self) -> State:
        return self._history[-1]

    @property
    def finished(self) -> bool:
        return self.state.place is Place.DONE

    @property
    def wants_result(self) -> bool:
        """The stream stands right behind `"tool_result":`."""
        state = self.state
        return state.place is Place.RESULT and not state.rules and not state.value

    def fill(self, row: Mask) -> None:
        value = self._begin(row)
        if value is not None:
            value.fill(row)
            self._complete(row, value)

    @staticmethod
    def fill_many(matchers: "Sequence[TreeMatcher]", rows: Sequence[Mask]) -> None:
        """`fill` of each; those inside a JSON value together."""
        inside = [(m, row, m._begin(row)) for m, row in zip(matchers, rows, strict=True)]
        values = [(m, row, value) for m, row, value in inside if value is not None]
        GrammarMatcher.fill_many([value for *_, value in values], [row for _, row, _ in values])
        for matcher, row, value in values:
            matcher._complete(row, value)

    def _begin(self, row: Mask) -> GrammarMatcher | None:
        """Fill `row`, but for a JSON value that goes on: then that value's matcher."""
        state = self.state
        row[:] = 0
        if state.rules:
            allow(row, [rule.tokens[state.at] for rule in state.rules])
            return None
        if state.place >= Place.END:
            allow(row, sorted(self.grammar.vocabulary.eos))
            return None
        leave = True
        if self._is_text(state):
            leave = state.text == 0
            if self._goes_on(state):
                row[:] = self.grammar.strings.mask(state.text)
        elif state.place is not Place.START:
            value = self._value(state)
            if not value.finished:
                return value
            leave = value.accepting
        if leave:
            self._leave(row)
        return None

    def _complete(self, row: Mask, value: GrammarMatcher) -> None:
        """The rest of `row` once `value` has filled it."""
        row &= self.grammar.vocabulary.no_end
        if value.accepting:
            self._leave(row)

    def _leave(self, row: Mask) -> None:
        allow(row, [rule.tokens[0] for rule in self.grammar.rules(self.state)])

    def consume(self, token: int) -> None:
        self._history.append(self._next(self.state, token))

    def rollback(self, n: int) -> None:
        if not 0 <= n < len(self._history):
            raise GrammarError(f"tree: cannot take back {n} tokens, {len(self._history) - 1} came")
        del self._history[len(self._history) - n :]

    def copy(self) -> "TreeMatcher":
        return TreeMatcher(self.grammar, self._history)

    def _next(self, state: State, token: int) -> State:
        if state.rules:
            return self._follow(state, state.rules, state.at, token)
        if state.place >= Place.END:
            if token in self.grammar.vocabulary.eos:
                return State(Place.DONE)
            raise self._refuse(state, token)
        if self._is_text(state):
            text = self.grammar.strings.after(state.text, token)
            if text is not None and self._goes_on(state):
                return state.to(text, state.length + 1, state.value)
            if state.text != 0:
                raise self._refuse(state, token)
        elif state.place is not Place.START:
            value = self._value(state)
            ends = value.finished or token in self.grammar.vocabulary.eos
            if not ends and value.advance(token):
                longer = (*state.value, token)
                self._live_for = (state.place, state.tool, longer)
                return state.to(state.text, state.length + 1, longer)
            if not value.accepting:
                raise self._refuse(state, token)
        return self._follow(state, self.grammar.rules(state), 0, token)

    def _follow(self, state: State, rules: tuple[Rule, ...], at: int, token: int) -> State:
        left = tuple(rule for rule in rules if rule.tokens[at] == token)
        if not left:
            raise self._refuse(state, token)
        done = next((rule for rule in left if len(rule.tokens) == at + 1), None)
        if done is not None:
            return State(done.to, done.depth, done.tool, stack=done.stack)
        return state.to(state.text, state.length, state.value, left, at + 1)

    def _goes_on(self, state: State) -> bool:
        """A string may have more content: it is not too long, or stands inside a character."""
        limit = self.grammar.shape.max_text
        return state.text != 0 or limit is None or state.length < limit

    def _is_text(self, state: State) -> bool:
        if state.place is Place.ANSWER:
            return self.grammar.answer is None
        return state.place in (Place.THOUGHT, Place.CONCLUSION)

    def _value(self, state: State) -> GrammarMatcher:
        key = (state.place, state.tool, state.value)
        if self._live is None or self._live_for != key:
            self._live = self.grammar.value(self._schema(state))
            for token in state.value:
                self._live.consume(token)
            self._live_for = key
        return self._live

    def _schema(self, state: State) -> str:
        if state.place is Place.PARAMETERS:
            assert state.tool is not None
            return self.grammar.schemas[state.tool]
        if state.place is Place.ANSWER and self.grammar.answer is not None:
            return self.grammar.answer
        return self.grammar.any_json

    def _refuse(self, state: State, token: int) -> GrammarError:
        tokens = self.grammar.vocabulary.tokens
        came = tokens[token] if 0 <= token < len(tokens) else token
        rules = state.rules or self.grammar.rules(state)
        wanted = [tokens[rule.tokens[state.at]] for rule in rules]
        return GrammarError(
            f"tree: token {came!r} cannot stand at {state.place.name.lower()}, depth {state.depth},"
            f" token {len(self._history) - 1} of the tree; structure allowed there: {wanted}"
        )
