"""One local installation: its data folder, its ports, its services."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from podbay.local.faults import LocalError
from podbay.local.health import is_serving
from podbay.local.plan import ServiceSpec, UpSettings, check_ports, plan_services
from podbay.local.processes import ProcessIdentity, find_by_environment, kill_all
from podbay.local.state import DataDir, DataDirLock, UpRecord
from podbay.local.supervisor import Event, Supervisor
from podbay.local.up_certificates import RENEW_SECONDS, UpCertificates, up_certificates

__all__ = ["Installation", "Leftover", "clear_leftovers", "stop_installation"]

# A process that was told to end a moment ago may still be on its way.
_VERIFY_SECONDS = 2.0


class Leftover:
    """What still ran after everything was stopped, and was killed.

    Attributes:
        killed: The ids of the processes that are gone now.
        remaining: The ids of those that are still there.
    """

    def __init__(self, killed: Sequence[int] = (), remaining: Sequence[int] = ()) -> None:
        self.killed = tuple(killed)
        self.remaining = tuple(remaining)

    def __bool__(self) -> bool:
        return bool(self.killed or self.remaining)


class Installation:
    """The services on one data folder, from the lock to the last process.

    Args:
        data_dir: The folder.
        settings: The options.
        on_event: Told what happens, on the loop's thread.
        detached: Whether this runs in the background; for up.json.
        plan: What to start.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: UpSettings,
        *,
        on_event: Callable[[Event], None],
        detached: bool = False,
        plan: Callable[[UpSettings, DataDir], list[ServiceSpec]] = plan_services,
    ) -> None:
        self.data = DataDir(data_dir)
        self.settings = settings
        self._on_event = on_event
        self._detached = detached
        self._plan = plan
        self._lock = DataDirLock(self.data)
        self._supervisor: Supervisor | None = None
        self._state: Literal["starting", "running", "stopping"] = "starting"
        self._started = datetime.now(UTC)
        self._identity = ProcessIdentity.own()
        self._certificates: UpCertificates | None = None

    @property
    def _ca_file(self) -> Path | None:
        return self._certificates.ca_file if self._certificates else None

    @property
    def endpoint(self) -> str:
        """Where clients on this machine find the registry, as "127.0.0.1:7101"."""
        return self.record().service("registry").endpoint

    def record(self) -> UpRecord:
        """Return what up.json says."""
        return UpRecord(
            pid=self._identity.pid,
            create_time=self._identity.create_time,
            state=self._state,
            started=self._started,
            detached=self._detached,
            admin_token_file=self.data.admin_token_file,
            services=self._supervisor.records() if self._supervisor else [],
            ca_file=self._ca_file,
        )

    async def start(self) -> None:
        """Take the folder, start the services, and return when all are healthy.

        Raises:
            LocalError: The folder or a port is in use, or a service did not start. Call `stop`
                also then.
        """
        self.data.prepare()
        self._lock.acquire()
        self.settings.allowed_drivers()
        self.settings.check_database(self.data)
        # What a killed `podbay up` left: nothing is, where its services saw it go.
        await asyncio.to_thread(_kill_recorded_services, self.data)
        self.settings = await asyncio.to_thread(check_ports, self.settings)
        self._certificates = up_certificates(self.settings, self.data)
        if self._certificates is not None:
            await asyncio.to_thread(self._certificates.prepare)
        self._supervisor = Supervisor(
            self._plan(self.settings, self.data),
            log_dir=self.data.logs,
            environment=self.data.mark,
            on_event=self._on_event,
            on_change=self._write,
            probe=partial(is_serving, ca_file=self._ca_file),
        )
        await self._supervisor.start()
        self._state = "running"
        self._write()

    async def wait(self) -> None:
        """Wait until supervising fails, which takes a defect; without one, for ever."""
        if self._supervisor is None:
            return
        renewing = asyncio.create_task(self._renew(), name="renew-certificates")
        try:
            await self._supervisor.wait()
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self) -> None:
        """Renew our own certificates before they end; the services take them by themselves."""
        while self._certificates is not None:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                renewed = await asyncio.to_thread(self._certificates.prepare)
            except LocalError as error:
                text = f"certificates cannot be renewed: {error.message}"
                self._on_event(Event("up", "warning", text))
            else:
                if renewed:
                    self._on_event(Event("up", "healthy", "certificates were renewed"))

    async def stop(self) -> Leftover:
        """Stop the services in order, and verify that no process is left.

        Returns:
            What was left, and had to be killed.
        """
        self._state = "stopping"
        if self._supervisor is None:
            self._lock.release()
            return Leftover()
        await self._supervisor.stop()
        leftover = await asyncio.to_thread(clear_leftovers, self.data)
        self.data.remove_record()
        self._lock.release()
        return leftover

    def kill(self) -> Leftover:
        """Kill everything at once, replicas included."""
        if self._supervisor is not None:
            self._supervisor.kill()
            leftover = clear_leftovers(self.data, patience=0)
            self.data.remove_record()
        else:
            leftover = Leftover()
        self._lock.release()
        return leftover

    def _write(self) -> None:
        try:
            self.data.write_record(self.record())
        except OSError as error:
            # The services go on; what suffers is `podbay status`.
            text = f"{self.data.record_file} cannot be written: {error.strerror}"
            self._on_event(Event("up", "warning", text))


def clear_leftovers(data: DataDir, *, patience: float = _VERIFY_SECONDS) -> Leftover:
    """Kill what still runs of an installation whose services have ended.

    Args:
        data: Its data folder.
        patience: Seconds that a process may take to end by itself.
    """
    deadline = time.monotonic() + patience
    left = list(find_by_environment(data.mark))
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = list(find_by_environment(data.mark))
    remaining = kill_all(left)
    return Leftover([p.pid for p in left if p.pid not in remaining], remaining)


def stop_installation(data: DataDir, record: UpRecord, *, timeout: float) -> Leftover:
    """Stop a `podbay up` from another process.

    Args:
        data: Its data folder.
        record: What its up.json says.
        timeout: Seconds after which it is killed, and everything that it started.

    Returns:
        What had to be killed.
    """
    up = record.identity()
    killed: list[int] = []
    if up.send(signal.SIGTERM) and not up.wait_gone(timeout):
        kill_all([up])
        killed.append(up.pid)
    _kill_recorded_services(data)
    leftover = clear_leftovers(data)
    data.remove_record()
    return Leftover([*killed, *leftover.killed], leftover.remaining)


def _kill_recorded_services(data: DataDir) -> None:
    record = data.read_record()
    if record is None:
        return
    services = [identity for s in record.services if (identity := s.identity()) is not None]
    # They end by themselves when their parent is gone.
    deadline = time.monotonic() + _VERIFY_SECONDS
    for service in services:
        service.wait_gone(max(0.0, deadline - time.monotonic()))
    kill_all(services)
