"""What a session's status is told like."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from podbay._core.explaining import explained
from podbay._core.session_ops import not_ready_in_time
from podbay.types import ReplicaStatus, SessionStatus

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def replica() -> ReplicaStatus:
    return ReplicaStatus(
        id="r",
        index=0,
        attempt=3,
        phase="Failed",
        reason="REPLICA_EXITED",
        message="The command ended with exit code 3.",
        node="local",
        driver="process",
        exit_code=3,
        log_tail=("boom",),
        address="",
        process_id=None,
        creation_time=NOW,
        transition_time=NOW,
        ready_time=None,
        retry_time=NOW + timedelta(seconds=2),
        gpus=(),
        failures=2,
        out_of_memory=False,
    )


def session(status: str, explanation: str = "") -> SessionStatus:
    return SessionStatus(
        session_id="s",
        status=status,
        reason=None,
        message=None,
        ready=False,
        ready_replicas=0,
        desired_replicas=1,
        replicas=(replica(),),
        explanation=explanation,
        revision=7,
    )


def test_a_replica_is_tried_again_only_while_its_session_goes_on() -> None:
    assert "tried again in 2.0 s" in explained(session("Admitted"), NOW).text
    # What is past is no promise.
    later = NOW + timedelta(seconds=3)
    assert "tried again" not in explained(session("Admitted"), later).text
    for status in ("Error", "Terminated"):
        told = explained(session(status), NOW).text
        assert "tried again" not in told
        assert "exit code 3" in told


def test_a_wait_that_took_too_long_tells_each_thing_once() -> None:
    explanation = "0 of 1 replicas are ready.\nReplica 0: exit code 3."
    told = str(not_ready_in_time("s", session("Admitted", explanation), 5.0).message)
    assert told.count("0 of 1 replicas are ready") == 1
    assert told.endswith("exit code 3.")
    told = str(not_ready_in_time("s", session("Admitted"), 5.0).message)
    assert told.endswith("0 of 1 replicas are ready.")
