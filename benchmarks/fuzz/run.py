"""A run of the attack: an installation, good calls, attackers, and what became of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.cores import cpu_seconds
from benchmarks.figures import percentile
from benchmarks.fuzz.attack import Plan, Report
from benchmarks.fuzz.templates import templates
from benchmarks.installation import ECHO_REPLICA, installation, session
from podbay import AsyncClient, Client
from podbay.errors import PodbayError
from podbay.local.mocks import Echo

__all__ = ["Good", "Outcome", "Use", "fuzz"]

_ROOT = Path(__file__).resolve().parents[2]
_ACCOUNT = "fuzz"
_MODULES = {
    "podbay_registry": "registry",
    "podbay_session_manager": "session manager",
    "podbay_inference_router": "inference router",
}
# How many good calls of each kind are made a second: they measure, and are no load.
_GOOD_RATE = 20.0
_SETTLE_SECONDS = 45.0
_WARM_PART = 0.4
# Memory that an allocator keeps, and connections that are still being closed, are no leak.
_MEMORY_SLACK = 48 << 20
_FILE_SLACK = 16
_MOST_RATIO = 2.0
# What a log has where a service met what it did not expect, or where something of it goes on after
# all who called it have left.
_SIGNS = (
    "Traceback (most recent call last)",
    "incident ",
    "Fatal Python error",
    "calls did not end within",
)
# Burns a core until it is killed.
_BURN = "while True: pass"


class Use(NamedTuple):
    """What a process has of the machine."""

    memory: int
    """Bytes."""
    files: int
    threads: int


@dataclass
class Good:
    """Good calls of one kind.

    Attributes:
        alone: p50 and p99 in milliseconds, while nothing else ran.
        busy: The same, while the attacker's core was busy with something else than an attack.
        beside: The same, beside the attack.
        failed: How many failed.
    """

    alone: tuple[float, float] = (0.0, 0.0)
    busy: tuple[float, float] = (0.0, 0.0)
    beside: tuple[float, float] = (0.0, 0.0)
    failed: int = 0

    @property
    def ratio(self) -> float:
        """How much the attack made the p99 grow, beyond what a busy core does."""
        before = max(self.alone[1], self.busy[1])
        return self.beside[1] / before if before else 0.0


@dataclass
class Outcome:
    """What a run found.

    Attributes:
        report: What the attacker saw.
        good: The good calls, by their kind.
        uses: What each process used before, after the first part, and at the end.
        cpu: The share of a core that each process used beside the attack.
        attacker_core: The core that the attacker had for itself; None where it shared all of them.
        restarted: Services that did not live through it.
        logged: Lines of logs that speak of a defect.
    """

    report: Report = field(default_factory=Report)
    good: dict[str, Good] = field(default_factory=dict)
    uses: dict[str, tuple[Use, Use, Use]] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    attacker_core: int | None = None
    restarted: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Return what is not as it should be, times aside."""
        found = [f"{count}× {text}" for text, count in self.report.problems.items()]
        found += [f"{name} did not live through it" for name in self.restarted]
        found += [f"logged: {line}" for line in self.logged]
        for name, good in self.good.items():
            if good.failed:
                found.append(f"{good.failed} good calls failed: {name}")
        for name, (before, warm, after) in self.uses.items():
            if after.memory > warm.memory * 1.15 + _MEMORY_SLACK:
                found.append(f"{name}: {warm.memory >> 20} MB grew to {after.memory >> 20} MB")
            if after.files > before.files + _FILE_SLACK:
                found.append(f"{name}: {before.files} open files grew to {after.files}")
            if after.threads > before.threads + _FILE_SLACK:
                found.append(f"{name}: {before.threads} threads grew to {after.threads}")
        return found

    def slowness(self) -> list[str]:
        """Return the good calls that the attack made slower than it may."""
        return [
            f"the p99 of {name} grew {good.ratio:.1f} times"
            for name, good in self.good.items()
            if good.ratio > _MOST_RATIO
        ]


def fuzz(
    seconds: float,
    *,
    seed: int = 1,
    quiet: float | None = None,
    frames: int = 200,
    least: int = 1,
) -> Outcome:
    """Attack an installation of its own.

    Where there are two cores or more, the attacker has the last one for itself, and all else has
    the others: what good calls wait for is then what the attack costs the services, and not what it
    costs to attack.

    Args:
        seconds: For how long at least.
        seed: Where chance starts.
        quiet: How long good calls run before, alone and beside a busy core; a quarter of the time
            unless said.
        frames: How many frames an attack sends.
        least: How often each method is called, and each attack by frames is made, at least.
    """
    outcome = Outcome()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        outcome.attacker_core = cores[-1]
        os.sched_setaffinity(0, set(cores[:-1]))  # what this process starts inherits it
    try:
        with (
            installation(ended=lambda data: outcome.logged.extend(_signs(data / "logs"))) as up,
            Client() as client,
        ):
            plan = _plan(
                up,
                client,
                seconds=seconds,
                seed=seed,
                frames=frames,
                least=least,
                core=outcome.attacker_core,
            )
            asyncio.run(_run(up, client, plan, seconds / 4 if quiet is None else quiet, outcome))
    finally:
        os.sched_setaffinity(0, set(cores))
    return outcome


async def _run(
    up: psutil.Process, client: Client, plan: Plan, quiet: float, outcome: Outcome
) -> None:
    target = session(client, ECHO_REPLICA, "fuzz-beside")[:2]
    services = _services(up)
    good = outcome.good
    async with AsyncClient() as admin:
        await _good(admin, target, min(quiet, 1.0))  # connections are made
        for name, calls in (await _good(admin, target, quiet)).items():
            good[name] = Good(alone=calls.figures, failed=calls.failed)
        with _busy(outcome.attacker_core):
            for name, calls in (await _good(admin, target, quiet)).items():
                good[name].busy = calls.figures
                good[name].failed += calls.failed
        before = _uses(services)
        attacker = asyncio.create_task(_attacker(plan))
        beside = asyncio.create_task(_good(admin, target, 0.0, attacker))
        began, used = time.monotonic(), _cpu(services)
        await asyncio.wait({attacker}, timeout=plan.seconds * _WARM_PART)
        warm = _uses(services)
        outcome.report = await attacker
        took = time.monotonic() - began
        outcome.cpu = {name: (cpu - used[name]) / took for name, cpu in _cpu(services).items()}
        for name, calls in (await beside).items():
            good[name].beside = calls.figures
            good[name].failed += calls.failed
    _clean(client)
    await _settled(services, before)
    after = _uses(services)
    outcome.uses = {
        name: (before[name], warm[name], after[name]) for name in before if name in after
    }
    outcome.restarted = [name for name in before if name not in after]


def _plan(
    up: psutil.Process,
    client: Client,
    *,
    seconds: float,
    seed: int,
    frames: int,
    least: int,
    core: int | None,
) -> Plan:
    """Make an account that may be harmed, with something of each kind."""
    installed = client.installation()
    client.accounts.create(_ACCOUNT)
    secret = client.tokens.create(_ACCOUNT).secret
    service = client.inferenceservices.create_mock(Echo, account=_ACCOUNT)
    made = client.inferencesessions.create(
        {"account": _ACCOUNT, "inferenceService": service.id, "replicas": 1}
    )
    client.inferencesessions.wait_ready(made.inferencesession.id, timeout=60)
    session_id = made.inferencesession.id
    data = Path(up.environ()["PODBAY_DATA_DIR"])
    service_token = (data / "service-token").read_text(encoding="ascii").strip()
    requests = templates(_ACCOUNT, service.id, session_id)
    return Plan(
        addresses=[
            os.environ["PODBAY_API_ENDPOINT"],
            installed.session_manager_endpoint,
            installed.inference_router_endpoint,
        ],
        tokens=[secret, secret, made.token, service_token],
        known=[_ACCOUNT, service.id, session_id],
        templates={name: base64.b64encode(wire).decode("ascii") for name, wire in requests.items()},
        seconds=seconds,
        least=least,
        frames=frames,
        in_flight=4,
        pause=0.02,
        seed=seed,
        core=core,
    )


async def _attacker(plan: Plan) -> Report:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.fuzz.attack"),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    written, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    if process.returncode:
        raise RuntimeError("the attacker failed; what it wrote is above")
    return Report(**json.loads(written))


@contextlib.contextmanager
def _busy(core: int | None) -> Iterator[None]:
    """Keep the attacker's core busy, where it has one."""
    if core is None:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", _BURN]) as burning:
        try:
            os.sched_setaffinity(burning.pid, {core})
            yield
        finally:
            burning.kill()


@dataclass
class _Calls:
    """Good calls of one kind in one part of a run: how long they took, and how many failed."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def figures(self) -> tuple[float, float]:
        """p50 and p99 in milliseconds."""
        return percentile(self.seconds, 0.5) * 1e3, percentile(self.seconds, 0.99) * 1e3


async def _good(
    client: AsyncClient,
    target: tuple[str, str],
    seconds: float,
    beside: asyncio.Task[Report] | None = None,
) -> dict[str, _Calls]:
    """Make good calls of each kind.

    Args:
        client: Makes those that go to the registry and to the session manager.
        target: A session and its token.
        seconds: For how long at least.
        beside: They go on until this is done.
    """
    account = (await client.installation()).account
    async with client.inferencesessions.client(*target, endpoint="echo", timeout=30) as calls:

        async def infer() -> object:
            return await calls.infer({"text": "hello"})

        async def listing() -> object:
            # Of an account in which the attack makes nothing: the list stays as long as it was.
            return await client.inferenceservices.query(account=account)

        async def status() -> object:
            return await client.inferencesessions.status(target[0])

        kinds: dict[str, Callable[[], Awaitable[object]]] = {
            "inference": infer,
            "list of services": listing,
            "status of a session": status,
        }
        found = await asyncio.gather(*(_calls(call, seconds, beside) for call in kinds.values()))
    return dict(zip(kinds, found, strict=True))


async def _calls(
    call: Callable[[], Awaitable[object]], seconds: float, beside: asyncio.Task[Report] | None
) -> _Calls:
    calls = _Calls()
    until = time.monotonic() + seconds
    while not calls.seconds or (time.monotonic() < until if beside is None else not beside.done()):
        started = time.monotonic()
        try:
            await call()
        except PodbayError as error:
            calls.failed += 1
            print(f"a good call failed: {error}", file=sys.stderr)
        calls.seconds.append(time.monotonic() - started)
        await asyncio.sleep(1 / _GOOD_RATE)
    return calls


def _clean(client: Client) -> None:
    """End and delete what the attack made."""
    for made in client.inferencesessions.query(account=_ACCOUNT):
        client.inferencesessions.terminate(made.id)


def _services(up: psutil.Process) -> dict[str, psutil.Process]:
    found = {}
    for process in up.children(recursive=True):
        line = process.cmdline()
        for module, name in _MODULES.items():
            if module in line:
                found[name] = process
    return found


def _uses(services: dict[str, psutil.Process]) -> dict[str, Use]:
    return {
        name: Use(process.memory_info().rss, process.num_fds(), process.num_threads())
        for name, process in services.items()
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    }


def _cpu(services: dict[str, psutil.Process]) -> dict[str, float]:
    """Return the CPU seconds that each process has used; those that ended are left out."""
    return {
        name: cpu_seconds([process]) for name, process in services.items() if process.is_running()
    }


async def _settled(services: dict[str, psutil.Process], before: dict[str, Use]) -> None:
    """Wait until what the attack opened is closed, if it ever is."""
    until = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < until:
        now = _uses(services)
        if all(now[name].files <= before[name].files + 4 for name in now):
            return
        await asyncio.sleep(0.2)


def _signs(logs: Path) -> list[str]:
    """Return the lines of the services' logs that speak of a defect, with what is around them."""
    found = []
    for log in sorted(logs.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        for at, line in enumerate(lines):
            if any(sign in line for sign in _SIGNS):
                around = " | ".join(each.strip()[:200] for each in lines[max(0, at - 2) : at + 40])
                found.append(f"{log.name}: {around}")
    return found[:20]
