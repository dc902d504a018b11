"""A small writer of flatbuffers: as much as an Arrow schema takes.

A flatbuffer is written back to front: what is created first ends up last. Offsets are the sizes
of the buffer at the time, so a larger offset lies nearer to the front.
"""

import struct
from collections.abc import Sequence

__all__ = ["FlatbufferWriter", "Offset", "Slot"]

Offset = int
"""The size of the buffer right after something was written: where it begins, from the end."""

Slot = tuple[int, str, int]
"""A member of a table: its number, its format for `struct` or "ref", and its value or offset."""

_REF = "ref"


class FlatbufferWriter:
    """Writes strings, vectors of references and tables, and shares equal layouts of tables."""

    def __init__(self) -> None:
        self._bytes = b""
        self._layouts: dict[bytes, Offset] = {}

    def _pad(self, size: int, following: int = 0) -> None:
        """Pads so that `following` bytes later the buffer is aligned to `size`."""
        self._bytes = bytes(-(len(self._bytes) + following) % size) + self._bytes

    def _push(self, layout: str, value: int) -> Offset:
        data = struct.pack(f"<{layout}", value)
        self._pad(len(data))
        self._bytes = data + self._bytes
        return len(self._bytes)

    def _push_reference(self, target: Offset) -> Offset:
        self._pad(4)
        return self._push("I", len(self._bytes) - target + 4)

    def string(self, text: str) -> Offset:
        """Writes a string."""
        data = text.encode() + b"\0"
        self._pad(4, len(data))
        self._bytes = data + self._bytes
        return self._push("I", len(data) - 1)

    def vector(self, targets: Sequence[Offset]) -> Offset:
        """Writes a vector of references."""
        self._pad(4)
        for target in reversed(targets):
            self._push_reference(target)
        return self._push("I", len(targets))

    def table(self, slots: Sequence[Slot]) -> Offset:
        """Writes a table; its members lie in memory in the reverse of the given order."""
        start = len(self._bytes)
        places = {
            number: self._push_reference(value) if layout == _REF else self._push(layout, value)
            for number, layout, value in slots
        }
        self._pad(4)
        table = len(self._bytes) + 4
        width = max(places, default=-1) + 1
        entries = [table - places[number] if number in places else 0 for number in range(width)]
        layout = struct.pack(f"<{2 + width}H", 4 + 2 * width, table - start, *entries)
        shared = self._layouts.get(layout)
        if shared is None:
            shared = self._layouts[layout] = table + len(layout)
            self._bytes = layout + struct.pack("<i", shared - table) + self._bytes
        else:
            self._bytes = struct.pack("<i", shared - table) + self._bytes
        return table

    def finish(self, root: Offset) -> bytes:
        """Returns the buffer, whose root is this table."""
        self._push_reference(root)
        return self._bytes
