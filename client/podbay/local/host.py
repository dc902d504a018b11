"""The process that runs a local platform's services for as long as somebody uses them.

`python -m podbay.local.host FOLDER` starts the services, writes one line of JSON (null, or why they
could not be started) and ends when the last user is gone. It is a process of its own, so that
whichever user ends first takes nothing away from the others, and so that no event loop of gRPC but
the user's own lives in a user's process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from podbay.local.background import BackgroundInstallation
from podbay.local.faults import LocalError
from podbay.local.logfile import LogFile
from podbay.local.plan import UpSettings
from podbay.local.state import DataDir
from podbay.local.supervisor import Event
from podbay.local.users import Users

__all__ = ["start_host"]

_SETTINGS = UpSettings(
    registry_port=0,
    session_manager_port=0,
    inference_router_port=0,
    # A script has one client or two, and a second worker would only take time to start.
    workers=1,
    # Podbay's own mocks start at once within the session manager, classes that only a user's
    # process has within that. A class of a module has a path of modules of its own, and so a
    # process of its own.
    drivers=("inprocess", "attached", "process"),
    drain_seconds=5.0,
)
_LOG_LINES = 15
# A failure is told when everything was stopped, and the process has little left to do.
_END_SECONDS = 10.0


def start_host(data: DataDir, python_path: str) -> None:
    """Start the services on a folder in a new process, and return when all are healthy.

    Args:
        data: The folder; this process must be one of its users.
        python_path: The PYTHONPATH of the process and of all that it starts.

    Raises:
        LocalError: They could not be started.
    """
    log = LogFile(data.logs / "up.log")
    output = log.open_for_run()
    try:
        process = subprocess.Popen(  # noqa: S603 # the command line is this program's own
            (sys.executable, "-m", "podbay.local.host", str(data.path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            # A Ctrl-C in the user's terminal is for the user.
            start_new_session=True,
            # Not the user's folder: `python -m` imports from the one it is started in.
            cwd=Path("/"),
            env={**os.environ, "PYTHONPATH": python_path},
        )
    finally:
        os.close(output)
    # Collects the process whenever it ends: it may outlive this user, and not this process.
    collector = threading.Thread(target=process.wait, name="podbay-host", daemon=True)
    collector.start()
    if process.stdout is None:
        raise RuntimeError("a process with a pipe has a pipe")
    with process.stdout:
        answer = process.stdout.readline()
    failure = json.loads(answer) if answer else None
    if failure is not None or not answer:
        collector.join(_END_SECONDS)
    if not answer:
        raise LocalError(
            "START_FAILED",
            "the process that runs the services ended before they were healthy",
            evidence=log.tail(_LOG_LINES),
            way_out=f"its whole log is {log.path}",
        )
    if failure is not None:
        raise LocalError(**failure)


class _StoppedError(BaseException):
    """A signal asked this process to end; no `except Exception` holds it up."""


class _Signals:
    """SIGTERM and its like end the host as the last user's end does; once is enough."""

    def __init__(self) -> None:
        self._came = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._came:
            self._came = True
            raise _StoppedError


def _main(folder: str) -> int:
    data = DataDir(Path(folder))
    users = Users(data.path)
    installation = BackgroundInstallation(data.path, _SETTINGS, on_event=_log)
    failure: LocalError | None = None
    try:
        _Signals()
        installation.start()
        users.name_host()
        _tell(None)
        users.wait_for_none()
    except LocalError as error:
        failure = error
    except _StoppedError:
        _write("stopped by a signal")
    try:
        left = installation.stop()
    except LocalError as error:
        failure = failure or error
    else:
        if left:
            _write(f"processes had to be killed: {[*left.killed, *left.remaining]}")
    if failure is not None:
        _tell(failure)
    return 1 if failure else 0


def _tell(failure: LocalError | None) -> None:
    fields = ("reason", "message", "evidence", "way_out")
    said = None if failure is None else {name: getattr(failure, name) for name in fields}
    # Whoever started this may be gone, and others may have joined meanwhile.
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


def _log(event: Event) -> None:
    _write(f"{event.service:<17} {event.text}", event.lines)


def _write(text: str, lines: Sequence[str] = ()) -> None:
    with contextlib.suppress(OSError):  # a full disk is no reason to stop the services
        sys.stderr.write("\n    ".join([text, *lines]) + "\n")


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
