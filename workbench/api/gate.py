"""Admission: so many runs at a time share the engine's batch, the rest wait in order, bounded."""

import asyncio

from workbench.api.errors import busy


class Gate:
    """`async with gate` waits for a place. Raises ApiError (429) where too many wait already."""

    def __init__(self, parallel: int, queue: int) -> None:
        self._places = asyncio.Semaphore(parallel)
        self._queue = queue
        self.waiting = 0
        self.running = 0

    async def __aenter__(self) -> None:
        if self._places.locked() and self.waiting >= self._queue:
            raise busy(self.waiting)
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1

    async def __aexit__(self, *_: object) -> None:
        self.running -= 1
        self._places.release()
