"""The lease: the rules over the row, with clocks that differ."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from podbay_session_manager.lease import FREE, LeaseRow, Sighting, may_take, sight, takes_at

SECONDS = 5.0
NAMES = ("a", "b", "c")
TAKEOVER_SECONDS = 10.0
POLL_SECONDS = 0.5


class Process:
    """One session manager as the rules see it: a clock of its own speed, and what it knows."""

    def __init__(self, name: str, start: float, speed: float) -> None:
        self.name = name
        self.start = start
        self.speed = speed
        self.seen: Sighting | None = None
        self.term: int | None = None
        self.until = 0.0
        self.began: float | None = None
        """When a renewal was begun that is not over, on its own clock."""


class Leases(RuleBasedStateMachine):
    """Processes whose clocks differ, stop at any point, and die; one row between them."""

    @initialize(
        starts=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
        speeds=st.lists(st.floats(0.9951, 1.0049), min_size=3, max_size=3),
    )
    def begin(self, starts: list[float], speeds: list[float]) -> None:
        self.time = 0.0
        self.row = LeaseRow(0, FREE, "", 0, 0.0)
        self.processes = [Process(*facts) for facts in zip(NAMES, starts, speeds, strict=True)]
        self.terms: list[int] = [0]

    def clock(self, process: Process) -> float:
        return process.start + self.time * process.speed

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        self.time += seconds

    @rule(index=st.integers(0, 2), between=st.floats(0, 6))
    def look(self, index: int, between: float) -> None:
        """Look at the row; the process may be stopped between the look and its end."""
        process = self.processes[index]
        row = self.row
        self.time += between
        process.seen = sight(process.seen, row, self.clock(process))

    @rule(index=st.integers(0, 2), between=st.floats(0, 8), after=st.floats(0, 8))
    def take(self, index: int, between: float, after: float) -> None:
        """Take the row where the rules allow it; stopped before the write, or behind it."""
        process = self.processes[index]
        if process.seen is None or process.term is not None:
            return
        began = self.clock(process)
        if not may_take(process.seen, began, dead=False):
            return
        self.time += between
        seen = process.seen.row
        if (self.row.term, self.row.beat) != (seen.term, seen.beat):
            return
        self.row = LeaseRow(seen.term + 1, process.name, "", seen.beat + 1, SECONDS)
        assert self.row.term not in self.terms
        self.terms.append(self.row.term)
        self.time += after
        process.term, process.until = self.row.term, began + SECONDS

    @rule(index=st.integers(0, 2), between=st.floats(0, 8), after=st.floats(0, 8))
    def renew(self, index: int, between: float, after: float) -> None:
        process = self.processes[index]
        if process.term is None:
            return
        began = self.clock(process)
        self.time += between
        if self.row.term == process.term and self.row.holder == process.name:
            self.row = LeaseRow(
                self.row.term, self.row.holder, "", self.row.beat + 1, self.row.seconds
            )
            self.time += after
            process.until = began + SECONDS
        else:
            process.term = None

    @rule(index=st.integers(0, 2))
    def release(self, index: int) -> None:
        process = self.processes[index]
        if process.term is not None and self.row.holder == process.name:
            self.row = LeaseRow(self.row.term, FREE, "", self.row.beat + 1, self.row.seconds)
        process.term = None

    @rule(index=st.integers(0, 2))
    def die(self, index: int) -> None:
        process = self.processes[index]
        process.seen = process.term = None

    @invariant()
    def at_most_one_trusts_its_lease(self) -> None:
        if not hasattr(self, "processes"):
            return
        trusting = [
            process
            for process in self.processes
            if process.term is not None and self.clock(process) < process.until
        ]
        assert len(trusting) <= 1
        for process in trusting:
            assert process.term == self.row.term


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_silence_is_followed_by_another_within_ten_seconds() -> None:
    row = LeaseRow(3, "a", "x:1", 17, SECONDS)
    # It is seen at most one look after the last sign of life, and taken at the next look.
    worst = takes_at(Sighting(row, POLL_SECONDS)) + POLL_SECONDS
    assert worst < TAKEOVER_SECONDS


def test_a_sign_of_life_begins_the_wait_anew() -> None:
    first = sight(None, LeaseRow(3, "a", "x:1", 17, SECONDS), 100.0)
    same = sight(first, LeaseRow(3, "a", "x:1", 17, SECONDS), 104.0)
    assert same.since == 100.0
    assert not may_take(same, 104.0, dead=False)
    assert may_take(same, 104.0, dead=True)
    assert may_take(same, takes_at(same), dead=False)
    later = sight(same, LeaseRow(3, "a", "x:1", 18, SECONDS), 104.0)
    assert not may_take(later, takes_at(same), dead=False)
    assert may_take(sight(later, LeaseRow(3, FREE, "", 19, SECONDS), 104.0), 104.0, dead=False)
