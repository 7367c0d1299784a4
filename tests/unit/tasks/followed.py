"""An interpreter of its own for the in-prompt families: it reads prompts, and knows no generator.

Rules are written another way than in the package wherever there is another way.
"""

import re
from collections import deque
from collections.abc import Callable
from datetime import date, timedelta
from itertools import groupby, takewhile

Given = dict[str, str]
Rule = Callable[[Given, list[str], list[str]], list[str]]


def answer(family: str, prompt: str) -> str:
    """The answer to a prompt, line by line."""
    if family == "merge":
        return _merged(prompt)
    told, _, rest = prompt.partition("\nLines:\n")
    listed, _, asked = rest.rpartition("\n")
    given = dict(re.findall(r"^(.+?): (.*)$", "\n".join(told.split("\n")[1:]), re.M))
    found = re.fullmatch(r"Follow the lines from (\d+) to end\. Start: (.*)", asked)
    assert found, asked
    lines = listed.split("\n")
    first = next(i for i, line in enumerate(lines) if line.split()[0] == found[1])
    state = found[2].split()
    for line in takewhile(lambda text: text != "end", lines[first:]):
        state = RULES[family](given, state, line.split()[1:])
    return " ".join(state)


def _merged(prompt: str) -> str:
    rows = [list(map(int, row.split())) for row in re.findall(r"^[PQ]: (.*)$", prompt, re.M)]
    found = re.search(r"at place (\d+)\? Start: (\d+): (\d+) (\d+)$", prompt)
    assert found and all(row == sorted(row) for row in rows)
    place, first, p, q = map(int, found.groups())
    heap = sorted([n for n in rows[0] if n >= p] + [n for n in rows[1] if n >= q])
    return str(heap[place - first])


def _more(count: str, by: int) -> str:
    return str(int(count) + by)[-1]


def _tail(state: list[str], letters: list[str]) -> list[str]:
    kept = list(deque([*state[:-1], *letters], maxlen=4))
    return [*kept, _more(state[-1], len(letters))]


def _substitute(given: Given, state: list[str], args: list[str]) -> list[str]:
    *letters, count = state
    new = given.get(args[0])
    return [*letters[1:], new or args[0], _more(count, new is not None)]


def _insert(given: Given, state: list[str], args: list[str]) -> list[str]:
    *members, count = state
    outermost = min(members) if args[1] == "first" else max(members)
    if args[0] == outermost or (args[0] < outermost) == (args[1] == "first"):
        return [*members, _more(count, 1)]
    members.remove(outermost)
    place = sum(member < args[0] for member in members)
    return [*members[:place], args[0], *members[place:], count]


def _gather(given: Given, state: list[str], args: list[str]) -> list[str]:
    first, size = int(args[1]), int(args[2])
    cells = dict(enumerate(given[args[0]].split(), 1))
    return _tail(state, [cells[first + i] for i in range(size)])


def _split2(given: Given, state: list[str], args: list[str]) -> list[str]:
    one, two = (part.split() for part in " ".join(state).split(" / "))
    place = int(args[1])
    if args[0] == "1":
        return [*one[:place], "/", *two, *one[place:]]
    return [*one, *two[place:], "/", *two[:place]]


def _decompose(given: Given, state: list[str], args: list[str]) -> list[str]:
    *letters, count = state
    if args == ["first"]:
        letters, gone = given[letters[0]].split() + letters[1:4], letters[4]
    else:
        letters, gone = letters[1:4] + given[letters[4]].split(), letters[0]
    return [*letters, _more(count, gone == given["count"])]


def _push_pop(given: Given, state: list[str], args: list[str]) -> list[str]:
    ends = deque(state)
    act = getattr(ends, {"push": "append", "pop": "pop"}[args[0]] + "left" * (args[1] == "left"))
    act(*args[2:])
    return list(ends)


def _rotate(given: Given, state: list[str], args: list[str]) -> list[str]:
    first, last = int(args[0]), int(args[1])
    state.insert(first - 1, state.pop(last - 1))
    return state


def _delete(given: Given, state: list[str], args: list[str]) -> list[str]:
    state.remove(args[0])
    return [*state, args[1]]


def _count(given: Given, state: list[str], args: list[str]) -> list[str]:
    digits = "".join(x for x in args if x.isdigit())
    return [str(100 + (int(state[0]) + (len(args) - len(digits)) * int(digits)) % 100)[1:]]


def _search(given: Given, state: list[str], args: list[str]) -> list[str]:
    pair = "".join(args)
    texts = ["".join(text.split()) for text in given.values()]
    found = [sum(t[i : i + 2] == pair for i in range(len(t))) for t in texts]
    return [str(int(a) + b)[-1] for a, b in zip(state, found, strict=True)]


def _count2(given: Given, state: list[str], args: list[str]) -> list[str]:
    found = [sum(x == y for x in args) for y in given["letters"].split()]
    return [str(int(a) + b)[-1] for a, b in zip(state, found, strict=True)]


def _encode(given: Given, state: list[str], args: list[str]) -> list[str]:
    bits = state[0] * int(state[1]) + state[2] * int(state[3]) + args[0]
    runs = [(bit, len(list(run))) for bit, run in groupby(bits)]
    return [str(x) for run in runs[-2:] for x in run] + [_more(state[4], len(runs) - 2)]


def _rhythm(given: Given, state: list[str], args: list[str]) -> list[str]:
    after = []
    for kind, now in zip(("number", "letter"), state, strict=True):
        ring = given[kind + "s"].split()
        moved = dict(zip(ring, ring[1:] + ring[:1], strict=True))
        after.append(moved[now] if args[0] in (kind, "both") else now)
    return after


def _compare(given: Given, state: list[str], args: list[str]) -> list[str]:
    pairs = zip(args, given["target"].split(), strict=True)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return [str(same), str(int(state[1]) + same)[-1]]


def _fill(given: Given, state: list[str], args: list[str]) -> list[str]:
    *words, count = state
    after = [args[1] if str(i) == args[0] else word for i, word in enumerate(words, 1)]
    return [*after, _more(count, words[int(args[0]) - 1] == given["count"])]


def _cumulate(given: Given, state: list[str], args: list[str]) -> list[str]:
    number = int(state[0])
    after = number + int(args[1]) if args[0] == "add" else number * int(args[1])
    return [f"0{after}"[-2:]]


def _move(given: Given, state: list[str], args: list[str]) -> list[str]:
    ring = deque(state)
    ring.rotate(int(args[1]) * (1 if args[0] == "right" else -1))
    return list(ring)


def _find(given: Given, state: list[str], args: list[str]) -> list[str]:
    ring = deque(given["string"].split())
    while ring[0] != state[0]:
        ring.rotate(1)
    ring.rotate(-int(args[0]))
    return [ring[0]]


def _add(given: Given, state: list[str], args: list[str]) -> list[str]:
    return _carried(sum(map(int, [*args, state[0]])), state[1])


def _multiply(given: Given, state: list[str], args: list[str]) -> list[str]:
    return _carried(sum(int(args[0]) for _ in range(int(given["by"]))) + int(state[0]), state[1])


def _product(given: Given, state: list[str], args: list[str]) -> list[str]:
    """The column's share of (digit, digit before) times (tens, units), as one long product."""
    factor = int(given["tens"] + given["units"])
    whole = int(args[0] + state[1]) * factor  # its tens are this column's
    whole -= int(args[0]) * int(given["tens"]) * 100 + int(state[1]) * int(given["units"])
    carry, digit = divmod(whole // 10 + int(state[0]), 10)
    return [f"0{carry}"[-2:], args[0], str(int(state[2]) + digit)[-1]]


def _carried(total: int, check: str) -> list[str]:
    carry, digit = f"{total:02d}"
    return [carry, str(int(check) + int(digit))[-1]]


def _divide(given: Given, state: list[str], args: list[str]) -> list[str]:
    rest, digit = int(state[0] + args[0]), 0
    while rest >= int(given["by"]):
        rest, digit = rest - int(given["by"]), digit + 1
    return [str(rest), str(int(state[1]) + digit)[-1]]


def _walk(given: Given, state: list[str], args: list[str]) -> list[str]:
    at = int(state[0]) + 1j * int(state[1])
    at += {"north": 1j, "south": -1j, "east": 1, "west": -1}[args[0]] * int(args[1])
    return [str(int(at.real) % 10), str(int(at.imag) % 10)]


def _switch(given: Given, state: list[str], args: list[str]) -> list[str]:
    for place in args:
        state[int(place) - 1] = {"on": "off", "off": "on"}[state[int(place) - 1]]
    return state


def _bracket(given: Given, state: list[str], args: list[str]) -> list[str]:
    text = " ".join([x for x in state if x != "none"] + args)
    for pair in ("( )", "[ ]", "< >"):
        text = text.replace(pair, "")
    return text.split() or ["none"]


def _day(given: Given, state: list[str], args: list[str]) -> list[str]:
    day = date(2024, 1, 1)
    while day.strftime("%A") != state[0]:
        day += timedelta(1)
    days = timedelta(int(args[0]))
    return [(day + days if args[1] == "later" else day - days).strftime("%A")]


def _pay(given: Given, state: list[str], args: list[str]) -> list[str]:
    money = dict(zip("PQR", map(int, state), strict=True))
    money[args[0]] -= int(args[2])
    money[args[1]] += int(args[2])
    return [str(x) for x in money.values()]


RULES: dict[str, Rule] = {
    "proc_sort": _insert,
    "proc_gather": _gather,
    "proc_copy": lambda given, state, args: _tail(state, given[args[0]].split()),
    "proc_substitute": _substitute,
    "proc_split1": lambda given, state, args: (state * 2)[int(args[0]) :][: len(state)],
    "proc_split2": _split2,
    "proc_compose": lambda given, state, args: [given[" ".join(state + args)]],
    "proc_decompose": _decompose,
    "proc_decode": lambda given, state, args: _tail(state, [args[0]] * int(args[1])),
    "proc_push_pop": _push_pop,
    "proc_rotate": _rotate,
    "proc_delete_char": _delete,
    "proc_delete_word": _delete,
    "proc_count": _count,
    "proc_search": _search,
    "proc_encode": _encode,
    "proc_rhythm": _rhythm,
    "proc_compare": _compare,
    "proc_count2": _count2,
    "proc_fill_word": _fill,
    "proc_cumulate": _cumulate,
    "proc_move_cyclic": _move,
    "proc_find_cyclic": _find,
    "long_addition": _add,
    "long_multiplication": _multiply,
    "long_product": _product,
    "long_division": _divide,
    "tally": lambda given, state, args: [str(int(state[0]) + (args[0] == given["count"]))],
    "sort_numbers": _insert,
    "robot": _walk,
    "switches": _switch,
    "brackets": _bracket,
    "calendar": _day,
    "ledger": _pay,
}
