"""One process replica: watched through its keeper, stopped, and seen to its verified end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
from collections.abc import Callable

from podbay_kit.tasks import TaskSet
from podbay_session_manager.drivers.contract import ObservedReplica
from podbay_session_manager.drivers.leftovers import LeftoverReaper
from podbay_session_manager.drivers.ports import HOST
from podbay_session_manager.drivers.process_files import ExitRecord, LaunchRecord, ReplicaFolder
from podbay_session_manager.drivers.process_launch import MOCK_EXITS
from podbay_session_manager.drivers.process_tree import identity
from podbay_session_manager.records import LOCAL_NODE, Reason

__all__ = ["KeptProcess"]

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.1
_SIGNAL_BASE = 128


class KeptProcess:
    """A replica with its keeper.

    Args:
        folder: Its folder.
        launch: What was started.
        pid: The keeper's process id; None where the keeper has ended already.
        pid_identity: Tells the keeper from later processes with its id.
        own: Whether the keeper is a child of this process, which must collect it.
        reaper: Ends what is left of it.
        tasks: Where its tasks run.
        on_end: Called with the replica's id when it has verifiably ended.
    """

    def __init__(
        self,
        folder: ReplicaFolder,
        launch: LaunchRecord,
        pid: int | None,
        pid_identity: str,
        *,
        own: bool,
        reaper: LeftoverReaper,
        tasks: TaskSet,
        on_end: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self._launch = launch
        self._pid = pid
        self._identity = pid_identity
        self._own = own
        self._reaper = reaper
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._kill_at: float | None = None
        self._kill_handle: asyncio.TimerHandle | None = None
        self._forced = False
        self._command_pid: int | None = None
        self._end: ObservedReplica | None = None
        self._gone = asyncio.Event()
        self._pidfd = -1
        self._watch()
        tasks.spawn(f"replica-{folder.replica_id}", self._see_to_end())

    @property
    def ended(self) -> bool:
        """Whether no process of it is left."""
        return self._end is not None

    def observed(self) -> ObservedReplica:
        """Return the replica as it is now."""
        if self._end is not None:
            return self._end
        if self._keeper_is_gone():
            self._gone.set()
        if self._command_pid is None:
            self._command_pid = self.folder.command_pid()
        return self._observed(running=True)

    def stop(self, grace: float) -> None:
        """Ask it to end; force it after `grace` seconds. A further call can only shorten that."""
        if self._end is not None:
            return
        if self._kill_at is None:
            self._signal(signal.SIGTERM)
        kill_at = self._loop.time() + grace
        if self._kill_at is not None and kill_at >= self._kill_at:
            return
        self._kill_at = kill_at
        if self._kill_handle is not None:
            self._kill_handle.cancel()
        self._kill_handle = self._loop.call_at(kill_at, self._kill)

    def release(self) -> None:
        """Stop watching; the replica goes on."""
        if self._kill_handle is not None:
            self._kill_handle.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _watch(self) -> None:
        """Arrange to be told of the keeper's end; where the system cannot, it is polled."""
        if self._pid is None:
            self._gone.set()
            return
        if not hasattr(os, "pidfd_open"):
            return
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except OSError:
            return
        if not self._own and identity(self._pid) != self._identity:
            # Another process took the id between the look and the watch.
            self.release()
            self._pid = None
            self._gone.set()
            return
        self._loop.add_reader(self._pidfd, self._gone.set)

    def _keeper_is_gone(self) -> bool:
        if self._pid is None or self._gone.is_set():
            return True
        if self._pidfd >= 0:
            ready, _, _ = select.select([self._pidfd], [], [], 0)
            return bool(ready)
        return identity(self._pid) != self._identity

    def _signal(self, number: signal.Signals) -> None:
        if self._pid is None or self._keeper_is_gone():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The keeper lives, so the group is its own.
            os.killpg(self._pid, number)

    def _kill(self) -> None:
        if self._end is None:
            self._forced = True
            self._signal(signal.SIGKILL)

    async def _see_to_end(self) -> None:
        """Wait for the keeper's end, end what is left, and tell."""
        if self._pidfd >= 0 or self._pid is None:
            await self._gone.wait()
        else:
            while not self._keeper_is_gone():  # noqa: ASYNC110 # nothing here tells of it
                await asyncio.sleep(_POLL_SECONDS)
            self._gone.set()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
        status = self._collect()
        await self._reaper.reap(self.folder.replica_id)
        record = await asyncio.to_thread(self.folder.exit)
        if self._command_pid is None:
            self._command_pid = self.folder.command_pid()
        self._end = self._ended(record, status)
        self.release()
        self._on_end(self.folder.replica_id)

    def _collect(self) -> int | None:
        """End the group, collect the keeper where it is a child, and return its exit code."""
        if not self._own or self._pid is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Not collected yet, so its id and its group cannot be anybody else's.
            os.killpg(self._pid, signal.SIGKILL)
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            return None
        return os.waitstatus_to_exitcode(status) if pid == self._pid else None

    def _ended(self, record: ExitRecord | None, status: int | None) -> ObservedReplica:
        if record is None:
            # The keeper was killed before it could write: its own end tells, or what was done.
            if self._forced or (status is not None and status < 0):
                code = (
                    _SIGNAL_BASE + signal.SIGKILL if self._forced else _SIGNAL_BASE - (status or 0)
                )
                return self._observed(running=False, exit_code=code)
            return self._observed(running=False)
        if record.spawn_error:
            return self._observed(
                running=False,
                exit_code=record.code,
                reason=Reason.COMMAND_NOT_EXECUTABLE,
                message=_spawn_message(record.spawn_error),
            )
        if self._launch.mock and record.code in MOCK_EXITS:
            reason, message = MOCK_EXITS[record.code]
            return self._observed(
                running=False, exit_code=record.code, reason=reason, message=message
            )
        return self._observed(running=False, exit_code=record.code)

    def _observed(
        self,
        *,
        running: bool,
        exit_code: int | None = None,
        reason: Reason = Reason.NONE,
        message: str = "",
    ) -> ObservedReplica:
        return ObservedReplica(
            replica_id=self.folder.replica_id,
            session_id=self._launch.session_id,
            running=running,
            exit_code=exit_code,
            host=HOST,
            port=self._launch.port,
            pid=self._command_pid,
            node=LOCAL_NODE,
            reason=reason,
            message=message,
        )


def _spawn_message(error: str) -> str:
    hints = {
        "ENOEXEC": "It is neither a program of this machine nor a script with a first line that "
        "names its interpreter (#!/bin/sh).",
        "ENOENT": "The interpreter that its first line names, or the folder it shall run in, is "
        "not there.",
        "EACCES": "The user may not execute it, or its interpreter.",
        "E2BIG": "Its arguments and env are too long.",
    }
    return (
        f"The command of the service cannot be executed ({error}). {hints.get(error, '')} Mend "
        "the file, or give the service another command."
    )
