"""When a step's helpers rest, and that the step is the same without them."""

import torch

from tests.unit.cpu import nets
from tests.unit.model.nets import Paged
from workbench.cpu import NumbaForward
from workbench.cpu.crowding import FIRST, LONGEST, WINDOW, Crowding


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def judged(crowding: Crowding, share: float) -> bool:
    """A window of steps in which the least lucky thread had `share` of the time."""
    for _ in range(4):
        crowding.note(WINDOW / 4, share * WINDOW / 4)
    return crowding.crowded()


def test_threads_with_cores_of_their_own_never_rest() -> None:
    crowding = Crowding(Clock())
    assert not any(judged(crowding, 0.95) for _ in range(20))


def test_one_slow_step_is_no_crowd() -> None:
    crowding = Crowding(Clock())
    crowding.note(WINDOW / 2, 0.0)
    assert not crowding.crowded()


def test_rests_get_longer_while_it_stays_crowded_and_short_again_behind_it() -> None:
    clock = Clock()
    crowding = Crowding(clock)
    seen = []
    for _ in range(6):
        assert judged(crowding, 0.5)
        start = clock.now
        while crowding.crowded():
            clock.now += FIRST / 4
        seen.append(clock.now - start)
    assert seen == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0] and seen[-1] == LONGEST
    assert not judged(crowding, 1.0)
    assert judged(crowding, 0.0)
    clock.now += FIRST
    assert not crowding.crowded()


def test_rows_are_the_same_bits_while_helpers_rest() -> None:
    ids = nets.tokens(40)
    packed = nets.net("llama")
    want = Paged(NumbaForward(packed), 16).all_logits(ids, [20] + [1] * 20)
    crew = NumbaForward(packed, threads=2)
    clock = Clock()
    crew._crew.crowding = Crowding(clock)
    assert judged(crew._crew.crowding, 0.1) and crew._crew.hands() == 1
    assert torch.equal(Paged(crew, 16).all_logits(ids, [20] + [1] * 20), want)
    clock.now += FIRST
    assert crew._crew.hands() == 2
    assert torch.equal(Paged(crew, 16).all_logits(ids, [20] + [1] * 20), want)
    crew.close()
