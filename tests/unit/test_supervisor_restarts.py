"""When a service is restarted, and how its end is told."""

from __future__ import annotations

import signal

from podbay.local.restarts import RestartPolicy, describe_exit


def test_the_first_restart_is_at_once_and_waits_grow_to_five_seconds():
    policy = RestartPolicy()
    delays = [policy.delay(failures) for failures in range(1, 10)]
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_count_of_failures_without_bound_does_not_overflow():
    assert RestartPolicy().delay(1_000_000) == 5.0


def test_a_quick_end_counts_on_and_a_steady_run_begins_anew():
    policy = RestartPolicy(steady_after=30.0)
    assert policy.failures(0, ran_for=0.1) == 1
    assert policy.failures(4, ran_for=29.9) == 5
    assert policy.failures(4, ran_for=30.0) == 1


def test_an_end_is_told_by_its_code_or_its_signal():
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL"
    assert describe_exit(-99) == "was killed by signal 99"
