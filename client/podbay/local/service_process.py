"""One service as a child process: start it, wait for it, end it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from datetime import UTC, datetime

from podbay.local.logfile import LogFile
from podbay.local.plan import ServiceSpec
from podbay.local.processes import ProcessIdentity
from podbay.local.state import ServiceRecord, ServiceState

__all__ = ["ServiceProcess"]

# Tells a service whose end it ends with, also where that comes before it can look.
_PARENT_VARIABLE = "_PODBAY_PARENT_PID"


class ServiceProcess:
    """A service's process, one run after the other.

    Args:
        spec: What to start.
        log: Where its output goes.
        environment: Variables besides those of this process.
    """

    def __init__(self, spec: ServiceSpec, log: LogFile, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self.log = log
        self.restarts = 0
        self._once = spec.once
        self.state: ServiceState = "stopped"
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._identity: ProcessIdentity | None = None
        self._started: datetime | None = None

    @property
    def alive(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def launch(self) -> None:
        """Start the process, in a session of its own: a Ctrl-C is for the supervisor only."""
        if self.spec.address_file is not None:
            self.spec.address_file.unlink(missing_ok=True)
        output = self.log.open_for_run()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                *self._once,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self._environment, _PARENT_VARIABLE: str(os.getpid())},
            )
        finally:
            os.close(output)
        self._once = ()
        self._identity = ProcessIdentity.of(self._process.pid)
        self._started = datetime.now(UTC)
        self.state = "starting"

    def listens(self) -> bool:
        """Return whether this very process has told that it listens, where it tells at all."""
        if self.spec.address_file is None:
            return True
        try:
            told = json.loads(self.spec.address_file.read_text())
        except (OSError, ValueError):
            return False
        return self._process is not None and told.get("pid") == self._process.pid

    async def wait(self) -> int:
        """Wait for the process, and return its exit code (negative for a signal).

        Raises:
            RuntimeError: It was never started.
        """
        if self._process is None:
            raise RuntimeError(f"{self.spec.name} was not started")
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, where there is a process to get it."""
        if self._process is not None and self.alive:
            self._process.send_signal(number)

    async def end(self) -> bool:
        """Ask the process to end, and kill it where it takes too long.

        Returns:
            Whether it ended by itself.
        """
        if not self.alive:
            return True
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.spec.stop_seconds):
                await self.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.wait()
            return False
        return True

    def record(self) -> ServiceRecord:
        """Return what up.json says of the service."""
        identity = self._identity if self.alive else None
        return ServiceRecord(
            name=self.spec.name,
            endpoint=self.spec.endpoint,
            state=self.state,
            pid=identity.pid if identity else None,
            create_time=identity.create_time if identity else None,
            started=self._started if identity else None,
            restarts=self.restarts,
        )
