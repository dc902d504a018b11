"""The state machines of replicas and sessions: which phases there are, and what may follow.

Pure. A phase is stored with every change; a passing phase has a deadline, so that nothing waits
for ever in a state that nobody leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = [
    "PASSING_PHASES",
    "REPLICA_TRANSITIONS",
    "SESSION_TRANSITIONS",
    "IllegalTransitionError",
    "ReplicaPhase",
    "SessionState",
    "check_replica_transition",
    "check_session_transition",
]


class ReplicaPhase(StrEnum):
    """Where a replica stands; the same names as `podbay.v1.ReplicaPhase`."""

    PENDING = "PENDING"
    """It waits for room, or for its turn after a failure. It has no deadline: it waits for what
    others do, and says for what."""
    STARTING = "STARTING"
    PROBING = "PROBING"
    READY = "READY"
    UNREADY = "UNREADY"
    DRAINING = "DRAINING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether the replica has ended for good."""
        return self in _ENDED

    @property
    def serves(self) -> bool:
        """Whether the replica takes calls."""
        return self is ReplicaPhase.READY


class SessionState(StrEnum):
    """What is wanted of a session."""

    ACTIVE = "ACTIVE"
    """Its replicas shall run."""
    ENDING = "ENDING"
    """Its replicas shall end; not all have."""
    ENDED = "ENDED"
    """Nothing of it runs."""


_P = ReplicaPhase
_ENDED: Final = frozenset({_P.STOPPED, _P.FAILED})

REPLICA_TRANSITIONS: Final[Mapping[ReplicaPhase, frozenset[ReplicaPhase]]] = {
    _P.PENDING: frozenset({_P.STARTING, _P.STOPPED}),
    _P.STARTING: frozenset({_P.PROBING, _P.STOPPING, _P.FAILED}),
    _P.PROBING: frozenset({_P.READY, _P.STOPPING, _P.FAILED}),
    _P.READY: frozenset({_P.UNREADY, _P.DRAINING, _P.FAILED}),
    _P.UNREADY: frozenset({_P.READY, _P.DRAINING, _P.STOPPING, _P.FAILED}),
    _P.DRAINING: frozenset({_P.STOPPING, _P.STOPPED}),
    _P.STOPPING: frozenset({_P.STOPPED, _P.FAILED}),
    _P.STOPPED: frozenset(),
    _P.FAILED: frozenset(),
}
"""What may follow each phase of a replica."""

PASSING_PHASES: Final = frozenset({_P.STARTING, _P.PROBING, _P.UNREADY, _P.DRAINING, _P.STOPPING})
"""The phases that have a deadline."""

_S = SessionState

SESSION_TRANSITIONS: Final[Mapping[SessionState, frozenset[SessionState]]] = {
    _S.ACTIVE: frozenset({_S.ENDING}),
    _S.ENDING: frozenset({_S.ENDED}),
    _S.ENDED: frozenset(),
}
"""What may follow each state of a session."""


class IllegalTransitionError(Exception):
    """A state machine was asked for a step that it does not have: a defect."""


def check_replica_transition(before: ReplicaPhase, after: ReplicaPhase) -> None:
    """Let a step pass that the table has.

    Raises:
        IllegalTransitionError: The table does not have it.
    """
    if after not in REPLICA_TRANSITIONS[before]:
        raise IllegalTransitionError(f"a replica cannot go from {before} to {after}")


def check_session_transition(before: SessionState, after: SessionState) -> None:
    """Let a step pass that the table has.

    Raises:
        IllegalTransitionError: The table does not have it.
    """
    if after not in SESSION_TRANSITIONS[before]:
        raise IllegalTransitionError(f"a session cannot go from {before} to {after}")
