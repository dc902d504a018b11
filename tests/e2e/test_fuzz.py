"""A short attack on a whole installation; `make fuzz` runs two minutes of the same."""

from __future__ import annotations

from benchmarks.fuzz.frames import ATTACKS
from benchmarks.fuzz.run import fuzz

LEAST = 6
SERVICES = ("RegistryService", "SessionManagerService", "InferenceRouterService")


def test_an_attack_meets_no_defect_and_leaves_nothing_behind() -> None:
    outcome = fuzz(seconds=0, quiet=0.5, frames=100, least=LEAST)
    assert outcome.problems() == []
    # However slow the machine is: each method was called so often, each attack by frames was made
    # on each service, and good calls of each kind ran beside all of it.
    called = outcome.report.methods
    for service in SERVICES:
        assert any(method.startswith(f"podbay.v1.{service}.") for method in called)
    assert {method: count for method, count in called.items() if count < LEAST} == {}
    assert {name: count for name, count in outcome.report.attacks.items() if count < 3} == {}
    assert set(outcome.report.attacks) == set(ATTACKS)
    assert all(good.beside[1] > 0 for good in outcome.good.values())
