"""ProcBench's procedures on letters (2410.03117), each with a state of fixed size.

The paper's strings grow with the steps. Where they would, ours keep the last letters and the last
digit of a count over all that was ever written, so that no line is without consequence; or they
refill what was taken away, or let the parts change places. The rule in the prompt is the whole
truth.
"""

import random
from collections.abc import Mapping, Sequence

from workbench.tasks.procedures import Given, Procedure, State, Step, counted, nothing

LETTERS = "abcdefgh"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
KEPT = 4
KEEP = " Keep the last four letters, and the last digit of how many letters were appended."


def _word(rng: random.Random, size: int, letters: Sequence[str] = LETTERS) -> State:
    return tuple(rng.choices(letters, k=size))


def _written(rng: random.Random, size: int = KEPT, letters: Sequence[str] = LETTERS) -> State:
    return (*_word(rng, size, letters), str(rng.randrange(10)))


def _rows(rng: random.Random, *sizes: int) -> tuple[Given, State]:
    names = zip("PQRS", sizes, strict=True)
    return {name: " ".join(_word(rng, size)) for name, size in names}, _written(rng)


def _append(state: State, letters: Sequence[str], more: int | None = None) -> State:
    by = len(letters) if more is None else more
    return (*(*state[:-1], *letters)[-KEPT:], counted(state[-1], by))


def _six(rng: random.Random) -> tuple[Given, State]:
    return nothing(_word(rng, 6))


def _sort(given: Given, state: State, rng: random.Random) -> Step:
    letter, side = rng.choice(ALPHABET), rng.choice(("first", "last"))
    whole = sorted((*state[:-1], letter))
    work = " ".join(whole)
    gone = whole.pop(0 if side == "first" else -1)
    return Step(f"{letter} {side}", (*whole, counted(state[-1], gone == letter)), work)


def _gather(given: Given, state: State, rng: random.Random) -> Step:
    name, size = rng.choice("PQRS"), rng.randint(1, 3)
    first = rng.randint(1, 6 - size)
    taken = given[name].split()[first - 1 : first - 1 + size]
    return Step(f"{name} {first} {size}", _append(state, taken), " ".join(taken))


def _copy(given: Given, state: State, rng: random.Random) -> Step:
    name = rng.choice("PQRS")
    return Step(name, _append(state, given[name].split()), given[name])


def _begin_substitute(rng: random.Random) -> tuple[Given, State]:
    changed = sorted(rng.sample(LETTERS, 5))
    return {letter: rng.choice(LETTERS) for letter in changed}, _written(rng)


def _substitute(given: Given, state: State, rng: random.Random) -> Step:
    letter = rng.choice(LETTERS)
    new = given.get(letter, letter)
    return Step(letter, _append(state, [new], letter in given), new)


def _split1(given: Given, state: State, rng: random.Random) -> Step:
    place = rng.randint(1, len(state) - 1)
    work = " ".join((*state[:place], "/", *state[place:]))
    return Step(str(place), state[place:] + state[:place], work)


def _begin_split2(rng: random.Random) -> tuple[Given, State]:
    return nothing((*_word(rng, 3), "/", *_word(rng, 3)))


def _split2(given: Given, state: State, rng: random.Random) -> Step:
    bar = state.index("/")
    parts = [state[:bar], state[bar + 1 :]]
    part = rng.choice([i for i in (0, 1) if len(parts[i]) > 1])
    place = rng.randint(1, len(parts[part]) - 1)
    kept, cut = parts[part][:place], parts[part][place:]
    parts[part], parts[1 - part] = kept, parts[1 - part] + cut
    return Step(f"{part + 1} {place}", (*parts[0], "/", *parts[1]), " ".join(cut))


def _begin_compose(rng: random.Random) -> tuple[Given, State]:
    rules: dict[str, str] = {}
    for b in "abc":  # for each letter of a line another order of all, so that none is forgotten
        rules |= {f"{a} {b}": c for a, c in zip("abc", rng.sample("abc", 3), strict=True)}
    return rules, (rng.choice("abc"),)


def _compose(given: Given, state: State, rng: random.Random) -> Step:
    letter = rng.choice("abc")
    return Step(letter, (given[f"{state[0]} {letter}"],))


def _begin_decompose(rng: random.Random) -> tuple[Given, State]:
    given = {letter: " ".join(_word(rng, 2, "abcde")) for letter in "abcde"}
    given["count"] = rng.choice("abcde")
    return given, _written(rng, 5, "abcde")


def _decompose(given: Given, state: State, rng: random.Random) -> Step:
    side, letters = rng.choice(("first", "last")), state[:-1]
    pair = given[letters[0] if side == "first" else letters[-1]]
    two = tuple(pair.split())
    after = (*two, *letters[1:-1]) if side == "first" else (*letters[1:-1], *two)
    dropped = letters[-1] if side == "first" else letters[0]
    count = counted(state[-1], dropped == given["count"])
    return Step(side, (*after, count), f"{pair} drop {dropped}")


def _decode(given: Given, state: State, rng: random.Random) -> Step:
    letter, times = rng.choice(LETTERS), rng.randint(1, 4)
    return Step(f"{letter} {times}", _append(state, letter * times), " ".join(letter * times))


def _push_pop(given: Given, state: State, rng: random.Random) -> Step:
    side, letter = rng.choice(("left", "right")), rng.choice(LETTERS)
    if len(state) < 4 or (len(state) < 6 and rng.random() < 0.5):
        after = (letter, *state) if side == "left" else (*state, letter)
        return Step(f"push {side} {letter}", after)
    return Step(f"pop {side}", state[1:] if side == "left" else state[:-1])


def _rotate(given: Given, state: State, rng: random.Random) -> Step:
    first, last = sorted(rng.sample(range(1, len(state) + 1), 2))
    turned = (state[last - 1], *state[first - 1 : last - 1])
    after = state[: first - 1] + turned + state[last:]
    return Step(f"{first} {last}", after, " ".join(turned))


def _delete_char(given: Given, state: State, rng: random.Random) -> Step:
    gone, new = rng.choice(state), rng.choice(LETTERS)
    place = state.index(gone)
    return Step(f"{gone} {new}", (*state[:place], *state[place + 1 :], new))


PROCEDURES: Mapping[str, Procedure] = {
    "proc_sort": Procedure(
        "Four letters stay in alphabetical order. A line gives a letter to put in its place, and"
        " whether the first or the last of the five is then dropped. Count, by its last digit, how"
        " often a letter equal to the line's is dropped.",
        lambda rng: nothing((*sorted(_word(rng, KEPT, ALPHABET)), str(rng.randrange(10)))),
        _sort,
    ),
    "proc_gather": Procedure(
        "A line gives a string's name, a place in it (the first is 1), and how many letters to"
        " take from there. Append them." + KEEP,
        lambda rng: _rows(rng, 5, 5, 5, 5),
        _gather,
    ),
    "proc_copy": Procedure(
        "A line names a string. Append it." + KEEP,
        lambda rng: _rows(rng, 1, 2, 3, 3),
        _copy,
    ),
    "proc_substitute": Procedure(
        "A line gives a letter. Replace it where a pair tells its new letter, and append what"
        " comes. Keep the last four letters, and the last digit of how many were replaced.",
        _begin_substitute,
        _substitute,
    ),
    "proc_split1": Procedure(
        "A line tells behind how many letters to split the string. The two parts change places.",
        _six,
        _split1,
    ),
    "proc_split2": Procedure(
        "Two parts stand around a bar. A line gives a part, 1 or 2, and behind how many letters to"
        " split it; what is split off goes to the end of the other part.",
        _begin_split2,
        _split2,
    ),
    "proc_compose": Procedure(
        "The letter that stands and the letter of the line are composed into one by the rules.",
        _begin_compose,
        _compose,
    ),
    "proc_decompose": Procedure(
        "A line says first or last: that letter is replaced by its two letters, and the letter at"
        " the other end is dropped. Count, by its last digit, how often the counted letter is"
        " dropped.",
        _begin_decompose,
        _decompose,
    ),
    "proc_decode": Procedure(
        "A line gives a letter and how often it stands. Append it as often." + KEEP,
        lambda rng: nothing(_written(rng)),
        _decode,
    ),
    "proc_push_pop": Procedure(
        "A line pushes a letter at the left or the right end, or pops the letter there.",
        lambda rng: nothing(_word(rng, 4)),
        _push_pop,
    ),
    "proc_rotate": Procedure(
        "A line gives two places. The letters from the first place to the second move one to the"
        " right, and the last of them comes to the front of them.",
        _six,
        _rotate,
    ),
    "proc_delete_char": Procedure(
        "A line gives two letters. Delete the first letter equal to the one, and append the other.",
        _six,
        _delete_char,
    ),
}
