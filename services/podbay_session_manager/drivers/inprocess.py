"""Mocks as web servers within the session manager's own process and event loop.

The cheapest way to run many mocks; they end with the process, and are replaced after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from podbay_kit.replica_server import (
    MOCK_FAILED_EXIT_CODE,
    MockNotImportableError,
    PortTakenError,
    ReplicaStartError,
)
from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.contract import (
    LaunchSpec,
    LogChunk,
    NodeFacts,
    ObservedReplica,
    ReplicaDriver,
    ReplicaStillRunningError,
    StartFailedError,
    UnknownReplicaError,
)
from podbay_session_manager.drivers.log_files import append_log, log_folder, read_log_files
from podbay_session_manager.drivers.ports import HOST, PortPicker
from podbay_session_manager.drivers.process_files import replica_folders
from podbay_session_manager.drivers.process_launch import MOCK_EXITS, supports_local
from podbay_session_manager.records import LOCAL_NODE, PORT_VARIABLE, Reason, ServiceSpec

if TYPE_CHECKING:
    from podbay_kit.replica_server import ReplicaServer

__all__ = ["InProcessDriver"]

_LOG = logging.getLogger(__name__)

# Idle connections are closed in this time; without any, each would be an error in the log.
_LEAST_GRACE = 0.1


@dataclass(slots=True)
class _Hosted:
    spec: LaunchSpec
    server: ReplicaServer
    port: int
    task: asyncio.Task[None]
    """Runs the server to its end."""
    stop_at: float | None = None
    """When its grace is over, in the loop's time; None while nobody asked it to end."""
    end: ObservedReplica | None = None


class InProcessDriver(ReplicaDriver):
    """Hosts mocks in this process.

    Args:
        folder: Where their logs are kept; only one driver may use it at a time.
    """

    name = "inprocess"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._root = folder.absolute()
        self._hosted: dict[str, _Hosted] = {}
        self._picker = PortPicker()
        self._tasks = TaskSet()

    def supports(self, service: ServiceSpec) -> str | None:
        """Return None for mocks that need nothing of a process of their own."""
        refusal = supports_local(service)
        if refusal is not None:
            return refusal
        needs = [
            name
            for name, given in (
                ("command", service.command),
                ("args", service.args),
                ("env", [n for n, _ in service.env if n != PORT_VARIABLE]),
                ("workingDir", service.working_dir),
            )
            if given
        ]
        if needs:
            return f"it hosts mocks in one process, which cannot have {', '.join(needs)} of its own"
        return None

    async def nodes(self) -> Sequence[NodeFacts]:
        """Return this machine."""
        memory = psutil.virtual_memory().total
        return [NodeFacts(LOCAL_NODE, HOST, os.cpu_count() or 1, memory)]

    async def start(self, spec: LaunchSpec) -> None:
        """Begin to host a mock; its class is imported while it is listed as running."""
        if spec.replica_id in self._hosted:
            return
        # The web server is heavy, and most session managers host nothing themselves.
        from podbay_kit.replica_server import ReplicaServer  # noqa: PLC0415 # heavy

        listener = self._listen(spec.service)
        server = ReplicaServer(spec.service.name, listener=listener)
        port = int(listener.getsockname()[1])
        task = self._tasks.spawn(f"host-{spec.replica_id}", self._host(spec.replica_id))
        self._hosted[spec.replica_id] = _Hosted(spec, server, port, task)
        self.changed.set()

    async def list(self) -> Sequence[ObservedReplica]:
        """Return what this process hosts."""
        return [hosted.end or _observed(hosted, running=True) for hosted in self._hosted.values()]

    async def stop(self, replica_id: str, grace: float) -> None:
        """Stop listening, and cancel what still runs when the grace is over."""
        hosted = self._hosted.get(replica_id)
        if hosted is None or hosted.end is not None:
            return
        stop_at = asyncio.get_running_loop().time() + grace
        if hosted.stop_at is None:
            hosted.stop_at = stop_at
            self._tasks.spawn(f"stop-{replica_id}", self._stop(hosted, grace))
        elif stop_at < hosted.stop_at:
            # What is left of its calls is cancelled with the task that serves them.
            hosted.stop_at = stop_at
            asyncio.get_running_loop().call_at(stop_at, hosted.task.cancel)

    async def remove(self, replica_id: str) -> None:
        """Forget an ended replica but for its log."""
        hosted = self._hosted.get(replica_id)
        if hosted is None:
            return
        if hosted.end is None:
            raise ReplicaStillRunningError(f"replica {replica_id} has not ended")
        del self._hosted[replica_id]
        self.changed.set()

    async def read_log(self, replica_id: str, offset: int, limit: int) -> LogChunk:
        """Read what was logged about the replica."""
        folder = log_folder(self._root / replica_id)
        chunk = await asyncio.to_thread(read_log_files, folder, offset, limit)
        if chunk is None:
            raise UnknownReplicaError(f"there is no log of replica {replica_id}")
        return chunk

    async def drop_logs(self, keep: frozenset[str]) -> None:
        """Delete the logs of replicas that are not hosted."""
        await asyncio.to_thread(_drop_folders, self._root, keep | self._hosted.keys())

    async def close(self) -> None:
        """End all that is hosted, at once: it cannot outlive this process anyway."""
        living = [hosted for hosted in self._hosted.values() if hosted.end is None]
        await asyncio.gather(*(hosted.server.stop(_LEAST_GRACE) for hosted in living))
        await self._tasks.close()

    def _listen(self, service: ServiceSpec) -> socket.socket:
        used = {h.port for h in self._hosted.values() if h.end is None}
        fixed = service.fixed_port
        port = self._picker.pick(used) if fixed is None else self._picker.claim(fixed, used)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            listener.close()
            raise StartFailedError(
                Reason.PORT_TAKEN, f"Port {port} on {HOST} was taken in the meantime."
            ) from error
        return listener

    async def _host(self, replica_id: str) -> None:
        hosted = self._hosted[replica_id]
        self._log(replica_id, f"hosting {hosted.spec.service.name} on {HOST}:{hosted.port}")
        try:
            await hosted.server.start()
        except ReplicaStartError as error:
            self._log(replica_id, str(error))
            self._end(hosted, error)
            return
        self._log(replica_id, "serving")
        try:
            # Ends when it is stopped: there is no other end within a process.
            await asyncio.Event().wait()
        finally:
            if hosted.end is None:
                await hosted.server.stop(_LEAST_GRACE)
                self._end(hosted, None)

    async def _stop(self, hosted: _Hosted, grace: float) -> None:
        await hosted.server.stop(max(grace, _LEAST_GRACE))
        hosted.task.cancel()
        await asyncio.wait([hosted.task])
        if hosted.end is None:
            self._end(hosted, None)

    def _end(self, hosted: _Hosted, error: ReplicaStartError | None) -> None:
        if error is None:
            hosted.end = _observed(hosted, running=False, exit_code=0)
        else:
            reason, message = _failure(error)
            hosted.end = _observed(
                hosted, running=False, exit_code=error.exit_code, reason=reason, message=message
            )
        self._log(hosted.spec.replica_id, "ended")
        self.changed.set()

    def _log(self, replica_id: str, line: str) -> None:
        try:
            append_log(log_folder(self._root / replica_id), f"{line}\n")
        except OSError as error:
            # The replica matters more than its log.
            _LOG.warning("the log of replica %s cannot be written: %s", replica_id, error.strerror)


def _failure(error: ReplicaStartError) -> tuple[Reason, str]:
    if isinstance(error, MockNotImportableError | PortTakenError):
        return MOCK_EXITS[error.exit_code]
    if error.exit_code == MOCK_FAILED_EXIT_CODE:
        return (
            Reason.REPLICA_EXITED,
            "The constructor of the mock failed; the last lines of the log tell why.",
        )
    return Reason.START_FAILED, "The mock cannot listen on its port."


def _observed(
    hosted: _Hosted,
    *,
    running: bool,
    exit_code: int | None = None,
    reason: Reason = Reason.NONE,
    message: str = "",
) -> ObservedReplica:
    return ObservedReplica(
        replica_id=hosted.spec.replica_id,
        session_id=hosted.spec.session_id,
        running=running,
        exit_code=exit_code,
        host=HOST,
        port=hosted.port,
        pid=os.getpid(),
        node=LOCAL_NODE,
        reason=reason,
        message=message,
    )


def _drop_folders(root: Path, keep: frozenset[str]) -> None:
    for folder in replica_folders(root):
        if folder.replica_id not in keep:
            folder.delete()
