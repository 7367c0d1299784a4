"""Tool chains over several tables: each step joins what two rows tell.

One call reads one row; a row of one table names a row of the other. The steps stand under
increasing labels and the tree is their trie (`trie`), as with `chains`.
"""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

from workbench.tasks.gold import Call, Problem, Work
from workbench.tasks.trie import END, Link, labels, trie

RELATIONS = ("boss", "friend", "owner", "teacher", "partner", "rival")
NAMED = 3  # relations that a row of the graph names


def join(
    level: int, rng: random.Random, gaps: Sequence[int] = (1, 2, 3), digits: int = 0
) -> Problem:
    """Add the points of the buyers of `level` orders, modulo 10: orders name buyers, buyers have
    points."""
    places = [*labels(level, rng, gaps, digits), END]
    keys = _keys(max(2, level // 2), set(places), rng)
    points = {key: {"points": str(rng.randrange(10))} for key in keys}
    orders: dict[str, dict[str, str]] = {}
    total = start = rng.randrange(10)
    links: list[Link] = []
    for label, after in pairwise(places):
        buyer, before = rng.choice(keys), total
        orders[label] = {"buyer": buyer, "next": after}
        total = (total + int(points[buyer]["points"])) % 10
        row = Work(buyer, points[buyer]["points"], Call("row", "id", buyer, points[buyer]))
        call = Call("row", "id", label, orders[label])
        links.append(Link(label, str(before), f"{after}: {total}", call, inner=(row,)))
    prompt = f"Add the points of the orders with the tool row, from {places[0]}. Start: {start}"
    table = {**orders, **points}
    return Problem("join", level, prompt, str(total), "row", "id", table, trie(links))


def hops(
    level: int, rng: random.Random, gaps: Sequence[int] = (1, 2, 3), digits: int = 0
) -> Problem:
    """Answer a question of `level` hops over a graph of people: each hop names a relation, each
    person the people who stand in some of them."""
    places = [*labels(level, rng, gaps, digits), END]
    people = _keys(max(6, level), set(places), rng)
    graph = {
        person: dict(zip(rng.sample(RELATIONS, NAMED), rng.choices(people, k=NAMED), strict=True))
        for person in people
    }
    question: dict[str, dict[str, str]] = {}
    person = start = rng.choice(people)
    links: list[Link] = []
    for label, after in pairwise(places):
        relation, before = rng.choice(list(graph[person])), person
        person = graph[before][relation]
        question[label] = {"ask": relation, "next": after}
        told = Work(f"{before} {relation}", person, Call("fact", "id", before, graph[before]))
        call = Call("fact", "id", label, question[label])
        links.append(Link(label, before, f"{after}: {person}", call, inner=(told,)))
    prompt = f"Who is it? Ask with the tool fact, from {places[0]}. Start: {start}"
    table = {**question, **graph}
    return Problem("hops", level, prompt, person, "fact", "id", table, trie(links))


def _keys(count: int, taken: set[str], rng: random.Random) -> list[str]:
    """Four-digit keys that are no labels; five digits where labels have four."""
    low = 10 ** max(3, max(map(len, taken - {END})))
    return [str(key) for key in rng.sample(range(low, 10 * low), count)]


FAMILIES: dict[str, Callable[[int, random.Random], Problem]] = {"join": join, "hops": hops}
