"""Inference sessions, synchronously."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any, Unpack
from weakref import WeakSet

from podbay._core import create_ops, node_ops, resource_ops, session_ops
from podbay._core.channels import is_bare_deadline
from podbay._core.explaining import explained
from podbay._core.filters import SessionFilter
from podbay._core.inference import Adapter, CallShape
from podbay._core.log_reading import LogReading
from podbay._core.session_tokens import check_session
from podbay._core.timeouts import check_timeout
from podbay._core.workflow_logs import WorkflowLogQuery, workflow_log_entry
from podbay._sync.exchange import Exchange
from podbay._sync.inference import InferenceSessionClient
from podbay._sync.resources import Resources
from podbay._sync.transport import Transport
from podbay.errors import PodbayError
from podbay.schema.platform import (
    InferenceInterface,
    InferenceSession,
    InferenceSessionAndToken,
    Status,
    WorkflowLogEntry,
    WorkflowLogsResponse,
)
from podbay.schema.requests import InferenceSessionCreateRequest
from podbay.types import (
    Change,
    LogLine,
    Placement,
    RevokedTokens,
    SessionExplanation,
    SessionStatus,
)

__all__ = ["InferenceSessions"]


class InferenceSessions(Resources[InferenceSession]):
    """Inference sessions: running services."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, resource_ops.SESSIONS)
        self._exchanges: WeakSet[Exchange] = WeakSet()

    def create(
        self,
        request: InferenceSessionCreateRequest | Mapping[str, Any],
        *,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> InferenceSessionAndToken:
        """Start a session; return it with a token for its calls.

        Args:
            request: The specification, or its JSON form.
            request_id: Makes the call idempotent; made up unless given.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            InvalidRequestError: The specification breaks a rule.
            NotFoundError: There is no such service.
        """
        return self._transport.run(create_ops.create_session(request, request_id), timeout)

    def query(
        self, *, timeout: float | None = None, **filters: Unpack[SessionFilter]
    ) -> list[InferenceSession]:
        """Return all sessions that match; see `SessionFilter` for the keywords."""
        return self._query(filters, timeout)

    def pages(
        self, *, timeout: float | None = None, **filters: Unpack[SessionFilter]
    ) -> Generator[list[InferenceSession], None, None]:
        """Yield the sessions that match, page by page."""
        return self._pages(filters, timeout)

    def watch(
        self,
        *,
        after_revision: int = 0,
        timeout: float | None = None,
        **filters: Unpack[SessionFilter],
    ) -> Generator[Change[InferenceSession], None, None]:
        """Yield changes as they happen, like `Models.watch`."""
        return self._watch(filters, after_revision, timeout)

    def terminate(self, session_id: str, *, timeout: float | None = None) -> Status:
        """End a session; its replicas finish what they have. Return its status."""
        return self._transport.run(session_ops.terminate(session_id), timeout)

    def ready(self, session_id: str, *, timeout: float | None = None) -> bool:
        """Whether a session takes calls now."""
        return self.status(session_id, timeout=timeout).ready

    def status(self, session_id: str, *, timeout: float | None = None) -> SessionStatus:
        """Return whether a session takes calls, and if not, why, with its replicas."""
        return self._transport.run(session_ops.get_status(session_id), timeout)

    def explain(self, session_id: str, *, timeout: float | None = None) -> SessionExplanation:
        """Say why a session stands where it stands; `str()` of the answer is for people."""
        status = self.status(session_id, timeout=timeout)
        return explained(status, datetime.now(UTC))

    def explain_placement(
        self,
        session: str | InferenceSessionCreateRequest | Mapping[str, Any],
        *,
        timeout: float | None = None,
    ) -> Placement:
        """Say where the replicas of a session go: what they need, and node by node what is free.

        Args:
            session: The id of a session; or the specification of one, or its JSON form, which is
                not created by this.
            timeout: How long the call may take, in seconds, further tries included.
        """
        if isinstance(session, str):
            return self._transport.run(node_ops.explain_placement(session), timeout)
        return self._transport.run(node_ops.explain_request(session), timeout)

    def watch_status(
        self, session_id: str, *, timeout: float | None = None
    ) -> Generator[SessionStatus, None, None]:
        """Yield a session's status, and then every change, until it is terminal."""
        return self._transport.follow(partial(session_ops.watch_status, session_id), timeout)

    def wait_ready(
        self,
        session_id: str,
        *,
        timeout: float | None = None,
        progress: Callable[[SessionStatus], None] | None = None,
    ) -> SessionStatus:
        """Wait until a session takes calls.

        Args:
            session_id: The session.
            timeout: How long to wait, in seconds; without end unless given.
            progress: Called with the status, at once and whenever it changes.

        Returns:
            The status with which it was ready.

        Raises:
            SessionFailedError: It failed; the metadata hold the evidence.
            SessionEndedError: It was terminated, or has expired.
            DeadlineExceededError: The time ran out; the message names what it waits for.
        """
        last: SessionStatus | None = None
        watch = partial(session_ops.watch_status, session_id)
        try:
            with closing(self._transport.follow(watch, timeout)) as statuses:
                for last in statuses:
                    if progress is not None:
                        progress(last)
                    failure = session_ops.verdict(last)
                    if failure is not None:
                        raise failure
                    if last.ready:
                        return last
        except PodbayError as error:
            if timeout is not None and is_bare_deadline(error):
                raise session_ops.not_ready_in_time(session_id, last, timeout) from None
            raise
        raise session_ops.ended_unexplained(session_id)

    def token(
        self, session_id: str, *, expires: datetime | None = None, timeout: float | None = None
    ) -> str:
        """Return another token for the calls of a session.

        Args:
            session_id: The session.
            expires: When the token shall end, with an offset; not later than the session.
            timeout: How long the call may take, in seconds, further tries included.
        """
        return self._transport.run(session_ops.create_token(session_id, expires), timeout)

    def revoke_tokens(self, session_id: str, *, timeout: float | None = None) -> RevokedTokens:
        """End all tokens of a session that were made so far.

        Calls that run by them fail with TOKEN_REVOKED. It returns once the routers refuse them.
        """
        return self._transport.run(session_ops.revoke_tokens(session_id), timeout)

    def logs(
        self,
        session_id: str,
        *,
        replica: str | None = None,
        tail: int | None = None,
        follow: bool = False,
        timeout: float | None = None,
    ) -> Generator[LogLine, None, None]:
        """Yield the lines that replicas wrote, also those that are gone.

        Survives a restart of the session manager: no line is lost or comes twice.

        Args:
            session_id: The session.
            replica: Only this replica.
            tail: Only the last lines of each replica.
            follow: Whether to go on with lines as they are written, until the session ends.
            timeout: How long to go on, in seconds; without end unless given.
        """
        reading = LogReading(session_id, replica, tail, follow=follow)
        return self._lines(reading, timeout)

    def workflow_logs(
        self,
        id: str,
        *,
        since: str | None = None,
        limit: int = 1000,
        timeout: float | None = None,
    ) -> WorkflowLogsResponse:
        """Return what the replicas wrote, as the platform's logs of a workflow.

        Each line is an entry with the time at which it was written, empty where nobody noted it,
        and the replica as a label. The lines of all replicas are merged by their times.

        Args:
            id: The session.
            since: Only lines of the last "90s", "30m", "1h" or "2d", and those without a time.
            limit: The most lines, the newest; `totalLines` counts those of the answer.
            timeout: How long the call may take, in seconds, further tries included.

        Raises:
            InvalidRequestError: `since` or `limit` is not valid.
        """
        query = WorkflowLogQuery(id, since, limit, datetime.now(UTC))
        allowed = check_timeout(timeout, self._transport.settings.timeout)
        with closing(self.logs(id, tail=limit, timeout=allowed)) as lines:
            return query.answer(lines)

    def stream_workflow_logs(
        self, id: str, *, timeout: float | None = None
    ) -> Generator[WorkflowLogEntry, None, None]:
        """Yield what the replicas write as the platform's log entries, until the session ends.

        Args:
            id: The session.
            timeout: How long to go on, in seconds; without end unless given.
        """
        with closing(self.logs(id, follow=True, timeout=timeout)) as lines:
            for line in lines:
                yield workflow_log_entry(line)

    def client(
        self,
        session_id: str,
        token: str,
        *,
        interface: InferenceInterface | Mapping[str, Any] | None = None,
        endpoint: str | None = None,
        input_adapter: Adapter | None = None,
        output_adapter: Adapter | None = None,
        timeout: float = 60.0,
    ) -> InferenceSessionClient:
        """Return a client for the calls of one session. Nothing is sent yet.

        Args:
            session_id: The session.
            token: A token of the session. When it expires, a new one is fetched.
            interface: Gives the endpoint and the pipelines.
            endpoint: The path at the replica; wins over the interface's.
            input_adapter: From an iterable of items to one; wins over the input pipeline.
            output_adapter: Likewise, for the output pipeline.
            timeout: How long a call may take, in seconds, unless it says otherwise.

        Raises:
            InvalidRequestError: There is neither an interface nor an endpoint.
            PermissionDeniedError: The token is of another session.
            AdapterError: A pipeline cannot be built.
        """
        check_session(session_id, token)
        shape = CallShape(interface, endpoint, input_adapter, output_adapter)
        exchange = Exchange(self._transport, token, partial(self.token, session_id))
        self._exchanges.add(exchange)
        return InferenceSessionClient(
            session_id, exchange, shape, timeout, partial(self.wait_ready, session_id)
        )

    def _lines(self, reading: LogReading, timeout: float | None) -> Generator[LogLine, None, None]:
        with closing(self._transport.follow(reading.operation, timeout)) as results:
            for came in results:
                line = reading.took(came)
                if line is not None:
                    yield line

    def _close(self) -> None:
        for exchange in list(self._exchanges):
            exchange.close()
