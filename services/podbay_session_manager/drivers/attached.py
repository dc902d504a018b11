"""Mocks that live in somebody's process: a script's or a notebook's, which hosts them itself.

A class of a notebook cannot be imported by another process, and whoever tries it out wants to see
what it prints. So it stays where it is, behind the web server that all mocks have
(`podbay_kit.mock_host`), and this driver tells that process what to serve. The replica ends with
the process; what is told then is which process to start again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from podbay.schema.mock_keys import MOCK_KEY_VARIABLE
from podbay_kit.mock_host import UNKNOWN_KEY, HostRecord, find_hosts
from podbay_session_manager.drivers.attached_link import HostLink
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    LogChunk,
    NodeFacts,
    ObservedReplica,
    ReplicaDriver,
    ReplicaStillRunningError,
    StartFailedError,
    UnknownReplicaError,
)
from podbay_session_manager.drivers.log_files import log_folder, read_log_files
from podbay_session_manager.drivers.ports import HOST
from podbay_session_manager.drivers.process_files import replica_folders
from podbay_session_manager.records import LOCAL_NODE, Reason, ServiceSpec

__all__ = ["AttachedDriver"]

# A process that is stopped, or holds the interpreter's lock, answers nobody.
_CONNECT_SECONDS: Final = 3.0

_ENDED = (
    "The class of the mock lives in the process that made it, and {who} has ended or closed its "
    "platform. Run that script or notebook again: create_mock makes a new service, and attach_mock "
    "lets this one go on. A class in a module of its own needs no such process."
)


class AttachedDriver(ReplicaDriver):
    """Lets the processes that made mocks serve them.

    Args:
        folder: Where the logs of replicas are kept; only one driver may use it at a time.
        hosts: Where the files of the processes are.
    """

    name = "attached"

    def __init__(self, folder: Path, hosts: Path) -> None:
        super().__init__()
        self._root = folder.absolute()
        self._hosts = hosts
        self._links: dict[str, HostLink] = {}
        # What was seen of hosts that are gone, until it is removed.
        self._gone: dict[str, ObservedReplica] = {}
        self._looking = asyncio.Lock()

    def supports(self, service: ServiceSpec) -> str | None:
        """Return None for mocks whose class a process offers under a key."""
        if service.kind != "mock" or not service.is_mock or not _key(service):
            return (
                "it runs services of the runner kind 'mock' whose class lives in the process that "
                f"made them, and this one, of kind {service.kind!r}, names no such process"
            )
        others = [name for name, _ in service.env if name != MOCK_KEY_VARIABLE]
        if others or service.args or service.working_dir is not None:
            return (
                "the mock lives in the process that made it, which has an environment, arguments "
                "and a working folder already"
            )
        return None

    async def nodes(self) -> Sequence[NodeFacts]:
        """Return this machine."""
        memory = psutil.virtual_memory().total
        return [NodeFacts(LOCAL_NODE, HOST, os.cpu_count() or 1, memory)]

    async def start(self, spec: LaunchSpec) -> None:
        """Tell the process that has the class to serve it."""
        await self._look()
        if spec.replica_id in self._gone or self._link_of(spec.replica_id) is not None:
            return
        key = _key(spec.service)
        # First those that told of the class; the others may have it since a moment ago.
        for link in sorted(self._links.values(), key=lambda each: key not in each.keys):
            hindrance = await link.order(
                "start",
                spec.replica_id,
                session=spec.session_id,
                key=key,
                log=str(log_folder(self._root / spec.replica_id)),
            )
            if not hindrance:
                return
            if hindrance != UNKNOWN_KEY:
                raise StartFailedError(
                    Reason.START_FAILED,
                    f"Process {link.record.pid} could not serve the mock: {hindrance}.",
                )
        raise StartFailedError(Reason.MOCK_PROCESS_ENDED, _ENDED.format(who="that process"))

    async def list(self) -> Sequence[ObservedReplica]:
        """Return what the processes told, and what those had that are gone."""
        await self._look()
        living = [
            _observed(told, link.record.pid)
            for link in self._links.values()
            for told in link.replicas.values()
        ]
        return [*living, *self._gone.values()]

    async def stop(self, replica_id: str, grace: float) -> None:
        """Tell the process to stop listening, and to cancel what runs after the grace."""
        link = self._link_of(replica_id)
        if link is not None:
            await link.order("stop", replica_id, grace=grace)

    async def remove(self, replica_id: str) -> None:
        """Forget an ended replica but for its log."""
        link = self._link_of(replica_id)
        if link is not None and await link.order("remove", replica_id):
            raise ReplicaStillRunningError(f"replica {replica_id} has not ended")
        if self._gone.pop(replica_id, None) is not None:
            self.changed.set()

    async def read_log(self, replica_id: str, offset: int, limit: int) -> LogChunk:
        """Read from the files that the process writes."""
        folder = log_folder(self._root / replica_id)
        chunk = await asyncio.to_thread(read_log_files, folder, offset, limit)
        if chunk is None:
            raise UnknownReplicaError(f"there is no log of replica {replica_id}")
        return chunk

    async def drop_logs(self, keep: frozenset[str]) -> None:
        """Delete the logs of replicas that no process has."""
        held = {each.replica_id for each in await self.list()}
        await asyncio.to_thread(_drop_folders, self._root, keep | held)

    async def close(self) -> None:
        """Leave the processes alone; what they serve goes on."""
        await asyncio.gather(*(link.close() for link in self._links.values()))
        self._links.clear()

    def _link_of(self, replica_id: str) -> HostLink | None:
        return next((each for each in self._links.values() if replica_id in each.replicas), None)

    async def _look(self) -> None:
        """See which processes live, connect to those that are new, give up those that are gone.

        Raises:
            DriverUnreachableError: One lives and cannot be asked what it has.
        """
        async with self._looking:
            living = {
                each.host_id: each for each in await asyncio.to_thread(find_hosts, self._hosts)
            }
            for host_id in self._links.keys() - living.keys():
                await self._give_up(self._links.pop(host_id))
            for record in living.values():
                link = self._links.get(record.host_id)
                if link is None or not link.open:
                    await self._connect(record, link)

    async def _connect(self, record: HostRecord, before: HostLink | None) -> None:
        try:
            link = await HostLink.connect(record, self.changed.set, _CONNECT_SECONDS)
        except DriverUnreachableError:
            # One that was just ending, or has never been asked: then it may have anything.
            if before is None and record in await asyncio.to_thread(find_hosts, self._hosts):
                raise
            return
        if before is not None:
            await before.close()
        self._links[record.host_id] = link

    async def _give_up(self, link: HostLink) -> None:
        await link.close()
        for replica_id, told in link.replicas.items():
            self._gone[replica_id] = _lost(told, link.record.pid)
        self.changed.set()


def _key(service: ServiceSpec) -> str:
    return dict(service.env).get(MOCK_KEY_VARIABLE, "")


def _observed(told: Mapping[str, Any], pid: int) -> ObservedReplica:
    exit_code: int | None = told.get("exit_code")
    reason, message = Reason.NONE, ""
    if exit_code:
        reason = Reason.REPLICA_EXITED
        message = f"The mock could not be made: {told['message']}"
    return ObservedReplica(
        replica_id=told["replica"],
        session_id=told["session"],
        running=told["running"],
        exit_code=exit_code,
        host=HOST,
        port=told["port"],
        pid=pid,
        node=LOCAL_NODE,
        reason=reason,
        message=message,
    )


def _lost(told: Mapping[str, Any], pid: int) -> ObservedReplica:
    """Return a replica as one that ended with its process, where it had not ended before."""
    seen = _observed(told, pid)
    if not seen.running:
        return seen
    return ObservedReplica(
        replica_id=seen.replica_id,
        session_id=seen.session_id,
        running=False,
        host=HOST,
        port=seen.port,
        pid=pid,
        node=LOCAL_NODE,
        reason=Reason.MOCK_PROCESS_ENDED,
        message=_ENDED.format(who=f"process {pid}"),
    )


def _drop_folders(root: Path, keep: frozenset[str]) -> None:
    for folder in replica_folders(root):
        if folder.replica_id not in keep:
            folder.delete()
