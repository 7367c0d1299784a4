"""The grammar of a tree whose tasks have types: each list follows an automaton over them.

Same text as `tree_grammar`'s. Where a list leaves a choice between types, a task begins with its
type's name: `{"title":"NAME","thought":…`; where it leaves none, the name is left out. A type is
offered only where the levels that are left suffice to end it, so that no tree can be stuck.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from workbench.engine.grammar import GrammarError, Vocabulary
from workbench.engine.tree_grammar import Place, Rule, Stack, TreeGrammar, TreeShape

ROOT = -1  # the type of the root's frame
CLOSED = -1  # state of a list that is not open


@dataclass(frozen=True, slots=True, eq=False)
class ListShape:
    """A deterministic automaton over types, by their place; state 0 is the beginning."""

    next: tuple[Mapping[int, int], ...]
    accepting: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class TypeShape:
    """A type of task. `tools` are places in the shape's tools; `height`: levels it needs."""

    name: str
    tools: tuple[int, ...]
    must_call: bool
    subtasks: ListShape | None
    height: int


class TypedGrammar(TreeGrammar):
    """Matchers are `tree_grammar`'s own."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        shape: TreeShape,
        types: tuple[TypeShape, ...],
        reasoning: ListShape,
    ) -> None:
        super().__init__(vocabulary, shape)
        self.types, self.reasoning = types, reasoning
        self._ends = cache(self._ends_within)
        if not self._items(reasoning, 0, shape.max_depth):
            raise GrammarError(
                f"structure: its trees do not end within max_depth {shape.max_depth}; allow more"
            )

    def _make(self, place: Place, depth: int, stack: Stack) -> list[Rule]:
        match place:
            case Place.START:
                head = ['{"', "reasoning", '":', "["]
                return self._begin(head, self.reasoning, 0, ((ROOT, 0),))
            case Place.THOUGHT:
                kind = self.types[stack[-1][0]]
                calls = self._typed_calls(stack)
                return calls if kind.must_call else [*calls, *self._then(['","'], stack)]
            case Place.RESULT:
                return self._then(["}", ',"'], stack)
            case Place.CONCLUSION:
                return self._next(stack)
            case Place.PARAMETERS:
                tail = [',"', "tool_result", '":']
                return [self._typed(tail, Place.RESULT, stack)]
        return super()._make(place, depth, stack)

    def _typed_calls(self, stack: Stack) -> list[Rule]:
        kind = self.types[stack[-1][0]]
        calls = self._calls(len(stack) - 1)
        return [
            Rule(calls[i].tokens, Place.PARAMETERS, len(stack) - 1, i, stack) for i in kind.tools
        ]

    def _then(self, head: list[str], stack: Stack) -> list[Rule]:
        """Behind thought and call: the subtasks where there are some, else the conclusion."""
        below = self.types[stack[-1][0]].subtasks
        if below is None:
            return [self._conclude(head, stack)]
        rules = self._begin([*head, "subtasks", '":', "["], below, 0, stack)
        return [*rules, self._conclude(head, stack)] if 0 in below.accepting else rules

    def _conclude(self, head: list[str], stack: Stack) -> Rule:
        closed = (*stack[:-1], (stack[-1][0], CLOSED))
        return self._typed([*head, "conclusion", '":"'], Place.CONCLUSION, closed)

    def _next(self, stack: Stack) -> list[Rule]:
        """Behind a conclusion: the next task of the list above, or the list's end."""
        above = stack[:-1]
        kind, state = above[-1]
        machine = self.reasoning if kind == ROOT else self.types[kind].subtasks
        assert machine is not None
        rules = self._begin(['"}', ","], machine, state, above)
        if state not in machine.accepting:
            return rules
        end = ['"}', "]", ',"']
        if kind != ROOT:
            return [*rules, self._conclude(end, above)]
        answer = ["answer", '":"' if self.answer is None else '":']
        return [*rules, self._typed([*end, *answer], Place.ANSWER, above)]

    def _begin(self, head: list[str], machine: ListShape, state: int, stack: Stack) -> list[Rule]:
        """A rule for each type that may come next in the list of the stack's last frame."""
        room = self.shape.max_depth - (len(stack) - 1)
        named = len(machine.next[state]) > 1
        rules = []
        for kind, to in self._items(machine, state, room):
            title = ["title", '":"', self.types[kind].name, '","'] if named else []
            inner = (*stack[:-1], (stack[-1][0], to), (kind, CLOSED))
            pieces = [*head, '{"', *title, "thought", '":"']
            rules.append(self._typed(pieces, Place.THOUGHT, inner))
        return rules

    def _items(self, machine: ListShape, state: int, room: int) -> list[tuple[int, int]]:
        """Types that may come next, and the state behind each, with `room` levels left."""
        return [
            (kind, to)
            for kind, to in machine.next[state].items()
            if self.types[kind].height <= room and to in self._ends(machine, room)
        ]

    def _ends_within(self, machine: ListShape, room: int) -> frozenset[int]:
        """States from which the list can end with types that fit into `room` levels."""
        found = set(machine.accepting)
        grown = True
        while grown:
            new = {
                state
                for state, row in enumerate(machine.next)
                if any(to in found and self.types[k].height <= room for k, to in row.items())
            }
            grown = not new <= found
            found |= new
        return frozenset(found)

    def _typed(self, pieces: list[str], to: Place, stack: Stack) -> Rule:
        return Rule(self._rule(pieces, to, 0).tokens, to, len(stack) - 1, None, stack)
