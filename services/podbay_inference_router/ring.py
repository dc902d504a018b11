"""Calls with the same key go to the same replica, as long as its load allows. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Final

__all__ = ["HashRing", "load_bound"]

_POINTS: Final = 64
# No replica gets more than this many times its fair share because of keys.
_MOST_LOAD: Final = 1.25


def load_bound(total: int, replicas: int) -> int:
    """Give the most calls that a replica may have for keys to bring it another one.

    Args:
        total: The calls of the session that run, the one to be placed among them.
        replicas: How many replicas there are; at least 1.
    """
    # Rounded up, so that a session with one call at a time keeps its keys where they are.
    return max(1, -int(-(_MOST_LOAD * total) // replicas))


class HashRing:
    """A consistent hash: when a replica comes or goes, only its share of the keys moves.

    The hash is the same in every process, so that all workers agree.

    Args:
        names: The replicas' ids.
    """

    __slots__ = ("_hashes", "_owners", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names: Sequence[str] = tuple(names)
        points = sorted(
            (_hash(f"{name}#{number}"), index)
            for index, name in enumerate(self.names)
            for number in range(_POINTS)
        )
        self._hashes = [point for point, _ in points]
        self._owners = [index for _, index in points]

    def order(self, key: str) -> Iterator[int]:
        """Yield the indexes of all replicas, the one that the key belongs to first."""
        size = len(self._hashes)
        start = bisect_left(self._hashes, _hash(key))
        seen: set[int] = set()
        for step in range(size):
            index = self._owners[(start + step) % size]
            if index not in seen:
                seen.add(index)
                yield index
                if len(seen) == len(self.names):
                    return


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
