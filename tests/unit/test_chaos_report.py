"""What the gate takes for explained, and how it tells what happened."""

from __future__ import annotations

import pytest

from benchmarks.chaos_calls import Done
from benchmarks.chaos_faults import Fault
from benchmarks.chaos_report import Aims, Report

CRASH = Fault(
    (("inference-router", "crash"), ("session-manager", "kill")), 10.0, (10.2, 10.3), 11.0, 13.0
)
KILL = Fault((("inference-router", "kill"),), 20.0, (21.0,), 20.5, 21.0)


def call(
    began: float, ended: float, reason: str = "", *, not_started: bool = False, session: str = "s1"
) -> Done:
    return Done("infer", session, began, ended, reason, "why", not_started)


@pytest.mark.parametrize(
    ("failed", "explained"),
    [
        (call(9.0, 10.1, "CONNECTION_LOST"), True),
        (call(10.1, 12.0, "CONNECTION_LOST"), True),
        (call(9.0, 9.9, "CONNECTION_LOST"), False),  # before
        (call(10.3, 10.4, "CONNECTION_LOST"), False),  # the router was gone by then
        (call(9.0, 10.1, "REPLICA_CONNECTION_LOST"), False),  # of something else
        (call(9.0, 10.1, "CONNECTION_LOST", not_started=True), False),
        (call(19.0, 20.05, "CONNECTION_LOST"), False),  # its workers serve on
        (call(20.9, 20.95, "CANCELLED"), True),  # as they end
        (call(21.2, 21.3, "CANCELLED"), False),
    ],
)
def test_only_what_was_in_flight_in_what_was_lost_may_fail(failed: Done, explained: bool) -> None:
    report = Report(1, [failed], [CRASH, KILL])
    assert (report.cause(failed) is not None) == explained
    assert (report.unexplained() == []) == explained
    (line,) = [text for text in report.lines() if text.startswith("  failed at")]
    assert "infer of s1" in line
    assert f"{failed.reason}: why" in line
    cause = report.cause(failed)
    assert ("WITHOUT CAUSE" if cause is None else f", in flight in: {cause.name}: infer") in line


def test_times_without_an_answer_are_told_with_their_faults() -> None:
    answered = [call(t, t + 0.1) for t in (9.0, 9.5, 12.9, 13.5, 20.0, 20.6)]
    report = Report(len(answered), answered, [CRASH, KILL], {"inference-router": 2})
    assert report.outage() == pytest.approx(6.5)
    text = "\n".join(report.lines())
    assert "6.50 s, from 3.60 s on: crash inference-router, then kill session-manager" in text
    assert "3.40 s, from -0.40 s on: crash inference-router, then kill session-manager" in text
    assert "inference-router was started again 2 times; it was ended 2 times" in text
    assert "whole after 3.00 s; no answer for" in text
    problems = report.problems(Aims(p95=0.05))
    assert len(problems) == 2  # the percentile and the outage, which is one of two parts
    assert "longest outage of two parts is 6.500 s; the aim is 4.0 s" in problems[1]
    assert report.problems(Aims(p95=None, outage_of_two=None)) == []
    report.faults.remove(CRASH)
    (problem,) = report.problems(Aims(p95=None))
    assert problem == "the longest outage is 6.500 s; the aim is 2.0 s"


def test_what_did_not_end_or_was_left_is_a_problem() -> None:
    report = Report(3, [call(0, 1), call(1, 2, "BAD", not_started=True)], left=["a file"])
    problems = report.problems(Aims(p95=None, outage=None))
    assert problems[0] == "1 calls failed without a cause: infer: BAD"
    assert problems[1] == "3 calls were begun, and 2 have ended"
    assert problems[2].startswith("50.0000% were answered")
    assert problems[3] == "a file"
