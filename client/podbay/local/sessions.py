"""Sessions of a platform on this machine: calls without a client at hand."""

from __future__ import annotations

from typing import Any

from podbay._sync.inference import InferenceSessionClient
from podbay._sync.sessions import InferenceSessions
from podbay._sync.transport import Transport
from podbay.schema.platform import Status

__all__ = ["LocalInferenceSessions"]


class LocalInferenceSessions(InferenceSessions):
    """Inference sessions of a platform on this machine.

    Args:
        transport: What sends the calls.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._clients: dict[tuple[str, str], InferenceSessionClient] = {}

    def infer(
        self,
        session_id: str,
        endpoint: str,
        request: Any,
        *,
        timeout: float | None = None,
        wait: bool = False,
    ) -> list[Any]:
        """Send one request in the server's own format, without pipelines; return the items.

        For more than a few calls, `client` is the way: it streams, and sends many at once.

        Args:
            session_id: The session.
            endpoint: The path at the replica, as "generate".
            request: The body, as JSON can say it.
            timeout: How long the call may take, in seconds; a minute unless given.
            wait: Whether to wait while the session is not ready yet.

        Raises:
            NotFoundError: There is no such session.
            PodbayError: The call failed; the class and the reason say how.
        """
        key = session_id, endpoint
        client = self._clients.get(key)
        if client is None:
            token = self.token(session_id)
            # Of two threads that come here at once, one's client is kept; both work.
            client = self._clients.setdefault(
                key, self.client(session_id, token, endpoint=endpoint)
            )
        return client.infer(request, timeout=timeout, wait=wait)

    def terminate(self, session_id: str, *, timeout: float | None = None) -> Status:
        """End a session; its replicas finish what they have. Return its status."""
        status = super().terminate(session_id, timeout=timeout)
        self._forget(session_id)
        return status

    def delete(self, id: str, *, timeout: float | None = None) -> Status:  # noqa: A002 # as the base has it
        """Mark a session as deleted, which ends it; return its status."""
        status = super().delete(id, timeout=timeout)
        self._forget(id)
        return status

    def _forget(self, session_id: str) -> None:
        # Not closed: its last calls may be under way. It closes when nobody holds it any more.
        for key in [key for key in self._clients if key[0] == session_id]:
            self._clients.pop(key, None)
