"""One replica in the process of whoever made its class."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podbay_kit.mock_host.replica_log import ReplicaLog
from podbay_kit.replica_server import MockFailedError, ReplicaStartError
from podbay_kit.replica_server.binding import bind

__all__ = ["HostedReplica"]

_HOST = "127.0.0.1"
# Idle connections are closed in this time; without any, each would be an error.
_LEAST_GRACE = 0.1


class HostedReplica:
    """Serves one class on a port of its own, from its making to its end.

    Args:
        replica_id: The replica.
        session_id: Its session.
        mock_type: The class.
        log_folder: Where its log is written.
        on_change: Called when what `state` returns has changed.

    Raises:
        BindFailedError, PortTakenError: No port could be had.
    """

    def __init__(
        self,
        replica_id: str,
        session_id: str,
        mock_type: type,
        log_folder: Path,
        on_change: Callable[[], None],
    ) -> None:
        self._ids = {"replica": replica_id, "session": session_id}
        self._name = f"{mock_type.__module__}.{mock_type.__qualname__}"
        self._log = ReplicaLog(log_folder)
        # Not one that `getLogger` knows: what the process does with logging is its own affair.
        logger = logging.Logger(f"podbay.replica.{replica_id}")  # noqa: LOG001 # see above
        logger.addHandler(self._log)
        self.listener = bind(_HOST, 0)
        self._port: int = self.listener.getsockname()[1]
        # The session manager imports this package for its records only.
        from podbay_kit.replica_server import ReplicaServer  # noqa: PLC0415 # heavy

        self._server = ReplicaServer(mock_type, listener=self.listener, logger=logger)
        self._on_change = on_change
        self._end: dict[str, Any] | None = None
        self._stop_at: float | None = None
        self._serving = asyncio.create_task(self._serve())
        self._stopping: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self._end is not None

    def state(self) -> dict[str, Any]:
        """Return what the session manager is told: ids, port, and how it ended."""
        end = self._end or {}
        return {**self._ids, "port": self._port, "running": self._end is None, **end}

    def stop(self, grace: float) -> None:
        """Stop listening, and cancel what still runs when the grace (in seconds) is over."""
        if self._end is not None:
            return
        stop_at = asyncio.get_running_loop().time() + grace
        if self._stopping is None:
            self._stop_at = stop_at
            self._stopping = asyncio.create_task(self._stop(grace))
        elif self._stop_at is not None and stop_at < self._stop_at:
            # What is left of its calls is cancelled with the task that serves them.
            self._stop_at = stop_at
            asyncio.get_running_loop().call_at(stop_at, self._serving.cancel)

    async def close(self) -> None:
        """End it at once, and wait for that."""
        self.stop(0.0)
        if self._stopping is not None:
            await asyncio.wait([self._stopping])
        await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        self._log.write(f"hosting {self._name} on {_HOST}:{self._port}")
        try:
            await self._server.start()
        except ReplicaStartError as error:
            self._log.write(_explained(error))
            self._finish({"exit_code": error.exit_code, "message": str(error)})
            return
        except asyncio.CancelledError:
            await self._server.stop(_LEAST_GRACE)
            self._finish({"exit_code": 0})
            return
        self._log.write("serving")
        try:
            # Ends when it is stopped: there is no other end within a process.
            await asyncio.Event().wait()
        finally:
            if self._end is None:
                await self._server.stop(_LEAST_GRACE)
                self._finish({"exit_code": 0})

    async def _stop(self, grace: float) -> None:
        await self._server.stop(max(grace, _LEAST_GRACE))
        self._serving.cancel()
        await asyncio.wait([self._serving])
        if self._end is None:
            # It was stopped in the middle of its start, which then fails in any way.
            self._finish({"exit_code": 0})

    def _finish(self, end: dict[str, Any]) -> None:
        self._end = end
        self._log.write("ended")
        self._on_change()


def _explained(error: ReplicaStartError) -> str:
    """Return the error with the traceback of what the class raised, without frames of ours."""
    cause = error.__cause__
    if not isinstance(error, MockFailedError) or cause is None:
        return str(error)
    # The first frame is the call of the constructor.
    start = cause.__traceback__.tb_next if cause.__traceback__ is not None else None
    lines = traceback.format_exception(type(cause), cause, start)
    return f"{error}\n{''.join(lines).rstrip()}"
