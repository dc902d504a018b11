"""Wait for what becomes true, with a deadline instead of a guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

DEADLINE_SECONDS = 30.0
_PAUSE_SECONDS = 0.01


async def eventually(
    condition: Callable[[], object | Awaitable[object]],
    what: str,
    *,
    timeout: float = DEADLINE_SECONDS,  # noqa: ASYNC109 # the helper's whole purpose
) -> None:
    """Return once `condition()` is true; fail naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        await asyncio.sleep(_PAUSE_SECONDS)


def eventually_sync(
    condition: Callable[[], object], what: str, *, timeout: float = DEADLINE_SECONDS
) -> None:
    """Return once `condition()` is true; fail naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(_PAUSE_SECONDS)


def eventually_nothing(
    look: Callable[[], object], what: str, *, timeout: float = DEADLINE_SECONDS
) -> None:
    """Return once `look()` finds nothing; fail with what it found last after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while found := look():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}: {found}")
        time.sleep(_PAUSE_SECONDS)
