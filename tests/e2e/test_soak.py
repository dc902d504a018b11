"""A short soak; `make soak` runs ten minutes of the same."""

from benchmarks.soak import soak


def test_mixed_calls_with_cancels_and_a_death_leave_nothing_behind() -> None:
    outcome = soak(seconds=8, kill_every=4)
    assert outcome.problems() == []
    assert outcome.cancelled
    assert outcome.kills
