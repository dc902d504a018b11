"""Calls that go on while something happens, and an exact account of what became of them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any, Self

from podbay import PodbayError
from tests.support.eventually import eventually

__all__ = ["Traffic"]


class Traffic:
    """Callers that call one after another until told to stop.

    Args:
        session: An async session client.
        callers: How many call at once.
    """

    def __init__(self, session: Any, callers: int = 8) -> None:
        self._session = session
        self._callers = callers
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count()
        self.succeeded = 0
        self.failures: list[PodbayError] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._callers)]
        await self.more(self._callers)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def more(self, calls: int) -> None:
        """Return after `calls` more have succeeded."""
        target = self.succeeded + calls
        await eventually(
            lambda: self.succeeded >= target,
            f"{calls} more calls succeed; so far {self.reasons()}",
            timeout=60,
        )

    def reasons(self) -> Counter[str]:
        """Return how often which reason came."""
        return Counter(failure.reason for failure in self.failures)

    async def _call(self) -> None:
        while not self._stopping:
            number = next(self._numbers)
            try:
                items = await self._session.infer({"number": number}, timeout=60)
                assert items == [{"number": number}], items
                self.succeeded += 1
            except PodbayError as error:
                self.failures.append(error)
