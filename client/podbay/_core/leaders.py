"""Which of several session managers a client asks. Pure: who leads is asked by the faces."""

from __future__ import annotations

from typing import Final

from podbay.errors import PodbayError

__all__ = [
    "BRISK_OPTIONS",
    "LEADER_QUESTION",
    "LEADS",
    "LOOK_SECONDS",
    "PAUSE_SECONDS",
    "Leaders",
]

_SERVICE: Final = b"podbay.v1.SessionManagerService"

LEADER_QUESTION: Final = b"\x0a" + bytes([len(_SERVICE)]) + _SERVICE
"""A HealthCheckRequest that asks a session manager whether it leads."""

LEADS: Final = b"\x08\x01"
"""The HealthCheckResponse of one that does: SERVING."""

LOOK_SECONDS: Final = 1.0
"""How long one is asked."""

FRESH_SECONDS: Final = 0.5
"""How long the answer of the one that leads is taken for granted, where there are others."""

BRISK_OPTIONS: Final = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000))
"""Of channels to one of several: streams move on in time from one that is stopped as it is."""

PAUSE_SECONDS: Final = 0.1
"""How long to wait before all are asked again."""

_LEFT: Final = frozenset(
    {
        "CONNECTION_LOST",
        "DEADLINE_EXCEEDED",
        "NOT_LEADER",
        "SERVICE_STOPPING",
        "SERVICE_UNREACHABLE",
    }
)


class Leaders:
    """The session managers of an installation.

    Args:
        told: What the registry says of them: their addresses, by commas.
    """

    def __init__(self, told: str) -> None:
        self.addresses = tuple(part.strip() for part in told.split(",") if part.strip())
        """Where they are; those first that are to be asked first."""
        self.chosen = self.addresses[0] if len(self.addresses) == 1 else ""
        """The one that led when it was asked last; empty where all are to be asked."""
        self._chosen_at = float("-inf")

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self.addresses) > 1

    def choose(self, address: str, now: float) -> None:
        """Note which one leads, and when it said so."""
        self.chosen = address
        self._chosen_at = now
        # It is asked first the next time.
        others = tuple(known for known in self.addresses if known != address)
        self.addresses = (address, *others)

    def current(self, now: float) -> str:
        """Return the one to go to; empty where they are to be asked."""
        if self.several and now - self._chosen_at >= FRESH_SECONDS:
            return ""
        return self.chosen

    def failed(self, address: str, error: PodbayError) -> None:
        """Note how a call failed; the next one may have to go elsewhere."""
        if error.reason not in _LEFT:
            return
        leader = error.metadata.get("leader", "") if error.reason == "NOT_LEADER" else ""
        others = tuple(known for known in self.addresses if known != leader)
        if leader:
            self.addresses = (leader, *others)
        if self.chosen == address and self.several:
            self.chosen = ""
