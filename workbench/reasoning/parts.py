"""What may stand in a list of tasks: an expression over task types, and the automaton of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_COUNT = 64  # of a bounded list: each place is a state


class StructureError(ValueError):
    """A declaration that cannot be; says where, what was wanted, what came, what to do."""


@dataclass(frozen=True, slots=True)
class One:
    """One task of the type `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """All of them, in this order: a tuple."""

    parts: "tuple[Part, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them: a union."""

    parts: "tuple[Part, ...]"


@dataclass(frozen=True, slots=True)
class Many:
    """`least` to `most` times: a list. `most` None has no bound; 0 to 1 is an optional part."""

    part: "Part"
    least: int = 1
    most: int | None = None


Part = One | Sequence | Choice | Many


def names(part: Part) -> Iterator[str]:
    match part:
        case One(name):
            yield name
        case Sequence(parts) | Choice(parts):
            for inner in parts:
                yield from names(inner)
        case Many(inner):
            yield from names(inner)


def part_json(part: Part) -> Any:
    match part:
        case One(name):
            return name
        case Sequence(parts):
            return {"sequence": [part_json(inner) for inner in parts]}
        case Choice(parts):
            return {"choice": [part_json(inner) for inner in parts]}
        case Many(inner, least, most):
            return {"list": part_json(inner), "least": least, "most": most}


def read_part(value: Any, where: str) -> Part:
    """From `part_json`'s form. Raises StructureError."""
    if isinstance(value, str):
        return One(value)
    if (
        isinstance(value, Mapping)
        and len(kind := value.keys() & {"sequence", "choice", "list"}) == 1
    ):
        [name] = kind
        inner = value[name]
        if name == "list":
            least, most = value.get("least", 1), value.get("most")
            return checked(Many(read_part(inner, where), least, most), where)
        if isinstance(inner, list | tuple):
            parts = tuple(read_part(one, f"{where}.{i + 1}") for i, one in enumerate(inner))
            return checked(Sequence(parts) if name == "sequence" else Choice(parts), where)
    raise StructureError(
        f'{where}: a task type\'s name, {{"sequence": […]}}, {{"choice": […]}} or {{"list": …}} is'
        f" wanted, {value!r} came"
    )


def checked(part: Part, where: str) -> Part:
    match part:
        case Sequence(()) | Choice(()):
            raise StructureError(
                f"{where}: an empty {type(part).__name__.lower()} came; put a task type into it,"
                " or leave the subtasks out"
            )
        case Many(_, least, most):
            whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (least, most or 1))
            if not whole or not 0 <= least <= (MAX_COUNT if most is None else most):
                raise StructureError(
                    f"{where}: a list of {least!r} to {most!r} came; two whole numbers, the first"
                    " no greater than the second, are wanted"
                )
            if most is not None and not 1 <= most <= MAX_COUNT:
                raise StructureError(
                    f"{where}: a list of at most {most} came; 1 to {MAX_COUNT}, or no bound, is"
                    " wanted"
                )
    return part


@dataclass(frozen=True, slots=True)
class Automaton:
    """Deterministic, over type names. State 0 is the beginning."""

    next: tuple[Mapping[str, int], ...]
    accepting: frozenset[int]


class _Net:
    """A nondeterministic automaton with empty moves (Thompson's construction)."""

    def __init__(self) -> None:
        self.empty: list[set[int]] = []
        self.moves: list[list[tuple[str, int]]] = []

    def state(self) -> int:
        self.empty.append(set())
        self.moves.append([])
        return len(self.empty) - 1

    def add(self, part: Part, start: int) -> int:
        """Lay `part` from `start` on; its end."""
        match part:
            case One(name):
                end = self.state()
                self.moves[start].append((name, end))
                return end
            case Sequence(parts):
                for inner in parts:
                    start = self.add(inner, start)
                return start
            case Choice(parts):
                end = self.state()
                for inner in parts:
                    begin = self.state()
                    self.empty[start].add(begin)
                    self.empty[self.add(inner, begin)].add(end)
                return end
            case Many(inner, least, most):
                return self._many(inner, least, most, start)

    def _many(self, inner: Part, least: int, most: int | None, start: int) -> int:
        for _ in range(least):
            start = self.add(inner, start)
        end = self.state()
        self.empty[start].add(end)
        if most is None:
            begin = self.state()
            self.empty[start].add(begin)
            again = self.add(inner, begin)
            self.empty[again] |= {begin, end}
            return end
        for _ in range(most - least):
            start = self.add(inner, start)
            self.empty[start].add(end)
        return end

    def closed(self, states: set[int]) -> frozenset[int]:
        found, new = set(states), list(states)
        while new:
            for state in self.empty[new.pop()] - found:
                found.add(state)
                new.append(state)
        return frozenset(found)


def automaton(part: Part) -> Automaton:
    """Which type may come next in a list, whatever the expression left open before."""
    net = _Net()
    begin = net.state()
    end = net.add(part, begin)
    sets = [net.closed({begin})]
    table: list[dict[str, int]] = []
    while len(table) < len(sets):
        reached: dict[str, set[int]] = {}
        for state in sets[len(table)]:
            for name, to in net.moves[state]:
                reached.setdefault(name, set()).add(to)
        row = {}
        for name, states in sorted(reached.items()):
            closed = net.closed(states)
            if closed not in sets:
                sets.append(closed)
            row[name] = sets.index(closed)
        table.append(row)
    return Automaton(tuple(table), frozenset(i for i, one in enumerate(sets) if end in one))
