"""The supervisor: starts the services, restarts those that die, ends them in order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from podbay.local.faults import LocalError
from podbay.local.health import is_serving
from podbay.local.logfile import LogFile
from podbay.local.plan import ServiceSpec
from podbay.local.ports import is_free, port_owner
from podbay.local.restarts import RestartPolicy, describe_exit
from podbay.local.service_process import ServiceProcess
from podbay.local.state import ServiceRecord, ServiceState

__all__ = ["Event", "EventKind", "Supervisor"]

_PROBE_SECONDS = 0.1
_CAP_SECONDS = 5.0
_PORT_SECONDS = 5.0
_LOG_LINES = 15

EventKind = Literal["started", "healthy", "died", "stopping", "stopped", "killed", "warning"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a service, for people.

    Attributes:
        service: The service.
        kind: What happened, for programs.
        text: What happened, for people.
        lines: The evidence: the last lines of its log.
    """

    service: str
    kind: EventKind
    text: str
    lines: tuple[str, ...] = ()


class Supervisor:
    """Keeps services running until it is told to stop.

    Args:
        specs: The services, in the order in which they start. They stop in the reverse one.
        log_dir: The folder of their logs, one file a service.
        environment: Variables for their environment.
        on_event: Told what happens, on the loop's thread.
        on_change: Called after every change of what `records` returns.
        probe: Whether the service at an address is healthy; called in a thread.
        policy: When to restart a service.
        start_timeout: Seconds until a service must be healthy for the first time.
    """

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        *,
        log_dir: Path,
        environment: Mapping[str, str],
        on_event: Callable[[Event], None],
        on_change: Callable[[], None] = lambda: None,
        probe: Callable[[str], bool] = is_serving,
        policy: RestartPolicy | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self._services = [
            ServiceProcess(spec, LogFile(log_dir / f"{spec.name}.log"), environment)
            for spec in specs
        ]
        self._on_event = on_event
        self._on_change = on_change
        self._probe = probe
        self._policy = policy or RestartPolicy()
        self._start_timeout = start_timeout
        self._tasks: list[asyncio.Task[None]] = []

    def records(self) -> list[ServiceRecord]:
        """Return where each service stands."""
        return [service.record() for service in self._services]

    async def start(self) -> None:
        """Start all services, and return when all are healthy.

        Raises:
            LocalError: One ended, or was not healthy in time. What was started runs on until
                `stop`.
        """
        waiting: list[ServiceProcess] = []
        for service in self._services:
            if service.spec.after_others:
                await self._all_healthy(waiting)
                waiting.clear()
            await self._launch(service)
            waiting.append(service)
        await self._all_healthy(waiting)
        self._tasks = [
            asyncio.create_task(self._supervise(service), name=f"supervise-{service.spec.name}")
            for service in self._services
        ]
        self._tasks.append(asyncio.create_task(self._cap_logs(), name="cap-logs"))

    async def wait(self) -> None:
        """Wait until supervising fails, which takes a defect; without one, for ever."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """End the services one after the other: the last one started is the first to end.

        Several of one service end together.
        """
        await _cancel(self._tasks)
        for _, several in groupby(reversed(self._services), lambda item: item.spec.service):
            await asyncio.gather(*(self._end(service) for service in several))

    async def _end(self, service: ServiceProcess) -> None:
        if not service.alive:
            self._set(service, "stopped")
            return
        self._set(service, "stopping")
        self._tell(service, "stopping", "finishes its calls and stops")
        begun = time.monotonic()
        in_time = await service.end()
        took = time.monotonic() - begun
        self._set(service, "stopped")
        if in_time:
            self._tell(service, "stopped", f"stopped after {took:.1f} s")
        else:
            text = f"did not end within {took:.0f} s and was killed"
            self._tell(service, "killed", text, service.log.tail(_LOG_LINES))

    def kill(self) -> None:
        """Kill all services at once, without waiting for them."""
        for task in self._tasks:
            task.cancel()
        for service in self._services:
            service.send(signal.SIGKILL)

    async def _all_healthy(self, services: Sequence[ServiceProcess]) -> None:
        tasks = [asyncio.create_task(self._first_health(service)) for service in services]
        try:
            await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)

    async def _launch(self, service: ServiceProcess) -> None:
        await service.launch()
        self._on_change()
        self._tell(service, "started", f"starts on {service.spec.endpoint}")

    async def _first_health(self, service: ServiceProcess) -> None:
        """Wait until a service is healthy for the first time.

        Raises:
            LocalError: It ended, or took too long.
        """
        ended = asyncio.create_task(service.wait())
        healthy = asyncio.create_task(self._healthy(service))
        try:
            await asyncio.wait(
                (ended, healthy),
                timeout=self._start_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if healthy.done():
                await healthy
            elif ended.done():
                raise self._ended_at_start(service, ended.result())
            else:
                raise LocalError(
                    "START_FAILED",
                    f"the {service.spec.name} runs and is not healthy "
                    f"{self._start_timeout:.0f} s after its start",
                    evidence=service.log.tail(_LOG_LINES),
                    way_out=f"its log is {service.log.path}",
                )
        finally:
            await _cancel((ended, healthy))

    def _ended_at_start(self, service: ServiceProcess, code: int) -> LocalError:
        spec = service.spec
        message = f"the {spec.name} {describe_exit(code)} before it was healthy"
        if not is_free(spec.host, spec.port):
            owner = port_owner(spec.port)
            message += f"; port {spec.port} is in use" + (f" by {owner}" if owner else "")
        return LocalError(
            "START_FAILED",
            message,
            evidence=service.log.tail(_LOG_LINES),
            way_out=f"its whole log is {service.log.path}",
        )

    async def _healthy(self, service: ServiceProcess) -> None:
        # A service does not tell when it becomes healthy: it must be asked.
        while not await asyncio.to_thread(self._confirmed, service):  # noqa: ASYNC110 # see above
            await asyncio.sleep(_PROBE_SECONDS)
        self._set(service, "running")
        self._tell(service, "healthy", f"healthy on {service.spec.endpoint}")

    def _confirmed(self, service: ServiceProcess) -> bool:
        checks = range(service.spec.confirmations)
        return service.listens() and all(self._probe(service.spec.endpoint) for _ in checks)

    async def _supervise(self, service: ServiceProcess) -> None:
        """Restart a service whenever it ends."""
        failures = 0
        while True:
            begun = time.monotonic()
            probing = (
                asyncio.create_task(self._healthy(service)) if service.state == "starting" else None
            )
            try:
                code = await service.wait()
            finally:
                await _cancel([probing] if probing else [])
            failures = self._policy.failures(failures, time.monotonic() - begun)
            delay = self._policy.delay(failures)
            self._set(service, "waiting")
            text = f"{describe_exit(code)}; restarted {f'in {delay:.1f} s' if delay else 'at once'}"
            self._tell(service, "died", text, service.log.tail(_LOG_LINES))
            await asyncio.sleep(delay)
            if not service.spec.takes_over:
                await self._port_free(service)
            service.restarts += 1
            await self._relaunch(service)

    async def _port_free(self, service: ServiceProcess) -> None:
        """Wait a moment for the port: children of the dead process may still hold it."""
        for _ in range(round(_PORT_SECONDS / _PROBE_SECONDS)):
            if is_free(service.spec.host, service.spec.port):
                return
            await asyncio.sleep(_PROBE_SECONDS)

    async def _relaunch(self, service: ServiceProcess) -> None:
        while True:
            try:
                await self._launch(service)
            except OSError as error:
                delay = self._policy.longest
                text = f"cannot be started: {error.strerror}; tried again in {delay:.1f} s"
                self._tell(service, "died", text)
                await asyncio.sleep(delay)
            else:
                return

    async def _cap_logs(self) -> None:
        while True:
            await asyncio.sleep(_CAP_SECONDS)
            for service in self._services:
                await asyncio.to_thread(service.log.cap)

    def _set(self, service: ServiceProcess, state: ServiceState) -> None:
        service.state = state
        self._on_change()

    def _tell(
        self, service: ServiceProcess, kind: EventKind, text: str, lines: tuple[str, ...] = ()
    ) -> None:
        self._on_event(Event(service.spec.name, kind, text, lines))


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
