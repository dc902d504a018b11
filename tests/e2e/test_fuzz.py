"""A short attack on a whole installation; `make fuzz` runs two minutes of the same."""

from benchmarks.fuzz.run import fuzz


def test_an_attack_meets_no_defect_and_leaves_nothing_behind() -> None:
    outcome = fuzz(seconds=8, quiet=1, frames=100)
    assert outcome.problems() == []
    # Every method of every service was called, and every attack by frames was made.
    assert len(outcome.report.methods) >= 50
    assert len(outcome.report.attacks) == 14
