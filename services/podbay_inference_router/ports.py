"""Between a call and the connection that carries it: who may say what to whom. Pure."""

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Flight", "Scheduler", "Sendable", "TimerHandle", "Upstream"]


class TimerHandle(Protocol):
    """A timer that can be stopped."""

    def cancel(self) -> None:
        """Stop it."""


class Scheduler(Protocol):
    """Time and timers; an asyncio event loop is one."""

    def time(self) -> float:
        """Return seconds that only grow."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Call `callback(*args)` after `delay` seconds."""
        ...


class Flight(Protocol):
    """A request on its way."""

    def abort(self) -> None:
        """Close the connection at once; the call is told nothing more."""

    def pause(self) -> None:
        """Stop reading the answer."""

    def resume(self) -> None:
        """Go on reading the answer."""


class Sendable(Protocol):
    """What an upstream tells of a request that it was given."""

    flight: Flight | None
    sent: bool
    """Whether any of the request was written to a connection."""

    def head_lines(self, now: float) -> bytes:
        """Return further lines of the request's head, each with its end.

        Args:
            now: The time on the scheduler's clock.
        """
        ...

    def on_connected(self) -> None:
        """A connection was made; the request is about to be written."""

    def on_connect_failed(self, detail: str) -> None:
        """No connection could be made; the replica has not seen the request."""

    def on_no_files(self, limit: int | None) -> None:
        """No connection could be tried: the router lacks files. It says nothing of the replica.

        Args:
            limit: The most files that the router may have open; None where it is the machine that
                has no more.
        """

    def on_head(
        self,
        status: int,
        content_type: str,
        encoding: str,
        retry_after: str,
        *,
        location: str = "",
        chunked: bool = False,
    ) -> None:
        """The head of the answer has come; "" for a header that is not there."""

    def on_body(self, data: bytes) -> None:
        """A part of the body has come."""

    def on_end(self, *, closed: bool = False) -> None:
        """The answer is complete, and the connection is done with it.

        Args:
            closed: Whether the end of the connection is all that says so: the replica did not tell
                how long its answer is, and may have ended in the middle of it.
        """

    def on_json(self, body: bytes) -> None:
        """A whole answer with status 200 and JSON has come, and the connection is done with it.

        The same as `on_head`, `on_body` and `on_end`, for what comes most.
        """

    def on_lost(self, *, answering: bool) -> None:
        """The connection ended before the answer did."""

    def on_bad_answer(self, detail: str) -> None:
        """The answer is not HTTP; the connection is closed."""

    def on_defect(self, incident: str) -> None:
        """A defect in the router; the connection is closed."""


class Upstream(Protocol):
    """How calls get to one endpoint: its connections."""

    def send(self, call: Sendable, path: str, content_type: str, body: bytes) -> None:
        """Send a request; the call is told how it goes, never before this returns."""

    def close(self) -> None:
        """Close what is idle, and let what runs finish."""
