"""Limits that several workers of a router keep together: of a replica, a session or an account.

The workers share nothing but a file that their parent opened. A limit, as `max_concurrency`, is cut
into leases; a lease is a lock on a byte of that file, so no two workers have the same one, and the
kernel takes it back when a worker dies. A worker takes a lease with a call that needs it and gives
it back with the call's end. Beside the locks the file holds marks of who waits for which limit:
they are hints, so that a worker that has its share leaves the next free lease to one that has not.

How many calls a lease is for does not depend on the limit, which only says how far the leases may
be used. So workers of which some know a new limit, or a new share of it, and others do not yet,
together never have more than the larger one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from bisect import bisect_left
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

__all__ = ["RETRY_SECONDS", "LeaseFile", "Shared", "cut", "make_lease_file"]

RETRY_SECONDS: Final = 0.005
"""How long a worker that got no lease waits on average before it looks again; nobody tells it of
free ones."""

_YIELD_SECONDS: Final = 3 * RETRY_SECONDS
_BUCKETS: Final = 4096
_WORKERS: Final = 64
_LEASE_BITS: Final = 8
# One call each up to 32, so that no place is lost where workers share a small limit. Then each is
# for at most a sixteenth of the calls of those before it: a worker that finds none free has looked
# through about a hundred of a limit of 1,000.
_SIZES: Final = (
    *[1] * 32,
    *[1 << (1 + index // 16) for index in range((1 << _LEASE_BITS) - 33)],
    1 << 31,
)
# How many calls the leases before each one are for.
_STARTS: Final = (0, *accumulate(_SIZES[:-1]))


class Shared(Protocol):
    """What has a limit that workers share: a replica, a session, or an account.

    Attributes:
        leases: The leases that this worker has, by their numbers: how many calls each is for.
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
    """Cut a limit into leases.

    Args:
        limit: How many calls may run at once; at least 1.

    Returns:
        How many calls each lease may be used for; their sum is the limit.
    """
    count = _count(limit)
    return [*_SIZES[: count - 1], limit - _STARTS[count - 1]]


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

    def grow(self, shared: Shared, bound: int, now: float) -> bool:
        """Take another lease of a limit, and let this worker have more calls.

        Args:
            shared: What has the limit.
            bound: How many calls that may be, at all workers of this router together.
            now: The time on the clock of `yield_until`.

        Returns:
            Whether there was one to take.
        """
        if now < shared.yield_until:
            return False
        count, base = _count(bound), _offset(shared)
        first = self._worker * count // self._workers
        for step in range(count):
            index = (first + step) % count
            if self._lock(base + index):
                shared.leases[index] = _SIZES[index]
                shared.allowance += _SIZES[index]
                return True
        return False

    def shrink(self, shared: Shared, limit: int, now: float, *, politely: bool = True) -> None:
        """Give back the leases of a limit that its calls no longer need.

        Args:
            shared: What has the limit.
            limit: How many calls that may be, at all workers together.
            now: The time on the clock of `yield_until`.
            politely: Whether workers that wait go first then, where this one has its share.
        """
        while shared.leases:
            # The last of all leases is the first that the router may have to give away.
            index = max(shared.leases)
            size = shared.leases[index]
            if shared.allowance - size < shared.outstanding:
                return
            del shared.leases[index]
            shared.allowance -= size
            self._unlock(_offset(shared) + index)
            if politely:
                others = self._others_that_wait(shared)
                if others and shared.allowance >= limit // (others + 1):
                    shared.yield_until = now + _YIELD_SECONDS

    def allowance(self, shared: Shared, bound: int) -> int:
        """Return how many calls this worker's leases let it have.

        Args:
            shared: What has the limit.
            bound: How many calls that may be, at all workers of this router together.
        """
        leases = shared.leases
        if not leases or _STARTS[last := max(leases)] + _SIZES[last] <= bound:
            return shared.allowance
        return sum(min(size, max(0, bound - _STARTS[index])) for index, size in leases.items())

    def bound(self, shared: Shared) -> int:
        """Return how many calls this router may have running by what this worker has running.

        Other workers may have all leases before the last one that this one uses; what lies behind
        it they tell themselves.
        """
        left = shared.outstanding
        if left <= 0:
            return 0
        reached = 0
        for index in sorted(shared.leases):
            reached = _STARTS[index] + min(left, shared.leases[index])
            left -= shared.leases[index]
            if left <= 0:
                return reached
        # Calls that ran before there was a limit have no lease.
        return reached + left

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

    def _unlock(self, offset: int) -> None:
        self._held.discard(offset)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset, os.SEEK_SET)


def _count(bound: int) -> int:
    """Return how many leases, from the first on, may be used for so many calls."""
    return bisect_left(_STARTS, bound)


def _hash(shared: Shared) -> int:
    return int.from_bytes(blake2b(shared.lease_key.encode(), digest_size=5).digest(), "big")


def _offset(shared: Shared) -> int:
    """Give the place of a limit's first lease, behind the marks."""
    return (_hash(shared) + (1 << 20)) << _LEASE_BITS


def _bucket(shared: Shared) -> int:
    # Two limits in one bucket only make a worker more polite than it must be.
    return _hash(shared) % _BUCKETS * _WORKERS
