"""Replicas as processes of this machine and of the operator's user.

They outlive the session manager: each has a keeper process (`keeper.py`) in a session of its own,
which writes down how the command ended, and a folder by which the next session manager adopts it.
There is no isolation: the command may do what the user may.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import psutil

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers import keeper
from podbay_session_manager.drivers.contract import (
    LaunchSpec,
    LogChunk,
    NodeFacts,
    NotPermittedError,
    ObservedReplica,
    ReplicaDriver,
    ReplicaStillRunningError,
    StartFailedError,
    StartFailure,
    UnknownReplicaError,
)
from podbay_session_manager.drivers.kept_process import KeptProcess
from podbay_session_manager.drivers.leftovers import LeftoverReaper
from podbay_session_manager.drivers.log_files import log_folder, read_log_files
from podbay_session_manager.drivers.ports import HOST, PortPicker
from podbay_session_manager.drivers.process_files import (
    KeeperRecord,
    LaunchRecord,
    ReplicaFolder,
    begin_term,
    present_term,
    replica_folders,
)
from podbay_session_manager.drivers.process_launch import (
    prepare,
    replica_environment,
    supports_local,
)
from podbay_session_manager.drivers.process_tree import find_marked, identity
from podbay_session_manager.records import LOCAL_NODE, Reason, ServiceSpec

__all__ = ["ProcessDriver"]

_LOG = logging.getLogger(__name__)
_KEEPER = keeper.__file__
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


class ProcessDriver(ReplicaDriver):
    """Runs replicas as processes of this machine.

    Args:
        folder: Where replicas and their logs are kept; only one driver may use it at a time.
        environment: What replicas inherit; that of this process unless given.
        term: The session manager's term. What a driver of an earlier one begins afterwards, as a
            process that was stopped and goes on, does not run.
    """

    name = "process"

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str] | None = None, term: int = 0
    ) -> None:
        super().__init__()
        self._root = folder.absolute()
        self._term = term
        self._environment = dict(os.environ if environment is None else environment)
        self._held: dict[str, KeptProcess] = {}
        self._starts: dict[str, asyncio.Task[StartFailure | None]] = {}
        # Promised to replicas that are being started or have not ended.
        self._ports: dict[str, int] = {}
        self._picker = PortPicker()
        self._tasks = TaskSet()
        self._reaper = LeftoverReaper(self._tasks)
        self._adopted: asyncio.Task[None] | None = None

    @property
    def starting(self) -> Collection[str]:
        """The replicas whose keeper is being made."""
        return self._starts.keys()

    def supports(self, service: ServiceSpec) -> str | None:
        """Return None for mocks and local commands."""
        return supports_local(service)

    async def nodes(self) -> Sequence[NodeFacts]:
        """Return this machine."""
        memory = psutil.virtual_memory().total
        return [NodeFacts(LOCAL_NODE, HOST, os.cpu_count() or 1, memory)]

    async def start(self, spec: LaunchSpec) -> None:
        """Start a keeper with the command."""
        await self._adopt()
        if spec.replica_id in self._held:
            return
        task = self._starts.get(spec.replica_id)
        if task is None:
            task = self._tasks.spawn(f"start-{spec.replica_id}", self._start(spec))
            # Whoever waits may go away; the start then finishes, and `list` shows what came of it.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._starts[spec.replica_id] = task
        failure = await asyncio.shield(task)
        if failure is not None:
            raise failure

    async def list(self) -> Sequence[ObservedReplica]:
        """Return what is kept."""
        await self._adopt()
        return [kept.observed() for kept in self._held.values()]

    async def stop(self, replica_id: str, grace: float) -> None:
        """Send SIGTERM to the group, and SIGKILL when the grace is over."""
        await self._adopt()
        kept = self._held.get(replica_id)
        if kept is not None:
            kept.stop(grace)

    async def remove(self, replica_id: str) -> None:
        """Forget an ended replica but for its log."""
        await self._adopt()
        kept = self._held.get(replica_id)
        if kept is None:
            return
        if not kept.ended:
            raise ReplicaStillRunningError(f"replica {replica_id} has not ended")
        await asyncio.to_thread(kept.folder.clear)
        self._held.pop(replica_id, None)
        self.changed.set()

    async def read_log(self, replica_id: str, offset: int, limit: int) -> LogChunk:
        """Read from the files that the keeper writes."""
        folder = log_folder(self._root / replica_id)
        chunk = await asyncio.to_thread(read_log_files, folder, offset, limit)
        if chunk is None:
            raise UnknownReplicaError(f"there is no log of replica {replica_id}")
        return chunk

    async def drop_logs(self, keep: frozenset[str]) -> None:
        """Delete the folders of removed replicas."""
        await self._adopt()
        keep = keep | self._held.keys() | self._starts.keys()
        await asyncio.to_thread(_drop_folders, self._root, keep)

    async def close(self) -> None:
        """Stop watching; replicas go on."""
        # In their threads they go on anyway, and beside those of the driver that follows.
        begun = [*self._starts.values(), *([self._adopted] if self._adopted else [])]
        await asyncio.gather(*begun, return_exceptions=True)
        await self._tasks.close()
        for kept in self._held.values():
            kept.release()

    async def _adopt(self) -> None:
        """Take over, once, what an earlier driver left running."""
        if self._adopted is None or (self._adopted.done() and _failed(self._adopted)):
            self._adopted = self._tasks.spawn("adopt", self._scan())
        await asyncio.shield(self._adopted)

    async def _scan(self) -> None:
        if self._term:
            # Before the look: a keeper that this does not stop is seen by the look.
            await asyncio.to_thread(begin_term, self._root, self._term)
        found = await asyncio.to_thread(_find_replicas, self._root)
        for folder, launch, pid, pid_identity in found:
            self._hold(folder, launch, pid, pid_identity, own=False)
        if found:
            _LOG.info("adopted %d replicas", sum(1 for _, _, pid, _ in found if pid is not None))

    async def _start(self, spec: LaunchSpec) -> StartFailure | None:
        """Start a replica; return why that failed: it is no defect, to be logged as one."""
        used = set(self._ports.values())
        try:
            port = await asyncio.to_thread(self._port, spec.service, used)
            if port in set(self._ports.values()) - used:
                # Another start found the same one meanwhile.
                port = await asyncio.to_thread(self._port, spec.service, set(self._ports.values()))
            self._ports[spec.replica_id] = port
            folder = ReplicaFolder(self._root / spec.replica_id)
            launch = LaunchRecord(spec.session_id, port, spec.service.is_mock)
            keeper_record = await asyncio.to_thread(self._launch, spec, folder, launch)
            self._hold(folder, launch, keeper_record.pid, keeper_record.identity, own=True)
            self.changed.set()
        except BaseException as error:
            self._ports.pop(spec.replica_id, None)
            if isinstance(error, StartFailure):
                return error
            raise
        finally:
            self._starts.pop(spec.replica_id, None)
        return None

    def _port(self, service: ServiceSpec, used: set[int]) -> int:
        fixed = service.fixed_port
        return self._picker.pick(used) if fixed is None else self._picker.claim(fixed, used)

    def _launch(
        self, spec: LaunchSpec, folder: ReplicaFolder, launch: LaunchRecord
    ) -> KeeperRecord:
        environment = replica_environment(spec, launch.port, self._environment)
        command = prepare(spec.service, environment)
        arguments = [
            sys.executable, "-I", "-S", _KEEPER,
            str(folder.path), str(self._term),
            command.folder, command.executable, *command.argv,
        ]  # fmt: skip
        self._check_permitted()
        pid = 0
        try:
            folder.begin(launch)
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
            )
            record = KeeperRecord(pid, identity(pid) or "")
            # Of a later term, the replica's folder is another driver's.
            self._check_permitted()
            folder.keep(record)
        except NotPermittedError:
            if pid and present_term(self._root) <= self._term:
                # Nothing is written down of it: told again, the start would make another one. In
                # a later term it does not run, or is another driver's by now.
                _end_keeper(pid)
            raise
        except OSError as error:
            if pid:
                # Nobody would find it again.
                _end_keeper(pid)
            with contextlib.suppress(OSError):
                folder.clear()
            raise _not_made(error, self._root) from error
        except ValueError as error:
            folder.clear()
            raise StartFailedError(
                Reason.START_FAILED,
                "The command, its arguments or its env hold what no process can be given, as a "
                "NUL character. Mend the service.",
            ) from error
        return record

    def _check_permitted(self) -> None:
        if not self.permitted() or present_term(self._root) > self._term:
            raise NotPermittedError

    def _hold(
        self,
        folder: ReplicaFolder,
        launch: LaunchRecord,
        pid: int | None,
        pid_identity: str,
        *,
        own: bool,
    ) -> None:
        self._ports[folder.replica_id] = launch.port
        self._held[folder.replica_id] = KeptProcess(
            folder,
            launch,
            pid,
            pid_identity,
            own=own,
            reaper=self._reaper,
            tasks=self._tasks,
            on_end=self._on_end,
        )

    def _on_end(self, replica_id: str) -> None:
        self._ports.pop(replica_id, None)
        self.changed.set()


def _end_keeper(pid: int) -> None:
    """End a keeper that was just made, with all of its group, and collect it."""
    # Not collected yet, so its id and its group cannot be anybody else's.
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _not_made(error: OSError, root: Path) -> StartFailedError:
    if error.errno in _FULL:
        return StartFailedError(
            Reason.DISK_FULL,
            f"The disk of {root}, where the session manager keeps the logs of replicas, has no "
            "room left. Make some, or give the session manager another --data-dir.",
        )
    return StartFailedError(
        Reason.START_FAILED,
        f"The process of the replica could not be made on this node: {error.strerror}. Check the "
        "limits of the user (ulimit -a).",
    )


def _failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


def _find_replicas(
    root: Path,
) -> Sequence[tuple[ReplicaFolder, LaunchRecord, int | None, str]]:
    """Return the replicas on disk with their keepers' process ids, None where they have ended.

    A folder of a start that was never finished is cleared, as if it had not begun.
    """
    found: list[tuple[ReplicaFolder, LaunchRecord, int | None, str]] = []
    orphans: list[tuple[ReplicaFolder, LaunchRecord]] = []
    for folder in replica_folders(root):
        launch = folder.launch()
        if launch is None:
            continue
        record = folder.keeper()
        if record is None:
            orphans.append((folder, launch))
            continue
        alive = identity(record.pid) == record.identity
        found.append((folder, launch, record.pid if alive else None, record.identity))
    if orphans:
        found.extend(_find_orphans(orphans))
    return found


def _find_orphans(
    orphans: Sequence[tuple[ReplicaFolder, LaunchRecord]],
) -> Sequence[tuple[ReplicaFolder, LaunchRecord, int | None, str]]:
    """Find the keepers of replicas whose session manager died before it wrote them down."""
    found: list[tuple[ReplicaFolder, LaunchRecord, int | None, str]] = []
    marked = find_marked([folder.replica_id for folder, _ in orphans])
    for folder, launch in orphans:
        # The keeper leads the session that all of them were born in.
        pid = next((p for p in marked.get(folder.replica_id, []) if _leads_session(p)), None)
        if pid is not None:
            record = KeeperRecord(pid, identity(pid) or "")
            folder.keep(record)
            found.append((folder, launch, pid, record.identity))
        elif marked.get(folder.replica_id) or folder.exit() is not None:
            found.append((folder, launch, None, ""))
        else:
            folder.clear()
    return found


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except (ProcessLookupError, PermissionError):
        return False


def _drop_folders(root: Path, keep: frozenset[str]) -> None:
    for folder in replica_folders(root):
        if folder.replica_id not in keep and folder.launch() is None:
            folder.delete()
