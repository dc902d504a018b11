"""Locks by name, which are there as long as somebody uses them."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

__all__ = ["KeyedLocks"]


class KeyedLocks:
    """A lock for each name."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        """Return the lock of a name; whoever holds or awaits it keeps it alive."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock
