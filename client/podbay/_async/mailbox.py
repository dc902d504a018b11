"""A queue for one reader, in one event loop."""

from __future__ import annotations

import asyncio
from collections import deque

from podbay._core.exchange import Delivery

__all__ = ["Mailbox"]


class Mailbox:
    """What came for one reader. `asyncio.Queue` could do this at several times the cost."""

    __slots__ = ("_came", "_waiter")

    def __init__(self) -> None:
        self._came: deque[Delivery] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, delivery: Delivery) -> None:
        """Add a delivery and wake the reader."""
        self._came.append(delivery)
        self.wake()

    def wake(self) -> None:
        """End the reader's wait."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> Delivery | None:
        """Return the next delivery; None where there is none."""
        return self._came.popleft() if self._came else None

    async def wait(self, deadline: float | None) -> None:
        """Wait until there is a delivery, or `wake` was called, or the deadline has passed.

        Args:
            deadline: When to stop waiting, on the loop's clock; None for never.
        """
        if self._came:
            return
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if deadline is None else loop.call_at(deadline, self.wake)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiter = None
