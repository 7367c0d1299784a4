"""Where commands of other threads arrive. Anyone may put; only the engine's thread drains."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from workbench.commands import Cancel, Command, Pause
from workbench.forward import StopFlag

Letter = tuple[Command, "Future[dict[str, Any]]"]


class Inbox:
    """A queue with two signals: `stop` tells a running step to give up (native code reads it
    between layers), `wake` an idle engine to look."""

    def __init__(self) -> None:
        self.stop = StopFlag()
        self.wake: Callable[[], Any] = lambda: (
            None
        )  # set by a running engine; callable from any thread
        self._letters: deque[Letter] = deque()  # append and popleft are atomic

    def put(self, command: Command) -> "Future[dict[str, Any]]":
        """Hand in a command. The future gives its outcome, or raises Refused."""
        future: Future[dict[str, Any]] = Future()
        self._letters.append((command, future))
        if isinstance(command, Pause | Cancel):
            self.stop.set()
        self.wake()
        return future

    def __len__(self) -> int:
        return len(self._letters)

    def drain(self) -> list[Letter]:
        """What has arrived, in order. The stop is lowered though nothing has: who put the last
        letter may have raised it after that was read."""
        self.stop.clear()  # before the letters: one that comes now raises it again
        letters = []
        while self._letters:
            letters.append(self._letters.popleft())
        return letters
