"""What both of the platform's clients share: their groups and sessions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

from podbay._core.inference import Adapter, CallShape
from podbay._core.session_tokens import check_session
from podbay._sync.exchange import Exchange
from podbay._sync.inference import InferenceSessionClient
from podbay._sync.sessions import InferenceSessions
from podbay.compat.timeouts import seconds
from podbay.schema.platform import InferenceInterface

__all__ = ["CompatSessions", "WaitingSessionClient", "no_such_member"]


def no_such_member(kind: str, name: str) -> NoReturn:
    """Refuse a member of a client that Podbay does not have.

    Raises:
        AttributeError: Always.
    """
    if name.startswith("_"):
        raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name)
    raise AttributeError(
        f"Podbay's {kind} has no {name!r}: of the platform's API groups it has models, "
        "inferenceservices and inferencesessions",
        name=name,
    )


class WaitingSessionClient(InferenceSessionClient):
    """Calls one session, whose calls wait until it has started."""

    def infer(self, body: Any, *, timeout: float | None = None, wait: bool = True) -> list[Any]:
        """Send one request and return the items of its answer; waits for the session."""
        return super().infer(body, timeout=timeout, wait=wait)


class CompatSessions(InferenceSessions):
    """Inference sessions, whose clients take the platform's timeouts."""

    client_type: type[InferenceSessionClient] = InferenceSessionClient

    def client(
        self,
        session_id: str,
        token: str,
        *,
        interface: InferenceInterface | Mapping[str, Any] | None = None,
        endpoint: str | None = None,
        input_adapter: Adapter | None = None,
        output_adapter: Adapter | None = None,
        timeout: Any = 60.0,
    ) -> InferenceSessionClient:
        """Return a client for the calls of one session; see `InferenceSessions.client`."""
        check_session(session_id, token)
        shape = CallShape(interface, endpoint, input_adapter, output_adapter)
        exchange = Exchange(self._transport, token, partial(self.token, session_id))
        self._exchanges.add(exchange)
        return self.client_type(
            session_id, exchange, shape, seconds(timeout), partial(self.wait_ready, session_id)
        )
