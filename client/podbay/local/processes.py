"""Processes of this machine, named by id and creation time so that a reused id fools nobody."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from podbay.local.faults import LocalError

__all__ = ["ProcessIdentity", "find_by_environment", "kill_all", "psutil_module"]

# Two readings of one process's creation time differ by rounding only.
_SAME_TIME_SECONDS = 0.05


def psutil_module() -> ModuleType:
    """Import psutil, which only an installation with the `local` extra has.

    Raises:
        LocalError: It is not installed.
    """
    try:
        import psutil  # noqa: PLC0415 # the client alone works without it
    except ImportError as error:
        raise LocalError(
            "LOCAL_PLATFORM_NOT_INSTALLED",
            "this installation holds the client only: psutil is missing",
            way_out="install the local platform: pip install 'podbay[local]'",
        ) from error
    return psutil


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told apart from a later one with the same id.

    Attributes:
        pid: The id.
        create_time: When it was created, in seconds since the epoch.
    """

    pid: int
    create_time: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of the process that has this id now, or None."""
        psutil = psutil_module()
        try:
            return cls(pid, float(psutil.Process(pid).create_time()))
        except psutil.NoSuchProcess:
            return None

    @classmethod
    def own(cls) -> ProcessIdentity:
        """Return the identity of the running process."""
        return cls(os.getpid(), float(psutil_module().Process().create_time()))

    def is_running(self) -> bool:
        """Return whether the process runs; one that ended and was not collected does not."""
        psutil = psutil_module()
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.create_time) > _SAME_TIME_SECONDS:
                return False
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def send(self, number: signal.Signals) -> bool:
        """Send a signal, and return whether the process was there to get it."""
        if not self.is_running():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait_gone(self, timeout: float) -> bool:
        """Wait until the process has ended.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it has ended.
        """
        deadline = time.monotonic() + timeout
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def find_by_environment(wanted: Mapping[str, str]) -> Iterator[ProcessIdentity]:
    """Find the processes that were started with these environment variables.

    A process inherits its environment, so this finds what a process started, and what that
    started, also where a parent in between is gone. Processes of other users are not seen.
    """
    psutil = psutil_module()
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if all(environment.get(key) == value for key, value in wanted.items()):
                identity = ProcessIdentity(process.pid, float(process.create_time()))
                if process.pid != os.getpid() and identity.is_running():
                    yield identity
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or belongs to somebody else


def kill_all(processes: Iterable[ProcessIdentity], *, timeout: float = 5.0) -> list[int]:
    """Kill processes at once and wait until they are gone.

    Args:
        processes: Whom to kill.
        timeout: Seconds to wait for all together.

    Returns:
        The ids of those that are still there.
    """
    killed = [process for process in processes if process.send(signal.SIGKILL)]
    deadline = time.monotonic() + timeout
    return [p.pid for p in killed if not p.wait_gone(max(0.0, deadline - time.monotonic()))]
