"""A short form of the gate; `make chaos` runs fifteen minutes of the same, CI three.

How fast answers come, and how long none does, is told by `make chaos` alone: a machine that runs
the suite is busy with other things.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.chaos import Plan, chaos
from benchmarks.chaos_report import Aims, Report

pytestmark = [pytest.mark.needs_postgresql, pytest.mark.timeout(600)]

_SECONDS = float(os.environ.get("PODBAY_CHAOS_SECONDS", "40"))
_PLAN = Plan(seconds=_SECONDS, rate=30, sessions=3, every=0.5, seed=17)
_AIMS = Aims(success=0.98, p95=None, outage=None, outage_of_two=None)


def test_only_what_was_lost_fails_and_nothing_is_left(tmp_path: Path) -> None:
    report = Report()
    try:
        chaos(_PLAN, tmp_path, report)
    finally:
        print("\n".join(report.lines()))
    assert report.problems(_AIMS) == []
    ways = {way for fault in report.faults for _, way in fault.blows}
    assert ways == {"kill", "crash", "pause", "restart"}
    assert any(len(fault.blows) > 1 for fault in report.faults)
    assert {call.kind for call in report.done} == {"infer", "stream", "upload", "threads", "unary"}
