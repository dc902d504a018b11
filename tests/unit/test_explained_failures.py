"""That none of the failures that everybody is told alike has lost its test."""

from __future__ import annotations

from tests.e2e import test_explained_calls as calls
from tests.e2e.docker import test_explained_sessions as sessions

FAILURES = {
    "missing image",
    "wrong digest",
    "crash at import",
    "out of memory",
    "never ready",
    "port closed",
    "no GPU of the type",
    "GPUs busy",
    "node lost",
    "engine down",
    "expired token",
    "foreign token",
    "terminated session",
    "bad JSON",
    "failing adapter step",
    "oversize body",
    "deadline",
    "overload",
    "replica answers 500",
    "model fetch failed",
}


def test_each_is_injected_for_real_and_compared_in_three_places() -> None:
    """The tests over these tables run each, and fail without what all three were told."""
    assert len(FAILURES) == 20
    assert not set(calls.SCENARIOS) & set(sessions.SCENARIOS)
    assert set(calls.SCENARIOS) | set(sessions.SCENARIOS) == FAILURES
    scenarios = [*calls.SCENARIOS.values(), *sessions.SCENARIOS.values()]
    assert len(set(scenarios)) == len(FAILURES), "two failures have the same scenario"
