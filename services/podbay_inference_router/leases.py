"""A replica's limit, kept by several workers together.

The workers share nothing but a file that their parent opened. A replica's `max_concurrency` is cut
into leases; a lease is a lock on a byte of that file, so no two workers have the same one, and the
kernel takes it back when a worker dies. A worker takes a lease with a call that needs it and gives
it back with the call's end. Beside the locks the file holds marks of who waits for which replica:
they are hints, so that a worker that has its share leaves the next free lease to one that has not.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

__all__ = ["RETRY_SECONDS", "LeaseFile", "Shared", "cut", "make_lease_file"]

RETRY_SECONDS: Final = 0.005
"""How long a worker that got no lease waits before it looks again; nobody tells it of free ones."""

_MOST_LEASES: Final = 32  # of one replica: what a worker looks through when none is free
_YIELD_SECONDS: Final = 3 * RETRY_SECONDS
_BUCKETS: Final = 4096
_WORKERS: Final = 64
_LEASE_BITS: Final = 8


class Shared(Protocol):
    """What has a limit that workers share: a replica, or an account.

    Attributes:
        leases: The leases that this worker has, by their places in the file: how many calls each
            is for.
        allowance: How many calls they are for together.
        yield_until: Until when other workers go first.
    """

    leases: dict[int, int]
    allowance: int
    yield_until: float

    @property
    def lease_key(self) -> str:
        """What its leases are known by to all workers."""
        ...

    @property
    def outstanding(self) -> int:
        """How many calls this worker has there."""
        ...


def cut(limit: int) -> list[int]:
    """Cut a limit into leases of nearly equal size.

    Args:
        limit: How many calls a replica works on at once; at least 1.

    Returns:
        How many calls each lease is for; their sum is the limit.
    """
    count = min(limit, _MOST_LEASES)
    size, rest = divmod(limit, count)
    return [size + (index < rest) for index in range(count)]


def make_lease_file(path: Path | None = None, *, in_use: bool = False) -> BinaryIO:
    """Open a file for the workers of one router.

    Args:
        path: Where it is; without, it has no name, and ends with them.
        in_use: Whether workers of an earlier router have it, whose marks are to be kept.
    """
    if path is None:
        file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 # the caller closes it
    else:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        if not in_use:
            file.truncate(0)
    file.truncate(_BUCKETS * _WORKERS)
    return file


class LeaseFile:
    """A worker's view of the file.

    Args:
        descriptor: The file, as `make_lease_file` made it.
        worker: Which worker this is, from 0.
        workers: How many there are.
    """

    def __init__(self, descriptor: int, worker: int, workers: int) -> None:
        self._descriptor = descriptor
        self._worker = worker % _WORKERS
        self._workers = workers
        self._marks = mmap.mmap(descriptor, _BUCKETS * _WORKERS)
        # A process gets a lock that it has a second time, and loses both at once.
        self._held: set[int] = set()
        # What an earlier worker in this place left.
        for bucket in range(_BUCKETS):
            self._marks[bucket * _WORKERS + self._worker] = 0

    def grow(self, shared: Shared, limit: int, now: float, share: int | None = None) -> bool:
        """Take another lease of a limit, and let this worker have more calls.

        Args:
            shared: What has the limit.
            limit: How many calls that may be, at all workers together.
            now: The time on the clock of `yield_until`.
            share: How many of them this router may have, where the limit is shared with other
                routers; else None.

        Returns:
            Whether there was one to take.
        """
        if now < shared.yield_until:
            return False
        sizes, base = cut(limit), _offset(shared)
        usable = len(sizes) if share is None else _leases_in(sizes, share)
        first = self._worker * usable // self._workers
        for step in range(usable):
            index = (first + step) % usable
            if self._lock(base + index):
                shared.leases[base + index] = sizes[index]
                shared.allowance += sizes[index]
                return True
        return False

    def shrink(self, shared: Shared, limit: int, now: float) -> None:
        """Give back the leases of a limit that its calls no longer need.

        Args:
            shared: What has the limit.
            limit: How many calls that may be, at all workers together.
            now: The time on the clock of `yield_until`.
        """
        while shared.leases:
            # The last of all leases is the first that the router may have to give away.
            offset = max(shared.leases)
            size = shared.leases[offset]
            if shared.allowance - size < shared.outstanding:
                return
            del shared.leases[offset]
            shared.allowance -= size
            self._held.discard(offset)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset, os.SEEK_SET)
            others = self._others_that_wait(shared)
            if others and len(shared.leases) >= min(limit, _MOST_LEASES) // (others + 1):
                shared.yield_until = now + _YIELD_SECONDS

    def allowance(self, shared: Shared, limit: int, share: int) -> int:
        """Return how many calls this worker's leases let it have at a limit.

        Args:
            shared: What has the limit.
            limit: How many calls that may be, at all routers together.
            share: How many of them this router may have.
        """
        if share >= limit or not shared.leases:
            return shared.allowance
        end = _offset(shared) + _leases_in(cut(limit), share)
        return sum(size for offset, size in shared.leases.items() if offset < end)

    def bound(self, shared: Shared, limit: int, share: int) -> int:
        """Return how many calls this router may have at a limit by what this worker holds.

        That is the share, or more where this worker still has calls from before the share became
        smaller.
        """
        if share >= limit or not shared.leases:
            return share
        sizes = cut(limit)
        last = max(shared.leases) - _offset(shared)
        return max(share, sum(sizes[: last + 1]))

    def mark(self, shared: Shared, *, waits: bool) -> None:
        """Tell the other workers whether calls wait here for a lease of a limit."""
        self._marks[_bucket(shared) + self._worker] = waits

    def _others_that_wait(self, shared: Shared) -> int:
        start = _bucket(shared)
        marks = self._marks[start : start + _WORKERS]
        return sum(marks) - marks[self._worker]

    def _lock(self, offset: int) -> bool:
        if offset in self._held:
            return False
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset, os.SEEK_SET)
        except (BlockingIOError, PermissionError):
            return False
        self._held.add(offset)
        return True


def _leases_in(sizes: list[int], share: int) -> int:
    """Return how many leases, from the first on, are for no more calls than a share."""
    count = total = 0
    for size in sizes:
        total += size
        if total > share:
            break
        count += 1
    return count


def _hash(shared: Shared) -> int:
    return int.from_bytes(blake2b(shared.lease_key.encode(), digest_size=5).digest(), "big")


def _offset(shared: Shared) -> int:
    """Give the place of a limit's first lease, behind the marks."""
    return (_hash(shared) + (1 << 20)) << _LEASE_BITS


def _bucket(shared: Shared) -> int:
    # Two limits in one bucket only make a worker more polite than it must be.
    return _hash(shared) % _BUCKETS * _WORKERS
