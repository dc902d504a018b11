"""The gate: mixed calls over many sessions while parts of the platform are broken at random.

`make chaos` runs fifteen minutes, with 100 calls a second over 20 sessions; the suite has a short
form (tests/e2e/test_chaos.py). Registry, session manager, router, router workers, replicas and
PostgreSQL are killed, paused and restarted in turn, in an order by a printed seed. At the end every
failed call is named with its reason; one that was not in flight in what was lost is a problem. All
counters must be zero, and no process, connection, file of a running replica or row may be left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psycopg

from benchmarks.chaos_calls import Done, MixedCalls, Target
from benchmarks.chaos_faults import Breaker, Fault
from benchmarks.installation import ECHO_REPLICA
from podbay import Client
from podbay.local.mocks import Echo
from tests.support.docker.free_port import free_port
from tests.support.eventually import eventually, eventually_sync
from tests.support.platform import Platform
from tests.support.postgresql import PostgreSQL, running_postgresql

__all__ = ["Aims", "Plan", "Report", "chaos"]

_STARTS_SECONDS = 300.0
_SETTLES_SECONDS = 120.0
_REPLICAS = 2


@dataclass(frozen=True)
class Aims:
    """What must hold beside the exact things.

    Attributes:
        success: The least share of calls that are answered.
        p95: The longest 95th percentile of their time, in seconds; None where it is only told.
        outage: The longest time without an answer, in seconds; None where it is only told.
    """

    success: float = 0.999
    p95: float | None = 0.25
    outage: float | None = 2.0


@dataclass(frozen=True)
class Plan:
    """How long and how hard.

    Attributes:
        seconds: For how long parts are broken.
        rate: Calls a second.
        sessions: How many sessions; each has two replicas.
        every: Seconds from a recovery to the next fault.
        seed: Of what is called and broken when.
        postgresql: Whether the data is in a PostgreSQL, which is broken, too.
    """

    seconds: float = 900.0
    rate: float = 100.0
    sessions: int = 20
    every: float = 3.0
    seed: int = 0
    postgresql: bool = True


@dataclass
class Report:
    """What happened.

    Attributes:
        begun: How many calls were begun.
        done: The calls that have ended.
        faults: What was broken.
        restarts: How often each service was started again.
        left: What was left at the end, in words.
    """

    begun: int = 0
    done: list[Done] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    restarts: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Done]:
        """The calls that failed."""
        return [call for call in self.done if call.reason]

    def unexplained(self) -> list[Done]:
        """The calls that failed although they were not in flight in what was lost."""
        return [
            call
            for call in self.failed
            if call.not_started
            or not any(f.explains(call.reason, call.began, call.ended) for f in self.faults)
        ]

    def success(self) -> float:
        """The share of the calls that were answered."""
        return 1 - len(self.failed) / max(1, len(self.done))

    def p95(self) -> float:
        """The 95th percentile of the time of answered calls, in seconds."""
        times = sorted(call.ended - call.began for call in self.done if not call.reason)
        return times[int(len(times) * 0.95)] if times else float("inf")

    def gap(self) -> tuple[float, float]:
        """The longest time between two answers: how long, and when it began, in seconds."""
        times = sorted(call.ended for call in self.done if not call.reason)
        gaps = [(b - a, a) for a, b in pairwise(times)]
        return max(gaps, default=(float("inf"), 0.0))

    def outage(self) -> float:
        """The longest time between two answers, in seconds."""
        return self.gap()[0]

    def problems(self, aims: Aims) -> list[str]:
        """Return what is not as it should be."""
        without = Counter(f"{call.kind}: {call.reason}" for call in self.unexplained())
        found = [f"{n} calls failed without a cause: {what}" for what, n in without.items()]
        if self.begun != len(self.done) or not self.done:
            found.append(f"{self.begun} calls were begun, and {len(self.done)} have ended")
        if self.success() < aims.success:
            found.append(f"{self.success():.4%} were answered; the aim is {aims.success:.1%}")
        for what, value, most in (
            ("95th percentile", self.p95(), aims.p95),
            ("longest outage", self.outage(), aims.outage),
        ):
            if most is not None and value > most:
                found.append(f"the {what} is {value:.3f} s; the aim is {most} s")
        return found + self.left

    def lines(self) -> list[str]:
        """Return all of it in words, with every failed call."""
        begun = self.faults[0].began if self.faults else 0.0
        kinds = Counter(call.kind for call in self.done)
        summary = (
            f"{len(self.done)} calls ({', '.join(f'{n} {k}' for k, n in sorted(kinds.items()))}), "
            f"{self.success():.4%} answered, p95 {self.p95() * 1000:.0f} ms, longest outage "
            f"{self.outage():.2f} s (at {self.gap()[1] - begun:.2f} s)"
        )
        ended = Counter(
            f.part
            for f in self.faults
            if f.way == "kill" or (f.way == "restart" and f.part != "inference-router")
        )
        return [
            summary,
            *(
                f"{name} was started again {number} times; it was ended {ended[name]} times"
                for name, number in self.restarts.items()
            ),
            *(
                f"  {f.began - begun:7.2f} s: {f.way} {f.part}, whole after "
                f"{f.recovered - f.began:.2f} s"
                for f in self.faults
            ),
            *(
                f"  failed at {call.ended - begun:.2f} s after {call.ended - call.began:.3f} s: "
                f"{call.kind}: {call.reason}: {call.message}"
                for call in self.failed
            ),
        ]


def chaos(plan: Plan, folder: Path) -> Report:
    """Run the gate against a platform of its own.

    Args:
        plan: How long and how hard.
        folder: Where the platform lives.
    """
    report = Report()
    with contextlib.ExitStack() as stack:
        postgresql = None
        environment: dict[str, str] = {}
        if plan.postgresql:
            postgresql = stack.enter_context(running_postgresql(durable=True))
            environment["PODBAY_DATABASE"] = postgresql.url(database := postgresql.database())
        metrics = f"127.0.0.1:{free_port()}"
        options = ("--workers=2", f"--metrics-listen={metrics}")
        platform = Platform(folder / "data", options, environment)
        with platform, platform.client() as client:
            targets = _sessions(client, plan.sessions)
            asyncio.run(_run(plan, platform, postgresql, client, targets, report))
            report.restarts = {
                one["name"]: one["restarts"] for one in platform.record()["services"]
            }
            report.left += _left(platform, client, targets, f"http://{metrics}/metrics")
        if postgresql is not None:
            report.left += _connections(postgresql, database)
    return report


def _sessions(client: Client, number: int) -> list[Target]:
    account = client.installation().account
    service = client.inferenceservices.create_process(
        ECHO_REPLICA,
        Echo().interface,
        account=account,
        name="chaos",
        serving={"readiness_path": "/ready"},
    )
    request = {"account": account, "inferenceService": service.id, "replicas": _REPLICAS}
    made = [client.inferencesessions.create(request) for _ in range(number)]
    targets = [Target(one.inferencesession.id, one.token) for one in made]
    eventually_sync(
        lambda: all(_full(client, target) for target in targets),
        "all sessions are full",
        timeout=_STARTS_SECONDS,
    )
    return targets


def _full(client: Client, target: Target) -> bool:
    status = client.inferencesessions.status(target.session)
    return status.ready_replicas == _REPLICAS


async def _run(
    plan: Plan,
    platform: Platform,
    postgresql: PostgreSQL | None,
    sync: Client,
    targets: list[Target],
    report: Report,
) -> None:
    router = platform.endpoint("inference-router")
    async with platform.async_client() as client:
        ids = [target.session for target in targets]
        calls = MixedCalls(sync, client, router, targets, plan.rate, plan.seed)

        def answered(since: float) -> bool:
            return any(not one.reason and one.began > since for one in calls.done[-200:])

        breaker = Breaker(platform, client, ids, postgresql, plan.seed, answered)
        report.done, report.faults = calls.done, breaker.faults
        async with calls:
            await breaker.run(time.monotonic() + plan.seconds, plan.every)
            # What comes after the last fault is answered as before.
            after = len(calls.done) + round(plan.rate)
            await eventually(lambda: len(calls.done) >= after, "calls go on", timeout=60)
        report.begun = calls.begun


def _left(platform: Platform, client: Client, targets: list[Target], metrics: str) -> list[str]:
    """Return what is left when all calls have ended, and when all sessions have."""
    found = []
    try:
        eventually_sync(
            lambda: all(_full(client, target) for target in targets),
            "every session has its replicas again",
            timeout=_SETTLES_SECONDS,
        )
        eventually_sync(lambda: _counted(metrics) == {}, "nothing is counted as under way")
        eventually_sync(
            lambda: _processes(platform) == {target.session: _REPLICAS for target in targets},
            "each session has its processes, and no others run",
        )
        for target in targets:
            client.inferencesessions.terminate(target.session)
        eventually_sync(
            lambda: platform.replica_processes() == [],
            "no replica runs",
            timeout=_SETTLES_SECONDS,
        )
        eventually_sync(lambda: _open(client, targets) == [], "no record of a replica is open")
    except AssertionError as error:
        found.append(
            f"{error}: the router counts {_counted(metrics)}, these run {_processes(platform)}, "
            f"these are open {_open(client, targets)}"
        )
    return found


def _processes(platform: Platform) -> Counter[str]:
    """Return how many replicas of each session run; a replica may have several processes."""
    seen = [one.environ() for one in platform.replica_processes()]
    return Counter(
        session for session, _ in {(e["PODBAY_SESSION_ID"], e["PODBAY_REPLICA_ID"]) for e in seen}
    )


def _counted(metrics: str) -> dict[str, float]:
    """Return what the router's workers count as running or waiting."""
    with urllib.request.urlopen(metrics, timeout=10) as answer:
        text = answer.read().decode()
    rows = re.findall(r"^(podbay_router_(?:outstanding|waiting)\{.*\}) (\S+)$", text, re.MULTILINE)
    assert rows, text
    return {name: float(value) for name, value in rows if float(value)}


def _open(client: Client, targets: list[Target]) -> list[str]:
    """Return the replicas of ended sessions whose records say that they have not ended."""
    ended = {"Stopped", "Failed", "Lost"}
    return [
        f"{replica.id} is {replica.phase}"
        for target in targets
        for replica in client.inferencesessions.status(target.session).replicas
        if replica.phase not in ended
    ]


def _connections(postgresql: PostgreSQL, database: str) -> list[str]:
    """Return who is still connected to a database, and which rows speak of what runs."""
    with psycopg.connect(postgresql.url(), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid, query FROM pg_stat_activity WHERE datname = %s", (database,)
        ).fetchall()
    return [f"{pid} is still connected: {query}" for pid, query in rows]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    default = Plan()
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--rate", type=float, default=default.rate, help="calls a second")
    parser.add_argument("--sessions", type=int, default=default.sessions)
    parser.add_argument("--every", type=float, default=default.every, help="seconds to a fault")
    parser.add_argument("--seed", type=int, help="any unless given")
    parser.add_argument("--sqlite", action="store_true", help="do without PostgreSQL")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    plan = Plan(
        arguments.seconds,
        arguments.rate,
        arguments.sessions,
        arguments.every,
        seed,
        not arguments.sqlite,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = chaos(plan, Path(folder))
    print("\n".join(report.lines()))
    problems = report.problems(Aims())
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
