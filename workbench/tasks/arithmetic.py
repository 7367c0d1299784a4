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
    work = f"by {given['by']} product {product} sum {total} digit {total % 10}"
    return Step(str(digit), after, work)


def _by_two(rng: random.Random) -> tuple[Given, State]:
    return {"tens": str(rng.randint(1, 9)), "units": str(rng.randint(1, 9))}, ("00", "0", "0")


def _product(given: Given, state: State, rng: random.Random) -> Step:
    digit, (carried, behind, check) = rng.randrange(10), state
    first, second = digit * int(given["units"]), int(behind) * int(given["tens"])
    units = first % 10 + second % 10 + int(carried) % 10
    tens = first // 10 + second // 10 + int(carried) // 10 + units // 10
    work = f"{digit} by {given['units']} is {first}, {behind} by {given['tens']} is {second}"
    after = (f"{tens:02d}", str(digit), counted(check, units))
    found = f"units {units} tens {tens} digit {units % 10}"
    return Step(str(digit), after, f"{work}, {found}")


def _divide(given: Given, state: State, rng: random.Random) -> Step:
    digit = rng.randrange(10)
    by = int(given["by"])
    quotient, rest = divmod(10 * int(state[0]) + digit, by)
    work = f"{state[0]}{digit} by {by} digit {quotient} makes {quotient * by} rest {rest}"
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
