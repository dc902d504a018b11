"""One process's use of a local installation: join it, or start it; leave it, or end it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from podbay.local.faults import LocalError
from podbay.local.host import start_host
from podbay.local.installation import stop_installation
from podbay.local.python_path import absolute_python_path
from podbay.local.state import DataDir, UpRecord
from podbay.local.users import User, Users

__all__ = ["Membership"]

# Three services of which each may take a minute; the same when they end.
_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.1


class Membership:
    """The use of the installation on one data folder, which ends with its last user.

    An installation that `podbay up` started on the folder is joined, too; it goes on afterwards.

    Args:
        folder: The data folder; made where there is none.

    Attributes:
        data: The data folder.
        record: What up.json said when this user joined.

    Raises:
        LocalError: The services could not be started.
    """

    def __init__(self, folder: Path) -> None:
        self.data = DataDir(folder)
        self.data.prepare()
        self._users = Users(self.data.path)
        self._pid = os.getpid()
        with self._users.turn():
            user = self._users.enter(_STOP_SECONDS)
            try:
                self.record = self._running()
            except BaseException as error:
                user.drop()
                if isinstance(error, LocalError):
                    _show(error)
                raise
        self._user: User | None = user

    def leave(self) -> None:
        """Leave, and return when the services have ended, where this was their last user.

        May be called more than once. Does nothing in a forked child, which is no user.
        """
        if self._user is None or os.getpid() != self._pid:
            return
        user, self._user = self._user, None
        # Not the one it joined where that was killed: another user has then started another.
        record = self.data.running() or self.record
        if not user.leave() or not self._users.is_host(record.pid):
            return
        if not record.identity().wait_gone(_STOP_SECONDS):
            stop_installation(self.data, record, timeout=0)

    def _running(self) -> UpRecord:
        """Return the record of the services that run on the folder, and start them if need be."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            record = self.data.running()
            if record is not None and record.state == "running":
                return record
            try:
                # A record of another state: a host whose starter was killed, or a `podbay up`.
                if record is None:
                    start_host(self.data, absolute_python_path())
                    continue
            except LocalError as error:
                # One that has the folder and has not said so yet, or is on its way out.
                if error.reason != "DATA_DIR_IN_USE" or time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise LocalError(
                    "DATA_DIR_IN_USE",
                    f"another process has had {self.data.path} for {_START_SECONDS:.0f} s, and its "
                    "services do not run",
                    way_out=f"end it with `podbay down --data-dir {self.data.path}`",
                )
            time.sleep(_POLL_SECONDS)


def _show(error: LocalError) -> None:
    """Put the evidence and the way out where a traceback shows them."""
    for line in (*error.evidence, error.way_out):
        if line:
            error.add_note(f"  {line}")
