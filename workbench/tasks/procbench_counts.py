"""ProcBench's procedures on counts, words and places (2410.03117), each with a state of fixed size.

Counts are kept modulo 10 or 100, so that a state has as many digits at the end as at the start.
"""

import random
from collections.abc import Mapping

from workbench.tasks.procedures import Given, Procedure, State, Step, counted, nothing

WORDS = ("apple", "river", "stone", "cloud", "horse", "lamp", "door", "ship", "glass", "bread")


def _tens(number: int) -> str:
    return f"{number % 100:02d}"


def _count(given: Given, state: State, rng: random.Random) -> Step:
    letters, digit = rng.choices("abcdefgh", k=rng.randint(1, 4)), rng.randint(1, 9)
    line = letters.copy()
    line.insert(rng.randint(0, len(letters)), str(digit))
    product = len(letters) * digit
    units = int(state[0]) % 10 + product % 10
    tens = int(state[0]) // 10 + product // 10 + units // 10
    work = f"{' '.join(letters)} {len(letters)} by {digit} is {product}, units {units} tens {tens}"
    return Step(" ".join(line), (_tens(10 * tens + units % 10),), work)


def _begin_search(rng: random.Random) -> tuple[Given, State]:
    strings = {name: " ".join(rng.choices("abc", k=6)) for name in "PQR"}
    return strings, tuple(str(rng.randrange(10)) for _ in strings)


def _search(given: Given, state: State, rng: random.Random) -> Step:
    pair = " ".join(rng.sample("abc", 2))
    found = [text.count(pair) for text in given.values()]
    marked = (text.replace(pair, f"{pair} +") for text in given.values())
    work = ", ".join(f"{text} {n}" for text, n in zip(marked, found, strict=True))
    return Step(pair, _added(state, found), work)


def _added(state: State, found: list[int]) -> State:
    return tuple(counted(count, by) for count, by in zip(state, found, strict=True))


def _begin_encode(rng: random.Random) -> tuple[Given, State]:
    bit = rng.choice("01")
    other = "1" if bit == "0" else "0"
    runs = (bit, str(rng.randint(1, 4)), other, str(rng.randint(1, 4)))
    return nothing((*runs, str(rng.randrange(10))))


def _encode(given: Given, state: State, rng: random.Random) -> Step:
    _, _, bit, length, runs = state
    if length == "9" or rng.random() < 0.4:
        other = "1" if bit == "0" else "0"
        return Step(other, (bit, length, other, "1", counted(runs, 1)))
    return Step(bit, (*state[:3], str(int(length) + 1), runs))


def _begin_rhythm(rng: random.Random) -> tuple[Given, State]:
    numbers = [str(n) for n in rng.sample(range(1, 10), rng.randint(2, 5))]
    letters = rng.sample("abcdefgh", rng.randint(3, 6))
    given = {"numbers": " ".join(numbers), "letters": " ".join(letters)}
    return given, (rng.choice(numbers), rng.choice(letters))


def _rhythm(given: Given, state: State, rng: random.Random) -> Step:
    line = rng.choice(("number", "letter", "both", "both"))
    number, letter = state
    if line != "letter":
        number = _next(given["numbers"].split(), number)
    if line != "number":
        letter = _next(given["letters"].split(), letter)
    return Step(line, (number, letter))


def _next(ring: list[str], member: str) -> str:
    return ring[(ring.index(member) + 1) % len(ring)]


def _begin_compare(rng: random.Random) -> tuple[Given, State]:
    return {"target": " ".join(rng.choices("abcd", k=4))}, ("0", str(rng.randrange(10)))


def _compare(given: Given, state: State, rng: random.Random) -> Step:
    target = given["target"].split()
    same = rng.randint(0, 4)
    line = target[:same] + rng.choices("abcd", k=4 - same)
    if same < 4 and line[same] == target[same]:
        line[same] = rng.choice([x for x in "abcd" if x != target[same]])
    after = (str(same), counted(state[1], same))
    return Step(" ".join(line), after, " ".join(line[:same]) or "none")


def _begin_count2(rng: random.Random) -> tuple[Given, State]:
    letters = rng.sample("abcde", 3)
    return {"letters": " ".join(letters)}, tuple(str(rng.randrange(10)) for _ in letters)


def _count2(given: Given, state: State, rng: random.Random) -> Step:
    word, letters = rng.choices("abcde", k=4), given["letters"].split()
    found = [word.count(letter) for letter in letters]
    work = " ".join(f"{letter} {n}" for letter, n in zip(letters, found, strict=True))
    return Step(" ".join(word), _added(state, found), work)


def _five_words(rng: random.Random) -> tuple[Given, State]:
    return nothing(tuple(rng.choices(WORDS, k=5)))


def _begin_fill(rng: random.Random) -> tuple[Given, State]:
    words = rng.choices(WORDS, k=5)
    return {"count": rng.choice(words)}, (*words, str(rng.randrange(10)))


def _fill_word(given: Given, state: State, rng: random.Random) -> Step:
    place = rng.randint(1, 5)
    word = given["count"] if rng.random() < 0.3 else rng.choice(WORDS)
    old = state[place - 1]
    count = counted(state[-1], old == given["count"])
    return Step(
        f"{place} {word}", (*state[: place - 1], word, *state[place:-1], count), f"no {old}"
    )


def _delete_word(given: Given, state: State, rng: random.Random) -> Step:
    gone, new = rng.choice(state), rng.choice(WORDS)
    place = state.index(gone)
    return Step(f"{gone} {new}", (*state[:place], *state[place + 1 :], new))


def _cumulate(given: Given, state: State, rng: random.Random) -> Step:
    number = int(state[0])
    if rng.random() < 0.5:
        more = rng.randint(1, 9)
        return Step(f"add {more}", (_tens(number + more),))
    times = rng.choice((3, 7, 9))  # each has an inverse modulo 100: nothing is forgotten
    units = number % 10 * times
    tens = number // 10 * times + units // 10
    return Step(f"times {times}", (_tens(number * times),), f"{units} {tens}")


def _move_cyclic(given: Given, state: State, rng: random.Random) -> Step:
    side, far = rng.choice(("left", "right")), rng.randint(1, 5)
    at = state.index("x")
    to = (at + (far if side == "right" else -far)) % len(state)
    return Step(f"{side} {far}", _mark(to), f"{at + 1} {to + 1}")


def _mark(place: int) -> State:
    return tuple("x" if i == place else "-" for i in range(8))


def _begin_find(rng: random.Random) -> tuple[Given, State]:
    ring = rng.sample("abcdefghijklmnopqrstuvwxyz", 8)
    return {"string": " ".join(ring)}, (rng.choice(ring),)


def _find_cyclic(given: Given, state: State, rng: random.Random) -> Step:
    ring, far = given["string"].split(), rng.randint(1, 6)
    at = ring.index(state[0])
    passed = [ring[(at + i) % len(ring)] for i in range(1, far + 1)]
    return Step(str(far), (passed[-1],), " ".join(passed))


PROCEDURES: Mapping[str, Procedure] = {
    "proc_count": Procedure(
        "A line has letters and one digit. Multiply the number of letters by the digit and add it"
        " to the sum, of which the last two digits are kept.",
        lambda rng: nothing((_tens(rng.randrange(100)),)),
        _count,
    ),
    "proc_search": Procedure(
        "A line is a pair of letters. For each string in turn, add to its count how often the pair"
        " stands in it. Counts keep their last digit.",
        _begin_search,
        _search,
    ),
    "proc_encode": Procedure(
        "Lines give one digit each. The state has the last whole run of equal digits and the"
        " present run, each as the digit and its length, and the last digit of the number of runs.",
        _begin_encode,
        _encode,
    ),
    "proc_rhythm": Procedure(
        "A number and a letter stand. A line says which moves on to the next in its sequence;"
        " behind the last comes the first.",
        _begin_rhythm,
        _rhythm,
    ),
    "proc_compare": Procedure(
        "A line is a string. Count the letters from its start that agree with the target up to the"
        " first that does not. The state is this count, and the last digit of the sum of all.",
        _begin_compare,
        _compare,
    ),
    "proc_count2": Procedure(
        "A line is a word. For each letter in turn, add to its count how often the word has it."
        " Counts keep their last digit.",
        _begin_count2,
        _count2,
    ),
    "proc_fill_word": Procedure(
        "A line gives a place, the first is 1, and the word that fills it. Count, by its last"
        " digit, how often the counted word is written over.",
        _begin_fill,
        _fill_word,
    ),
    "proc_delete_word": Procedure(
        "A line gives two words. Delete the first word equal to the one, and append the other.",
        _five_words,
        _delete_word,
    ),
    "proc_cumulate": Procedure(
        "A line says what to add, or by what to multiply. Of the number, the last two digits are"
        " kept.",
        lambda rng: nothing((_tens(rng.randrange(100)),)),
        _cumulate,
    ),
    "proc_move_cyclic": Procedure(
        "Move the x along eight places. Past one end it comes in again at the other.",
        lambda rng: nothing(_mark(rng.randrange(8))),
        _move_cyclic,
    ),
    "proc_find_cyclic": Procedure(
        "A letter stands. A line says how many places to go to the right in the string; behind the"
        " last letter comes the first.",
        _begin_find,
        _find_cyclic,
    ),
}
