"""Threads that run a step together. They sleep between steps and meet at the step's own
barriers."""

import threading
import time
from collections.abc import Callable

from workbench.cpu.build import Native
from workbench.cpu.crowding import Crowding
from workbench.forward import StopFlag

NEVER = StopFlag()


class Crew:
    """`threads` - 1 helpers for the calling thread, which is number 0."""

    def __init__(self, run: Native, threads: int) -> None:
        self._run, self.threads = run, threads
        # plain locks: a semaphore is made of Python, and waking one takes the GIL back and forth
        self._go = [_shut() for _ in range(threads - 1)]
        self._done = [_shut() for _ in range(threads - 1)]
        self._worked = [0.0] * threads
        self._job = (0, 0, 0)
        self._hands = threads
        self.crowding = Crowding()
        self._closed = False
        for number, gates in enumerate(zip(self._go, self._done, strict=True), 1):
            name = f"workbench-cpu-{number}"
            threading.Thread(
                target=self._help, args=(number, *gates), name=name, daemon=True
            ).start()

    def hands(self) -> int:
        """Threads that the next step is to be planned for: all, or one where it is crowded."""
        self._hands = 1 if self.threads > 1 and self.crowding.crowded() else self.threads
        return self._hands

    def whole(self, plan: int, first: int, last: int) -> bool:
        """Layers [first, last) in one native call; False when the plan's stop flag was seen."""
        start = time.perf_counter()
        self._start(plan, first, last)
        finished = self._work(0, plan, first, last) == 0
        self._join()
        if self._hands > 1:
            self.crowding.note(time.perf_counter() - start, min(self._worked))
        return finished

    def layer_by_layer(
        self, plan: int, last: int, pulse: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        """The same, with `pulse` between layers. When it raises, `stop` must set the plan's stop
        flag: the helpers leave at the next layer's barrier."""
        self._start(plan, 0, last)
        try:
            for layer in range(last):
                pulse()
                self._run(plan, 0, layer, layer + 1)
        except BaseException:
            stop()
            self._run(plan, 0, layer, layer + 1)
            raise
        finally:
            self._join()

    def close(self) -> None:
        self._closed = True
        for go in self._go:
            go.release()

    def _start(self, plan: int, first: int, last: int) -> None:
        self._job = (plan, first, last)
        for go in self._go[: self._hands - 1]:
            go.release()

    def _join(self) -> None:
        for done in self._done[: self._hands - 1]:
            done.acquire()

    def _work(self, number: int, plan: int, first: int, last: int) -> int:
        start = time.thread_time()
        result = self._run(plan, number, first, last)
        self._worked[number] = time.thread_time() - start
        return result

    def _help(self, number: int, go: threading.Lock, done: threading.Lock) -> None:
        while True:
            go.acquire()
            if self._closed:
                return
            plan, first, last = self._job
            self._work(number, plan, first, last)
            done.release()


def _shut() -> threading.Lock:
    """A gate: `acquire` waits until somebody releases it."""
    gate = threading.Lock()
    gate.acquire()
    return gate
