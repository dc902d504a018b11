"""What people are told of sessions that failed."""

from __future__ import annotations

import pytest

from podbay_session_manager.records import (
    Reason,
    ReplicaRecord,
    ServiceSpec,
    Serving,
    SessionRecord,
)
from podbay_session_manager.texts import failure_message


def told(driver: str, reason: Reason, attempt: int) -> str:
    service = ServiceSpec(kind="container", name="hal")
    session = SessionRecord("s", "a", service, Serving(), driver, 1, 0.0)
    replica = ReplicaRecord(
        "r", "s", 0, attempt, driver, 0.0, 0.0, node="n1", reason=reason, message="So it was."
    )
    return failure_message(session, replica)


@pytest.mark.parametrize(
    ("driver", "attempt", "start"),
    [
        ("docker/n1", 1, "The session's replica on node n1 never became ready. So it was."),
        ("docker/n1", 3, "ready, after 3 attempts. The last one on node n1: So it was."),
        ("process", 1, "The session's replica never became ready. So it was."),
    ],
)
def test_a_node_of_many_is_named(driver: str, attempt: int, start: str) -> None:
    assert start in told(driver, Reason.REPLICA_EXITED, attempt)


def test_the_service_is_to_be_mended_only_where_it_can_help() -> None:
    assert "Mend the service 'hal'" in told("docker/n1", Reason.COMMAND_NOT_FOUND, 1)
    assert told("docker/n1", Reason.DISK_FULL, 3).endswith("Then create a new session.")
