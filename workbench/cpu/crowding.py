"""When the helpers of a step had better rest: where other work takes the cores that they wait on.

Threads of a step meet hundreds of times, and each time all wait for the one that has no core: two
threads beside one busy process were seen to take fifty times as long as one thread. A thread at a
barrier uses its core, so one that got less CPU time than the step took was kept from it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 0.1  # seconds of steps that are judged together
SHARE = 0.8  # of the time on a core; with less, one thread is as fast
FIRST, LONGEST = 0.5, 4.0  # seconds of rest: twice as long each time that it was in vain


@dataclass(slots=True)
class Crowding:
    """Watches steps of all hands, and says when one thread is to go alone."""

    clock: Callable[[], float] = time.monotonic
    _rest: float = FIRST
    _until: float = 0.0
    _took: float = 0.0
    _worked: float = 0.0

    def crowded(self) -> bool:
        return self.clock() < self._until

    def note(self, took: float, worked: float) -> None:
        """A step of `took` seconds, in which the thread that had least got `worked` seconds of
        CPU."""
        self._took += took
        self._worked += worked
        if self._took < WINDOW:
            return
        if self._worked < SHARE * self._took:
            self._until = self.clock() + self._rest
            self._rest = min(2 * self._rest, LONGEST)
        else:
            self._rest = FIRST
        self._took = self._worked = 0.0
