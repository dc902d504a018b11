"""The leases of several workers in one process."""

from __future__ import annotations

from podbay_inference_router.leases import LeaseFile

__all__ = ["TakenLeases"]


class TakenLeases(LeaseFile):
    """One of several workers in one process, which the kernel's locks would not tell apart.

    Args:
        descriptor: The file.
        worker: Which worker this is, from 0.
        workers: How many there are.
        taken: The locks that any of them has.
    """

    def __init__(self, descriptor: int, worker: int, workers: int, taken: set[int]) -> None:
        super().__init__(descriptor, worker, workers)
        self._taken = taken
        self._mine: set[int] = set()

    def _lock(self, offset: int) -> bool:
        if offset in self._taken:
            return False
        self._taken.add(offset)
        self._mine.add(offset)
        return True

    def _unlock(self, offset: int) -> None:
        self._taken.remove(offset)
        self._mine.remove(offset)

    def die(self) -> None:
        """Lose all locks, as a process does that ends."""
        self._taken -= self._mine
