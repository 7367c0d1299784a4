"""What a pruned run encodes, as one packed sequence: exact view training.

The gold text is run through the pruning rule; each new token is written down once, and after each
prune the survivors behind the hole again. A key is dead from the prune on. So one sequence holds
every context that the runtime will ever see, and nothing else:

    key k is visible to query q  <=>  k <= q < dead[k]

Positions are the resident length at the time of writing (2507.16784 Eq. 1).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.tasks.gold import Piece

ALIVE = np.iinfo(np.int32).max
NO_TARGET = -100  # torch's ignore_index

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Gold:
    """Token ids of a right output, which of them the runtime puts in, and where lists lie.

    `lists` are (first token of the contents, past the last, token that closes the owner), in the
    order in which the owners close.
    """

    ids: Sequence[int]
    fed: Sequence[bool]
    lists: Sequence[tuple[int, int, int]]


def encode_gold(pieces: Iterable[Piece], encode: Callable[[str], Sequence[int]], end: int) -> Gold:
    """Tokenise piece by piece and end with the token `end`."""
    ids: list[int] = []
    fed: list[bool] = []
    lists: list[tuple[int, int, int]] = []
    opened: list[int] = []
    spanned: list[tuple[int, int]] = []
    for piece in pieces:
        if piece.closes:
            spanned.append((opened.pop(), len(ids)))
        tokens = encode(piece.text)
        ids.extend(tokens)
        fed.extend([piece.fed] * len(tokens))
        if piece.opens:
            opened.append(len(ids))
        if piece.owner_closed:
            start, stop = spanned.pop()
            lists.append((start, stop, len(ids) - 1))
    return Gold([*ids, end], [*fed, False], lists)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One document for training, all arrays [n] int32."""

    ids: Ints
    positions: Ints
    dead: Ints  # packed index from which the key is invisible
    targets: Ints  # next token where the model samples it, else NO_TARGET

    def __len__(self) -> int:
        return len(self.ids)


def pruned_view(prompt: Sequence[int], gold: Gold, threshold: int | None, gap: int = 0) -> View:
    """The packed sequence of a run with FIFO pruning at `threshold` (None: nothing is pruned).

    `gap` positions are left free after the prompt, so that long positions are seen in short texts.
    """
    stream = [*prompt, *gold.ids]
    base = len(prompt)
    next_fed = [True] * (base - 1) + [*gold.fed, True]
    closes = {owner + base: (a + base, b + base) for a, b, owner in gold.lists}

    ids: list[int] = []
    positions: list[int] = []
    dead: list[int] = []
    targets: list[int] = []
    resident: list[tuple[int, int]] = []  # (stream index, packed index)
    fifo: list[tuple[int, int]] = []

    def write(at: int, target: int) -> None:
        place = len(resident)
        resident.append((at, len(ids)))
        ids.append(stream[at])
        positions.append(place + (gap if place >= base else 0))
        dead.append(ALIVE)
        targets.append(target)

    def target_of(at: int) -> int:
        return NO_TARGET if next_fed[at] else stream[at + 1]

    for at in range(len(stream)):
        write(at, target_of(at))
        if threshold is None or at not in closes:
            continue
        fifo.append(closes[at])
        while len(fifo) > threshold:
            start, stop = fifo.pop(0)
            targets[resident[-1][1]] = NO_TARGET  # the runtime samples after re-encoding
            hole = next((i for i, (s, _) in enumerate(resident) if s >= start), len(resident))
            behind = [s for s, _ in resident[hole:] if s >= stop]
            for _, key in resident[hole:]:
                dead[key] = len(ids)
            del resident[hole:]
            for s in behind[:-1]:
                write(s, NO_TARGET)
            write(behind[-1], target_of(behind[-1]))
    return View(*(np.array(column, np.int32) for column in (ids, positions, dead, targets)))
