"""When a call is sent again."""

from __future__ import annotations

import pytest

from podbay._core.retries import TAKEOVER_SECONDS, Attempts, Reconnects, backoff, call_slack
from podbay.errors import PodbayError, error_for

BUSY = error_for("STORE_UNAVAILABLE", "Busy.")
LOST = error_for("CONNECTION_LOST", "Lost.")


def test_backoff_grows_to_a_bound() -> None:
    assert [backoff(n, 1.0) for n in range(1, 8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff(3, 0.0) == 0.2
    assert backoff(10_000, 0.5) == 1.5


def test_slack_is_small_and_bounded() -> None:
    assert call_slack(0.1) == pytest.approx(0.255)
    assert call_slack(1e6) == 2.0


def test_attempts_are_counted() -> None:
    attempts = Attempts(retries=2, safe=True, deadline=100.0)
    assert attempts.next_delay(BUSY, 0.0, 1.0) == 0.1
    assert attempts.next_delay(LOST, 0.0, 1.0) == 0.2
    assert attempts.next_delay(BUSY, 0.0, 1.0) is None


@pytest.mark.parametrize(
    ("error", "safe", "again"),
    [
        (BUSY, True, True),
        (BUSY, False, False),
        (error_for("STORE_UNAVAILABLE", "Busy.", not_started=True), False, True),
        (error_for("SESSION_NOT_READY", "Not yet."), True, False),
        (error_for("MODEL_NOT_FOUND", "None."), True, False),
        (error_for("DEADLINE_EXCEEDED", "Late."), True, False),
    ],
)
def test_only_what_may_help_and_does_no_harm(error: PodbayError, safe: bool, again: bool) -> None:
    delay = Attempts(retries=3, safe=safe, deadline=100.0).next_delay(error, 0.0, 1.0)
    assert (delay is not None) is again


def test_the_service_s_wish_and_the_deadline_count() -> None:
    patient = error_for("STORE_UNAVAILABLE", "Busy.", retry_after=5.0)
    assert Attempts(3, True, 100.0).next_delay(patient, 0.0, 1.0) == 5.0
    assert Attempts(3, True, 100.0).next_delay(patient, 95.0, 1.0) is None
    assert Attempts(0, True, 100.0).next_delay(BUSY, 0.0, 1.0) is None


def test_a_stream_is_opened_again_within_its_patience() -> None:
    reconnects = Reconnects(patience=1.0)
    assert reconnects.next_delay(LOST, 10.0, 1.0) == 0.1
    assert reconnects.next_delay(LOST, 10.5, 1.0) == 0.2
    assert reconnects.next_delay(LOST, 10.9, 1.0) is None
    reconnects.came()
    assert reconnects.next_delay(LOST, 20.0, 1.0) == 0.1
    assert Reconnects(patience=0.0).next_delay(LOST, 0.0, 1.0) is None


def test_a_stream_is_not_opened_again_for_other_errors() -> None:
    reconnects = Reconnects(patience=10.0)
    unreachable = error_for("SERVICE_UNREACHABLE", "Gone.")
    assert reconnects.next_delay(error_for("REVISION_COMPACTED", "Old."), 0.0, 1.0) is None
    # Not at first, but where it was there before.
    assert reconnects.next_delay(unreachable, 0.0, 1.0) is None
    assert reconnects.next_delay(LOST, 0.0, 1.0) == 0.1
    assert reconnects.next_delay(unreachable, 0.0, 1.0) == 0.2


def test_whoever_leads_next_is_waited_for_without_using_up_tries() -> None:
    nobody = error_for("NOT_LEADER", "stands by", retry_after=0.2, not_started=True)
    attempts = Attempts(retries=1, safe=False, deadline=100.0)
    now = 0.0
    while (delay := attempts.next_delay(nobody, now, 0.5)) is not None:
        assert 0.2 <= delay <= 2.0
        now += delay
    assert TAKEOVER_SECONDS <= now <= TAKEOVER_SECONDS + 4
    assert attempts.made == 0
    # One that was told to send nothing again does not, and no wait goes past the deadline.
    assert Attempts(0, True, 100.0).next_delay(nobody, 0.0, 0.5) is None
    assert Attempts(3, True, 0.1).next_delay(nobody, 0.0, 0.5) is None
