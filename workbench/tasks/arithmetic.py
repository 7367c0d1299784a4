"""Long arithmetic by place value, its digits as lines of the prompt.

The digits of the result stand in the leaves' thoughts; what is carried up is the carry (or the
remainder) and the checksum of the digits found so far, the last digit of their sum: no conclusion
grows, and one wrong digit makes the answer wrong.
"""

import random
from collections.abc import Mapping

from workbench.tasks.procedures import Given, Procedure, State, Step, counted, nothing


def _add(given: Given, state: State, rng: random.Random) -> Step:
    a, b = rng.randrange(10), rng.randrange(10)
    total = a + b + int(state[0])
    after = (str(total // 10), counted(state[1], total % 10))
    return Step(f"{a} {b}", after, f"sum {total} digit {total % 10}")


def _by(rng: random.Random) -> tuple[Given, State]:
    return {"by": str(rng.randint(2, 9))}, ("0", "0")


def _multiply(given: Given, state: State, rng: random.Random) -> Step:
    digit = rng.randrange(10)
    product = digit * int(given["by"])
    total = product + int(state[0])
    after = (str(total // 10), counted(state[1], total % 10))
    return Step(str(digit), after, f"product {product} sum {total} digit {total % 10}")


def _by_two(rng: random.Random) -> tuple[Given, State]:
    return {"tens": str(rng.randint(1, 9)), "units": str(rng.randint(1, 9))}, ("00", "0", "0")


def _product(given: Given, state: State, rng: random.Random) -> Step:
    digit = rng.randrange(10)
    units, tens = digit * int(given["units"]), int(state[1]) * int(given["tens"])
    total = units + tens + int(state[0])
    check = counted(state[2], total)
    work = f"products {units} {tens} makes {units + tens} sum {total} digit {total % 10}"
    return Step(str(digit), (f"{total // 10:02d}", str(digit), check), work)


def _divide(given: Given, state: State, rng: random.Random) -> Step:
    digit = rng.randrange(10)
    quotient, rest = divmod(10 * int(state[0]) + digit, int(given["by"]))
    work = f"{state[0]}{digit} digit {quotient} makes {quotient * int(given['by'])} rest {rest}"
    return Step(str(digit), (str(rest), counted(state[1], quotient)), work)


PROCEDURES: Mapping[str, Procedure] = {
    "long_addition": Procedure(
        "Add two long numbers. A line has a digit of each, units first. The state is the carry and"
        " the checksum: the last digit of the sum of the result's digits so far.",
        lambda rng: nothing(("0", "0")),
        _add,
    ),
    "long_multiplication": Procedure(
        "Multiply a long number by a digit. A line has a digit of the number, units first. The"
        " state is the carry and the checksum: the last digit of the sum of the result's digits so"
        " far.",
        _by,
        _multiply,
    ),
    "long_product": Procedure(
        "Multiply a long number by one of two digits. A line has a digit of the number, units"
        " first. The state is the carry, the digit before, and the checksum: the last digit of the"
        " sum of the result's digits so far.",
        _by_two,
        _product,
    ),
    "long_division": Procedure(
        "Divide a long number by a digit. A line has a digit of the number, highest first. The"
        " state is the remainder and the checksum: the last digit of the sum of the result's"
        " digits so far.",
        _by,
        _divide,
    ),
}
