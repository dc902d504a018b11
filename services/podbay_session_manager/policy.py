"""The numbers of the failure policy, and which failures trying again cannot mend. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from podbay_session_manager.records import Reason

__all__ = ["BLAMELESS", "HOPELESS", "OF_THE_NODE", "Policy"]

HOPELESS: Final = frozenset(
    {
        Reason.COMMAND_NOT_FOUND,
        Reason.COMMAND_NOT_EXECUTABLE,
        Reason.WORKING_DIRECTORY_NOT_FOUND,
        Reason.MOCK_NOT_IMPORTABLE,
        Reason.UNSUPPORTED_SERVICE,
        Reason.MOCK_PROCESS_ENDED,
        Reason.IMAGE_NOT_FOUND,
        Reason.IMAGE_DIGEST_NOT_FOUND,
        Reason.IMAGE_PULL_DENIED,
    }
)
"""What stays as it is until somebody changes the service or the node."""

BLAMELESS: Final = frozenset({Reason.NODE_LOST, Reason.GPU_FAILED, Reason.MODEL_NOT_READY})

OF_THE_NODE: Final = frozenset(
    {Reason.DISK_FULL, Reason.GPU_UNAVAILABLE, Reason.REGISTRY_UNREACHABLE}
)
"""Failures that another node may well be without: the next try goes elsewhere where it can."""
"""What a replica ends by through no fault of its own: it does not count as its failure."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient the session manager is. All times in seconds."""

    start_limit: float = 30.0
    """How long a driver may take to start a replica, or stand still where it tells its progress."""
    drain: float = 2.0
    """How long a replica stays up after it left the routes, where no router says sooner that it
    knows. The calls that it has then finish within its stop grace."""
    unready_limit: float = 30.0
    """How long a replica may refuse its probe before it is replaced."""
    silent_probes: int = 20
    """How many probes in a row, each about 3 s, may go without an answer before a replica takes no
    new calls. Silence is not refusal: a server that does one thing at a time gives none while it
    works on a long call, and must not be killed in the middle of it."""
    silent_limit: float = 600.0
    """How long a replica may stay silent after that before it is replaced."""
    first_backoff: float = 0.2
    last_backoff: float = 30.0
    failing_limit: float = 30.0
    """How long routers go on telling that the calls of a replica fail before it is replaced, which
    the last healthy one of a session never is."""
    failing_stable_after: float = 600.0
    """The same as `stable_after` for such a replica, as it takes time until that is told."""
    stable_after: float = 60.0
    """A replica that was ready this long failed for a new reason: its failure counts as the
    first."""
    attempts: int = 3
    """How often a session is tried that was never ready."""
    orphan_attempts: int = 8
    """How often a session that was ready is tried whose mock's process has ended: for about a
    minute, in which the process may be started again."""
    crash_loop: int = 3
    """After how many failures in a row a replica is said to be in a crash loop."""
    node_grace: float = 60.0
    """How long a node may be out of reach before its replicas are placed elsewhere."""
    silent_node: float = 3.0
    """How long a node that has not answered is waited for by a replica which would do better there:
    a pass goes on after half a second, which a busy engine may need to tell what it holds."""
    kept_replicas: int = 3
    """How many ended replicas are kept for each index, with their logs."""

    def backoff(self, failures: int) -> float:
        """Return the pause after so many failures in a row; none after none."""
        if failures <= 0:
            return 0.0
        return float(min(self.last_backoff, self.first_backoff * 2.0 ** min(failures - 1, 30)))

    def attempts_for(self, reason: Reason) -> int:
        """Return how often a session that was never ready is tried with this outcome."""
        # A start timeout is long: whoever waits for a session shall not wait for several.
        slow = reason in {Reason.NEVER_READY, Reason.PORT_NOT_OPENED}
        return 1 if reason in HOPELESS or slow else self.attempts
