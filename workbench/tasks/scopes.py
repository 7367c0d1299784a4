"""Programs whose lines depend on the scope around them: what a caller knew, which bound holds.

As in `nested`, no window over flat text can serve these: after a return the caller's value, its
operation and its next line are needed, after a group the bound that held before it. One call tells
one line.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from workbench.tasks.gold import Call, Problem, Work
from workbench.tasks.nested import DIGIT_OPS, Labels

SIBLINGS = 4  # lines of a body at most, so that depth carries the length


@dataclass(slots=True)
class _Body:
    """A procedure: `lines` of operation, operand and, for a call, the procedure that it calls."""

    lines: list[tuple[str, int, "_Body | None"]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # of the lines and of the return
    size: int = 0  # lines that run when it is called


def calls(level: int, rng: random.Random, pool: int = 0) -> Problem:
    """Run procedures that call one another, about `level` lines in all.

    `call OP v` at P runs P from the value v until it returns r; the caller's value becomes
    OP(value, r) and its next line follows. The line that returns does not know to whom.
    """
    taken = Labels(rng, max(900, pool))
    known: list[_Body] = []

    def draw(budget: int) -> _Body:
        body = _Body()
        while budget > 0:
            op, operand = rng.choice(list(DIGIT_OPS)), rng.randrange(10)
            callee, last = None, len(body.lines) == SIBLINGS - 1
            if budget >= 3 and (last or rng.random() < 0.5):
                callee = reuse(budget) or draw(
                    budget - 2 if last else rng.randint(1, max(1, budget - 2))
                )
            body.lines.append((op, operand, callee))
            cost = 1 + (callee.size if callee else 0)
            body.size += cost
            budget -= cost
            if last:
                break
        body.size += 1
        body.labels = [taken.take() for _ in range(len(body.lines) + 1)]
        known.append(body)
        return body

    def reuse(budget: int) -> _Body | None:
        fitting = [body for body in known if budget // 3 <= body.size <= budget]
        return rng.choice(fitting) if fitting and rng.random() < 0.5 else None

    main = draw(max(1, level - 1))
    results: dict[str, dict[str, str]] = {}
    for body in known:
        for place, (op, operand, callee) in enumerate(body.lines):
            row = {"op": f"{op} {operand}", "next": body.labels[place + 1]}
            if callee:
                row = {"op": f"call {op} {operand}", "at": callee.labels[0], "next": row["next"]}
            results[body.labels[place]] = row
        results[body.labels[-1]] = {"op": "ret"}

    def call(label: str) -> Call:
        return Call("line", "n", label, results[label])

    def run(body: _Body, value: int) -> tuple[int, tuple[Work, ...]]:
        works: list[Work] = []
        for place, (op, operand, callee) in enumerate(body.lines):
            label, after = body.labels[place : place + 2]
            thought, given = f"{label}: {value}", operand
            inner: tuple[Work, ...] = ()
            if callee:
                given, inner = run(callee, operand)
            said = f"{op} {value} {given}, " if callee else ""
            value = DIGIT_OPS[op](value, given)
            works.append(Work(thought, f"{said}{after}: {value}", call(label), inner))
        back = body.labels[-1]
        works.append(Work(f"{back}: {value}", f"ret {value}", call(back)))
        return value, tuple(works)

    start = rng.randrange(10)
    end, works = run(main, start)
    prompt = f"Run the procedures with the tool line, from {main.labels[0]}. Start: {start}"
    return Problem("calls", level, prompt, str(end), "line", "n", results, works)


def limits(level: int, rng: random.Random, pool: int = 0) -> Problem:
    """Count the readings that are over the limit of their group, modulo 10; `level` lines.

    A group sets its own limit; behind its `close` the limit around it holds again.
    """
    labels = Labels(rng, max(level, pool))
    lines = [labels.take() for _ in range(level)]
    results: dict[str, dict[str, str]] = {}
    place = 0

    def line(row: dict[str, str]) -> tuple[str, str]:
        nonlocal place
        label, after = lines[place], lines[place + 1] if place + 1 < level else "end"
        results[label] = {**row, "next": after}
        place += 1
        return label, after

    def work(label: str, limit: int, count: int, said: str, inner: tuple[Work, ...] = ()) -> Work:
        return Work(
            f"{label} limit {limit}: {count}", said, Call("line", "n", label, results[label]), inner
        )

    def reading(limit: int, count: int) -> tuple[int, Work]:
        value = rng.randrange(10)
        label, after = line({"value": str(value)})
        out = (count + (value > limit)) % 10
        return out, work(label, limit, count, f"{after}: {out}")

    def group(limit: int, count: int, budget: int) -> tuple[int, Work]:
        own = rng.randint(1, 8)
        label, _ = line({"limit": str(own)})
        out, inner = body(own, count, budget - 2)
        closing, after = line({"op": "close"})
        inner.append(work(closing, own, out, f"close {after}: {out}"))
        return out, work(label, limit, count, f"{after}: {out}", tuple(inner))

    def body(limit: int, count: int, budget: int) -> tuple[int, list[Work]]:
        works: list[Work] = []
        while budget > 0:
            room = SIBLINGS + 1 - len(works)
            if budget >= 3 and (rng.random() < 0.5 or budget > 4 * max(room, 1)):
                lines_inside = budget if room <= 1 else rng.randint(3, budget)
                count, grown = group(limit, count, lines_inside)
                budget -= lines_inside
            else:
                count, grown = reading(limit, count)
                budget -= 1
            works.append(grown)
        return count, works

    start, first = rng.randrange(10), rng.randint(1, 8)
    end, works = body(first, start, level)
    prompt = (
        f"Count the readings over the limit with the tool line, from {lines[0]}."
        f" Limit: {first}. Start: {start}"
    )
    return Problem("limits", level, prompt, str(end), "line", "n", results, tuple(works))


FAMILIES: dict[str, Callable[..., Problem]] = {"calls": calls, "limits": limits}
