"""What both of the platform's clients share: their groups and sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Literal

from podbay import AsyncClient
from podbay._core.inference import Adapter, CallShape
from podbay._core.session_tokens import check_session
from podbay._sync.admin import Tokens
from podbay._sync.exchange import Exchange
from podbay._sync.inference import InferenceSessionClient
from podbay._sync.resources import InferenceServices, Models
from podbay._sync.sessions import InferenceSessions
from podbay._sync.transport import Transport
from podbay.compat.refusals import no_such_call
from podbay.compat.timeouts import seconds
from podbay.schema.platform import InferenceInterface, WorkflowLogEntry

__all__ = [
    "CompatModels",
    "CompatServices",
    "CompatSessions",
    "CompatTokens",
    "WaitingSessionClient",
]


class CompatModels(Models):
    """Models, with words about what is not there."""

    def __getattr__(self, name: str) -> Any:
        no_such_call("models", name)

    def stream_workflow_logs(  # type: ignore[override] # the platform's is asynchronous
        self, id: str, *, timeout: float | None = None
    ) -> AsyncGenerator[WorkflowLogEntry, None]:
        """Yield what is written about a model, for `async for`, as the platform does."""
        return _log_entries(self._transport, "models", id, timeout)


class CompatServices(InferenceServices):
    """Inference services, with words about what is not there."""

    def __getattr__(self, name: str) -> Any:
        no_such_call("inferenceservices", name)


class CompatSessionClient(InferenceSessionClient):
    """Calls one session, with words about what is not there."""

    def __getattr__(self, name: str) -> Any:
        no_such_call("InferenceSessionClient", name)


class WaitingSessionClient(CompatSessionClient):
    """Calls one session, whose calls wait until it has started."""

    def infer(
        self,
        body: Any,
        *,
        timeout: float | None = None,
        wait: bool = True,
        affinity: str = "",
    ) -> list[Any]:
        """Send one request and return the items of its answer; waits for the session."""
        return super().infer(body, timeout=timeout, wait=wait, affinity=affinity)


class CompatTokens(Tokens):
    """API tokens, with the platform's name for a look into a token."""

    def inspect(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the header and the claims of a session token, without verifying them."""
        return self.inspect_unverified(token)


class CompatSessions(InferenceSessions):
    """Inference sessions, whose clients take the platform's timeouts."""

    client_type: type[InferenceSessionClient] = CompatSessionClient

    def __getattr__(self, name: str) -> Any:
        no_such_call("inferencesessions", name)

    def stream_workflow_logs(  # type: ignore[override] # the platform's is asynchronous
        self, id: str, *, timeout: float | None = None
    ) -> AsyncGenerator[WorkflowLogEntry, None]:
        """Yield what the replicas write, for `async for`, as the platform does."""
        return _log_entries(self._transport, "inferencesessions", id, timeout)

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


async def _log_entries(
    transport: Transport,
    group: Literal["models", "inferencesessions"],
    id: str,  # the platform's name of it
    timeout: float | None,  # of what is streamed
) -> AsyncGenerator[WorkflowLogEntry, None]:
    """Yield log entries by an asynchronous client; they are all that the platform has of one."""
    settings = transport.settings
    async with (
        AsyncClient(**settings.again()) as client,
        aclosing(getattr(client, group).stream_workflow_logs(id, timeout=timeout)) as entries,
    ):
        async for entry in entries:
            yield entry
