"""Problems whose later steps need what an earlier level knew, with conclusions of a fixed size.

A window over flat text loses exactly that: the caller's value, the remembered choice, the loop's
count. Each family is one function (level, random) -> Problem; the table of results is the tool's
whole knowledge, one call tells one node or line, and no call computes an answer. Labels are drawn
from `pool` at least, so that short problems can have those of long ones.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from workbench.tasks.gold import Call, Problem, Work

DIGIT_OPS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: (a + b) % 10,
    "sub": lambda a, b: (a - b) % 10,
    "max": max,
    "min": min,
}
WORDS = ("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "haven", "ivory", "jade")


class Labels:
    """Labels of three digits, each used once; of four where more than 900 are wanted."""

    def __init__(self, rng: random.Random, count: int) -> None:
        low = 100 if count <= 900 else 1000
        self._free = [str(n) for n in rng.sample(range(low, 10 * low), min(count, 9 * low))]

    def take(self) -> str:
        return self._free.pop()


def expression(level: int, rng: random.Random, pool: int = 0) -> Problem:
    """Evaluate an expression tree of `level` nodes (odd) modulo 10, a node a call.

    The value of a left child has to outlive the whole evaluation of the right one.
    """
    labels = Labels(rng, max(level, pool))
    results: dict[str, dict[str, str]] = {}

    def grow(nodes: int) -> tuple[str, int, Work]:
        label = labels.take()
        if nodes < 3:
            value = rng.randrange(10)
            results[label] = {"value": str(value)}
            call = Call("node", "id", label, results[label])
            return label, value, Work(label, str(value), call)
        op = rng.choice(list(DIGIT_OPS))
        left_nodes = rng.randrange(1, nodes - 1, 2)
        left, a, left_work = grow(left_nodes)
        right, b, right_work = grow(nodes - 1 - left_nodes)
        value = DIGIT_OPS[op](a, b)
        results[label] = {"op": op, "left": left, "right": right}
        call = Call("node", "id", label, results[label])
        return label, value, Work(label, f"{op} {a} {b}: {value}", call, (left_work, right_work))

    root, value, work = grow(level)
    prompt = f"Evaluate with the tool node, from {root}."
    return Problem("expression", level, prompt, str(value), "node", "id", results, (work,))


def blocks(level: int, rng: random.Random, pool: int = 0) -> Problem:
    """Run nested blocks over one digit; a block's result is folded into the value around it.

    `open OP v` begins a block at value v; its `close` gives r, and the outer value becomes
    OP(outer, r). `level` counts lines.
    """
    labels = Labels(rng, max(level, pool))
    results: dict[str, dict[str, str]] = {}
    lines = [labels.take() for _ in range(level)]
    place = 0

    def line() -> tuple[str, str]:
        nonlocal place
        place += 1
        return lines[place - 1], lines[place] if place < level else "end"

    def plain(value: int) -> tuple[int, Work]:
        label, after = line()
        op, v = rng.choice(list(DIGIT_OPS)), rng.randrange(10)
        out = DIGIT_OPS[op](value, v)
        results[label] = {"op": f"{op} {v}", "next": after}
        return out, Work(
            f"{label}: {value}", f"{after}: {out}", Call("line", "n", label, results[label])
        )

    def block(value: int, budget: int) -> tuple[int, Work]:
        label, inner = line()
        op, start = rng.choice(list(DIGIT_OPS)), rng.randrange(10)
        results[label] = {"op": f"open {op} {start}", "next": inner}
        result, children = body(start, budget - 2)
        closing, after = line()
        results[closing] = {"op": "close", "next": after}
        call = Call("line", "n", closing, results[closing])
        children.append(Work(f"{closing}: {result}", f"close {after}: {result}", call))
        out = DIGIT_OPS[op](value, result)
        opening = Call("line", "n", label, results[label])
        text = f"{op} {value} {result}, {after}: {out}"
        return out, Work(f"{label}: {value}", text, opening, tuple(children))

    def body(value: int, budget: int) -> tuple[int, list[Work]]:
        works: list[Work] = []
        while budget > 0:
            # a block needs three lines; few siblings, so that depth carries the length
            room = 5 - len(works)
            inner = budget if room <= 1 else rng.randint(3, max(3, budget))
            if budget >= 3 and (rng.random() < 0.5 or budget > 4 * max(room, 1)):
                inner = min(inner, budget)
                value, work = block(value, inner)
                budget -= inner
            else:
                value, work = plain(value)
                budget -= 1
            works.append(work)
        return value, works

    start = rng.randrange(10)
    end, works = body(start, level)
    prompt = f"Run the blocks with the tool line, from {lines[0]}. Start: {start}"
    return Problem("blocks", level, prompt, str(end), "line", "n", results, tuple(works))


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a program: an operation, or a loop whose `body` ends in the line `back`."""

    op: str
    operand: int
    label: str = ""
    after: str = ""  # label of the line that follows, "end" for none
    body: tuple["_Line", ...] = ()
    back: str = ""

    def executed(self) -> int:
        """Lines that run when this one does."""
        return (
            1
            + sum(self.operand * line.executed() for line in self.body)
            + self.operand * bool(self.body)
        )


def loops(level: int, rng: random.Random, pool: int = 0) -> Problem:
    """Run nested counted loops over one digit. `level` counts executed lines, roughly.

    How often a loop has run is known one level up, not in the line at hand.
    """
    labels = Labels(rng, max(900, pool))
    results: dict[str, dict[str, str]] = {}

    def draw(budget: int) -> tuple[_Line, ...]:
        body: list[_Line] = []
        while budget > 0 and len(body) < 3:
            line = _Line(rng.choice(list(DIGIT_OPS)), rng.randrange(10))
            if budget >= 6 and (rng.random() < 0.6 or len(body) == 2):
                times = rng.randint(2, 4)
                line = _Line("loop", times, body=draw(max(1, (budget - 1) // times - 1)))
            body.append(line)
            budget -= line.executed()
        return tuple(body)

    def label(body: tuple[_Line, ...], after: str) -> tuple[_Line, ...]:
        placed: list[_Line] = []
        for line in reversed(body):  # a line has to know the next
            line = replace(line, label=labels.take(), after=after)
            inner = after
            if line.body:
                back = labels.take()
                line = replace(line, back=back, body=label(line.body, back))
                results[back] = {"op": "back", "next": after}
                inner = line.body[0].label
            results[line.label] = {"op": f"{line.op} {line.operand}", "next": inner}
            placed.insert(0, line)
            after = line.label
        return tuple(placed)

    def call(at: str) -> Call:
        return Call("line", "n", at, results[at])

    def run(body: tuple[_Line, ...], value: int) -> tuple[int, tuple[Work, ...]]:
        works: list[Work] = []
        for line in body:
            entered = value
            rounds: tuple[Work, ...] = ()
            if line.body:
                value, rounds = repeat(line, value)
            else:
                value = DIGIT_OPS[line.op](value, line.operand)
            said = f"{line.after}: {value}"
            works.append(Work(f"{line.label}: {entered}", said, call(line.label), rounds))
        return value, tuple(works)

    def repeat(line: _Line, value: int) -> tuple[int, tuple[Work, ...]]:
        rounds: list[Work] = []
        for turn in range(1, line.operand + 1):
            count = f"{turn} of {line.operand}"
            thought = f"{count} from {line.body[0].label}: {value}"
            value, inner = run(line.body, value)
            back = Work(f"{line.back}: {value}", f"back {line.after}: {value}", call(line.back))
            # the label has to leave the round, or it would be pruned with the line that told it
            said = f"{count} back {line.after}: {value}"
            rounds.append(Work(thought, said, None, (*inner, back)))
        return value, tuple(rounds)

    start = rng.randrange(10)
    program = label(draw(level), "end")
    end, works = run(program, start)
    prompt = f"Run the loops with the tool line, from {program[0].label}. Start: {start}"
    return Problem("loops", level, prompt, str(end), "line", "n", results, works)


def maze(level: int, rng: random.Random, pool: int = 0) -> Problem:
    """Find the word behind the doors of a maze of `level` rooms, first door first.

    When a door leads nowhere, the doors not yet tried are known only to the room that named them.
    """
    labels = Labels(rng, max(level, pool))
    results: dict[str, dict[str, str]] = {}
    word = rng.choice(WORDS)

    def room(rooms: int, holds: bool) -> tuple[str, Work]:
        label = labels.take()
        if rooms < 2:
            results[label] = {"end": word if holds else "dead"}
            end = results[label]["end"]
            return label, Work(label, end, Call("room", "id", label, results[label]))
        doors = min(rng.randint(1, 3), rooms - 1)
        cuts = sorted(rng.sample(range(1, rooms - 1), doors - 1)) if doors > 1 else []
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, rooms - 1], strict=True)]
        lucky = rng.choices(range(doors), weights=[d + 1 for d in range(doors)])[0] if holds else -1
        children = [room(size, door == lucky) for door, size in enumerate(sizes)]
        results[label] = {"doors": " ".join(name for name, _ in children)}
        tried = children[: lucky + 1] if holds else children
        call = Call("room", "id", label, results[label])
        end = word if holds else "dead"
        return label, Work(label, end, call, tuple(work for _, work in tried))

    root, work = room(level, True)
    prompt = f"Find the word with the tool room, from {root}."
    return Problem("maze", level, prompt, word, "room", "id", results, (work,))


FAMILIES: dict[str, Callable[..., Problem]] = {
    "expression": expression,
    "blocks": blocks,
    "loops": loops,
    "maze": maze,
}
