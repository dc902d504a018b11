"""How far transfers of files are, and when one that broke off goes on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from podbay._core.retries import Reconnects
from podbay.errors import PodbayError, error_for
from podbay.types import TransferProgress
from podbay.v1 import registry_service_pb2 as registry

__all__ = ["Offer", "Sending", "Tally"]

_CHUNK: Final = 256 << 10
_SMALLEST_CHUNK: Final = 4 << 10
_CAREFUL_MESSAGES: Final = 4


@dataclass(frozen=True, slots=True)
class Offer:
    """A file that a model shall have.

    Attributes:
        path: Its path in the volume.
        size: Its length in bytes.
        sha256: What it holds.
    """

    path: str
    size: int
    sha256: str

    def message(self) -> registry.ModelFileOffer:
        """Return the message of it."""
        return registry.ModelFileOffer(path=self.path, size=self.size, sha256=self.sha256)


class Tally:
    """Counts what was read or transferred, and tells it.

    Args:
        activity: "read", "upload" or "download".
        total: All bytes.
        progress: Told whenever something came; None for nobody.
    """

    def __init__(
        self, activity: str, total: int, progress: Callable[[TransferProgress], object] | None
    ) -> None:
        self._activity = activity
        self._total = total
        self._progress = progress
        self._done: dict[str, int] = {}
        self._sum = 0

    def at(self, path: str, size: int) -> None:
        """Note how much of a file is done."""
        self.more(path, size - self._done.get(path, 0))

    def more(self, path: str, size: int) -> None:
        """Note that further bytes of a file are done."""
        self._sum += size
        self._done[path] = self._done.get(path, 0) + size
        if self._progress is not None:
            self._progress(TransferProgress(self._activity, self._sum, self._total, path))


@dataclass(slots=True)
class Sending:
    """Where the upload of one file stands, over all its tries.

    Attributes:
        offer: The file.
        offset: Where the next stream begins.
        reconnects: The tries.
        restarted: Whether it has begun again because what was there before was spoiled.
        careful: How many messages to send one by one, so that the service's error arrives.
        chunk: How many bytes a message has: fewer over a line that breaks before one is through.
    """

    offer: Offer
    offset: int
    reconnects: Reconnects
    restarted: bool = False
    careful: int = 0
    chunk: int = _CHUNK

    def next_delay(self, error: PodbayError, now: float, chance: float) -> float | None:
        """Return after how many seconds to go on after an error; None to give up with it."""
        if error.reason == "DIGEST_MISMATCH" and self.offset > 0 and not self.restarted:
            # What an earlier try has left may have been spoiled by a crash.
            self.restarted = True
            return 0.0
        self.careful = 0
        if error.reason == "INTERNAL" and "grpcCode" in error.metadata:
            # gRPC's own: it has lost what the service said.
            self.careful = _CAREFUL_MESSAGES
            error = error_for("TRANSFER_INTERRUPTED", error.message)
        if error.reason == "UPLOAD_OFFSET_MISMATCH":
            error = error_for("TRANSFER_INTERRUPTED", error.message)
        return self.reconnects.next_delay(error, now, chance)

    def goes_on(self, needs: Mapping[str, int]) -> bool:
        """Take note of what the registry needs now; say whether it needs any of the file."""
        offset = needs.get(self.offer.path)
        if offset is None:
            return False
        if offset > self.offset:
            self.reconnects.came()
        else:
            self.chunk = max(_SMALLEST_CHUNK, self.chunk // 2)
        self.offset = offset
        return True
