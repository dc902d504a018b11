"""The gate: mixed calls over many sessions while parts of the platform are broken at random.

`make chaos` runs fifteen minutes, with 100 calls a second over 20 sessions; the suite has a short
form (tests/e2e/test_chaos.py). Registry, session manager, router, router workers, replicas and
PostgreSQL are killed, paused and restarted in turn, in an order by a printed seed. Every failed
call is named with its reason; one that was not in flight in what was lost is a problem. At the end
counters, leases, limits and usage must be exact, and no process, connection, file or row may be
left. Replicas are processes here; that no container, network or volume is left is seen by
tests/e2e/docker/test_platform_cycles.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.chaos_calls import MixedCalls, Target
from benchmarks.chaos_faults import Breaker
from benchmarks.chaos_report import Aims, Report
from benchmarks.installation import ECHO_REPLICA
from podbay import Client
from podbay.local.mocks import Echo
from tests.support.docker.free_port import free_port
from tests.support.eventually import eventually, eventually_sync
from tests.support.leavings import left_at_end, left_files, left_rows, left_usage
from tests.support.platform import Platform
from tests.support.postgresql import PostgreSQL, running_postgresql

__all__ = ["Plan", "chaos"]

_STARTS_SECONDS = 300.0
_SETTLES_SECONDS = 120.0
_REPLICAS = 2
# How many calls a replica works on at once, and how many of a session wait beyond that at the end.
_LIMIT = 8
_WAITING = 4


@dataclass(frozen=True)
class Plan:
    """How long and how hard.

    Attributes:
        seconds: For how long parts are broken.
        rate: Calls a second.
        sessions: How many sessions; each has two replicas.
        every: Seconds from a fault to the next one, which never comes before the recovery. Each
            fault costs the calls that are in flight in what it hits, so this bounds what can be
            answered at all.
        seed: Of what is called and broken when.
        postgresql: Whether the data is in a PostgreSQL, which is broken, too.
    """

    seconds: float = 900.0
    rate: float = 100.0
    sessions: int = 20
    every: float = 6.0
    seed: int = 0
    postgresql: bool = True


def chaos(plan: Plan, folder: Path, report: Report) -> None:
    """Run the gate against a platform of its own.

    Args:
        plan: How long and how hard.
        folder: Where the platform lives.
        report: Gets what happens, as it happens.
    """
    with contextlib.ExitStack() as stack:
        postgresql = None
        (temporary := folder / "tmp").mkdir()
        environment = {"TMPDIR": str(temporary)}
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
            stored = _stored(postgresql.url(database) if postgresql else None, platform)
            report.left += _left(platform, client, targets, f"http://{metrics}/metrics", stored)
        report.left += left_at_end(stored, platform.data_dir)
        report.left += [f"in the folder for temporary files: {p}" for p in temporary.iterdir()]
        if postgresql is not None:
            report.left += _connections(postgresql, database)


def _stored(url: str | None, platform: Platform) -> Callable[[str], list[tuple[Any, ...]]]:
    """Return what asks the session manager's database."""

    def in_file(query: str) -> list[tuple[Any, ...]]:
        path = platform.data_dir / "session-manager" / "session-manager.sqlite3"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return list(database.execute(query))

    def in_server(query: str) -> list[tuple[Any, ...]]:
        assert url is not None
        options = "-c search_path=podbay_session_manager"
        with psycopg.connect(url, autocommit=True, options=options) as connection:
            return connection.execute(query.encode()).fetchall()

    return in_file if url is None else in_server


def _sessions(client: Client, number: int) -> list[Target]:
    account = client.installation().account
    service = client.inferenceservices.create_process(
        ECHO_REPLICA,
        Echo().interface,
        account=account,
        name="chaos",
        serving={"readiness_path": "/ready", "max_concurrency": _LIMIT},
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


def _left(
    platform: Platform,
    client: Client,
    targets: list[Target],
    metrics: str,
    stored: Callable[[str], list[tuple[Any, ...]]],
) -> list[str]:
    """Return what is left when all calls have ended, and when all sessions have."""
    account = client.installation().account
    looks: dict[str, Callable[[], list[str]]] = {
        "no record of a replica is open": lambda: _open(client, targets),
        "no row speaks of what is no more": lambda: left_rows(stored),
        "the account has nothing": lambda: left_usage(client, account),
        "no file is left": lambda: left_files(platform.data_dir),
    }
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
        usage = client.accounts.usage(account)
        if (usage.sessions, usage.replicas) != (len(targets), _REPLICAS * len(targets)):
            found.append(f"the account's usage is not what is there: {usage}")
        asyncio.run(_fill(platform, targets[0], metrics))
        eventually_sync(lambda: _counted(metrics) == {}, "nothing is counted as under way")
        for target in targets:
            client.inferencesessions.terminate(target.session)
        eventually_sync(
            lambda: platform.replica_processes() == [],
            "no replica runs",
            timeout=_SETTLES_SECONDS,
        )
    except AssertionError as error:
        found.append(
            f"{error}: the router counts {_counted(metrics)}, these run {_processes(platform)}, "
            f"these are open {_open(client, targets)}"
        )
    for what, look in looks.items():
        try:
            eventually_sync(lambda look=look: look() == [], what)  # type: ignore[misc]
        except AssertionError:
            found += look()
    return found


async def _fill(platform: Platform, target: Target, metrics: str) -> None:
    """Let as many calls of a session run as may: none of the places may have been lost."""
    places = _REPLICAS * _LIMIT
    async with (
        platform.async_client() as client,
        client.inferencesessions.client(target.session, target.token, endpoint="trickle") as calls,
    ):

        async def trickle() -> None:
            async for _ in calls.stream({"n": 60, "every": 0.1}, timeout=_SETTLES_SECONDS):
                pass

        def full() -> bool:
            now = _counted(metrics)
            running = sum(n for name, n in now.items() if "outstanding" in name)
            waiting = sum(n for name, n in now.items() if "waiting" in name)
            return (running, waiting) == (places, _WAITING)

        running = [asyncio.create_task(trickle()) for _ in range(places + _WAITING)]
        try:
            await eventually(
                lambda: asyncio.to_thread(full),
                f"{places} calls of {places + _WAITING} run, and the others wait",
                timeout=5,
            )
        finally:
            await asyncio.gather(*running)


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
    """Return who stays connected to a database."""
    with psycopg.connect(postgresql.url(), autocommit=True) as connection:

        def connected() -> list[tuple[int, str]]:
            query = "SELECT pid, query FROM pg_stat_activity WHERE datname = %s"
            return connection.execute(query, (database,)).fetchall()

        # A connection that was closed is there until the server's process for it has ended.
        with contextlib.suppress(AssertionError):
            eventually_sync(lambda: not connected(), "nobody is connected")
        return [f"{pid} is still connected: {query}" for pid, query in connected()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    default = Plan()
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--rate", type=float, default=default.rate, help="calls a second")
    parser.add_argument("--sessions", type=int, default=default.sessions)
    parser.add_argument(
        "--every", type=float, default=default.every, help="seconds from a fault to the next"
    )
    parser.add_argument("--seed", type=int, help="any unless given")
    parser.add_argument("--sqlite", action="store_true", help="do without PostgreSQL")
    parser.add_argument("--folder", type=Path, help="a new one, which is kept with all logs")
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
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder.mkdir(parents=True)
        report = Report()
        try:
            chaos(plan, folder, report)
        finally:
            # Also of a run that could not be brought to its end.
            print("\n".join(report.lines()))
    problems = report.problems(Aims())
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
