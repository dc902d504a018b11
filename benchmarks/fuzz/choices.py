"""Choices made by bytes, so that whoever changes a byte changes a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Choices"]

T = TypeVar("T")


class Choices:
    """Reads choices off bytes; where they end, each choice is the first.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1, out of one byte, or two where one is too few."""
        taken = self.take(1 if limit <= 256 else 2)
        return int.from_bytes(taken, "big") % limit

    def of(self, values: Sequence[T]) -> T:
        """Return one of some values."""
        return values[self.below(len(values))]

    def take(self, count: int) -> bytes:
        """Return the next bytes, as many as there are."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def text(self) -> str:
        """Return a text of up to 255 bytes, of which any may be anything."""
        return self.take(self.below(256)).decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """Return what is left."""
        return self.take(len(self._data))
