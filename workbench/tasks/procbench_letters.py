"""ProcBench's procedures on letters (2410.03117), each with a state of fixed size.

The paper's strings grow with the steps. Where they would, ours keep the last five letters, refill
what was taken away, or let the parts change places. The rule in the prompt is the whole truth.
"""

import random
from collections.abc import Mapping, Sequence

from workbench.tasks.procedures import Given, Procedure, State, Step, nothing

LETTERS = "abcdefgh"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
KEPT = 5


def _word(rng: random.Random, size: int, letters: Sequence[str] = LETTERS) -> State:
    return tuple(rng.choices(letters, k=size))


def _rows(rng: random.Random, size: int) -> Given:
    return {name: " ".join(_word(rng, size)) for name in "PQRS"}


def _append(state: State, letters: Sequence[str]) -> State:
    return (*state, *letters)[-KEPT:]


def _six(rng: random.Random) -> tuple[Given, State]:
    return nothing(_word(rng, 6))


def _sort(given: Given, state: State, rng: random.Random) -> Step:
    letter, side = rng.choice(ALPHABET), rng.choice(("first", "last"))
    whole = tuple(sorted((*state, letter)))
    return Step(f"{letter} {side}", whole[1:] if side == "first" else whole[:-1], " ".join(whole))


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
    return {letter: rng.choice(LETTERS) for letter in changed}, _word(rng, KEPT)


def _substitute(given: Given, state: State, rng: random.Random) -> Step:
    letter = rng.choice(LETTERS)
    new = given.get(letter, letter)
    return Step(letter, _append(state, [new]), new)


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
    rules = {f"{a} {b}": rng.choice("abc") for a in "abc" for b in "abc"}
    return rules, (rng.choice("abc"),)


def _compose(given: Given, state: State, rng: random.Random) -> Step:
    letter = rng.choice("abc")
    return Step(letter, (given[f"{state[0]} {letter}"],))


def _begin_decompose(rng: random.Random) -> tuple[Given, State]:
    return {letter: " ".join(_word(rng, 2, "abcde")) for letter in "abcde"}, _word(rng, 5, "abcde")


def _decompose(given: Given, state: State, rng: random.Random) -> Step:
    side = rng.choice(("first", "last"))
    pair = given[state[0] if side == "first" else state[-1]]
    two = tuple(pair.split())
    return Step(side, (*two, *state[1:-1]) if side == "first" else (*state[1:-1], *two), pair)


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
        "Five letters stay in alphabetical order. A line gives a letter to put in its place, and"
        " whether the first or the last of the six is then dropped.",
        lambda rng: nothing(tuple(sorted(_word(rng, KEPT, ALPHABET)))),
        _sort,
    ),
    "proc_gather": Procedure(
        "A line gives a string's name, a place in it (the first is 1), and how many letters to"
        " take from there. Append them, and keep the last five letters.",
        lambda rng: (_rows(rng, 5), _word(rng, KEPT)),
        _gather,
    ),
    "proc_copy": Procedure(
        "A line names a string. Append it, and keep the last five letters.",
        lambda rng: (_rows(rng, 3), _word(rng, KEPT)),
        _copy,
    ),
    "proc_substitute": Procedure(
        "A line gives a letter. Replace it where a pair tells its new letter; append what comes,"
        " and keep the last five letters.",
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
        " the other end is dropped.",
        _begin_decompose,
        _decompose,
    ),
    "proc_decode": Procedure(
        "A line gives a letter and how often it stands. Append it as often, and keep the last five"
        " letters.",
        lambda rng: nothing(_word(rng, KEPT)),
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
