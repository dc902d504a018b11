"""A second try of a call that is without an answer for long: the first of the two answers is taken.

Only services that say so are called twice, within the session's budget. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from podbay_inference_router.health import is_failure

if TYPE_CHECKING:
    from podbay_inference_router.calls import Call
    from podbay_inference_router.dispatch import Dispatcher
    from podbay_inference_router.ports import Flight
    from podbay_inference_router.table import Endpoint

__all__ = ["Hedge"]


class Hedge:
    """The second try; once it is taken, it only passes on what its connection says.

    Args:
        dispatcher: Told how the try goes.
        call: The call.
        endpoint: Where it is tried.
    """

    __slots__ = ("_call", "_dispatcher", "_flight", "_sent", "_taken", "endpoint")

    def __init__(self, dispatcher: Dispatcher, call: Call, endpoint: Endpoint) -> None:
        self._dispatcher = dispatcher
        self._call = call
        self._flight: Flight | None = None
        self._sent = False
        self._taken = False
        self.endpoint: Endpoint | None = endpoint

    @property
    def flight(self) -> Flight | None:
        """The request on its way."""
        return self._call.flight if self._taken else self._flight

    @flight.setter
    def flight(self, flight: Flight | None) -> None:
        if self._taken:
            self._call.flight = flight
        else:
            self._flight = flight

    @property
    def sent(self) -> bool:
        """Whether any of the request was written."""
        return self._call.sent if self._taken else self._sent

    @sent.setter
    def sent(self, sent: bool) -> None:
        # That a replica has seen the call holds for the call, whichever of its tries is taken.
        self._sent = sent
        self._call.sent = self._call.sent or sent

    def begin(self) -> None:
        """Send the request; the endpoint counts it from now on."""
        endpoint = self.endpoint
        if endpoint is not None:
            endpoint.outstanding += 1
            if endpoint.failures or endpoint.asides:
                endpoint.probing = True
            request = self._call.request
            endpoint.upstream.send(self, request.path, request.content_type, request.body)

    def drop(self) -> None:
        """Give the try up: the call is answered, or over."""
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.abort()
        self._leave()

    def take(self) -> tuple[Endpoint | None, Flight | None]:
        """Become the call's only try; returns what it holds, which is the call's from now on."""
        self._taken = True
        endpoint, self.endpoint = self.endpoint, None
        flight, self._flight = self._flight, None
        return endpoint, flight

    def head_lines(self, now: float) -> bytes:
        """Return the call's own lines of the request's head."""
        return self._call.head_lines(now)

    def on_connected(self) -> None:
        """The endpoint can be connected to."""
        endpoint = self._call.endpoint if self._taken else self.endpoint
        if endpoint is not None and endpoint.failures:
            self._dispatcher.note_connected(self._call.session, endpoint)

    def on_connect_failed(self, detail: str) -> None:
        """The endpoint cannot be connected to."""
        if self._taken:
            self._call.on_connect_failed(detail)
            return
        endpoint, self._flight = self.endpoint, None
        if endpoint is not None:
            self._dispatcher.note_connect_failure(endpoint)
        self._over()

    def on_no_files(self, limit: int | None) -> None:
        """The router lacks files: the call's first try goes on."""
        if self._taken:
            self._call.on_no_files(limit)
            return
        self._flight = None
        self._over()

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
        """The answer begins: it is the first, unless it tells of a failure of the replica."""
        if not self._taken:
            if is_failure(status):
                self._failed(status, "a second try was answered so")
                return
            self._call.take_hedge()
        self._call.on_head(
            status, content_type, encoding, retry_after, location=location, chunked=chunked
        )

    def on_body(self, data: bytes) -> None:
        """The answer goes on."""
        if self._taken:
            self._call.on_body(data)

    def on_end(self, *, closed: bool = False) -> None:
        """The answer is complete."""
        if self._taken:
            self._call.on_end(closed=closed)

    def on_json(self, body: bytes) -> None:
        """A good answer has come as a whole: it is the first."""
        if not self._taken:
            self._call.take_hedge()
        self._call.on_json(body)

    def on_lost(self, *, answering: bool) -> None:
        """The connection is lost."""
        if self._taken:
            self._call.on_lost(answering=answering)
        else:
            self._flight = None
            self._failed(0, "the connection of a second try was lost")

    def on_bad_answer(self, detail: str) -> None:
        """The answer is not HTTP."""
        if self._taken:
            self._call.on_bad_answer(detail)
        else:
            self._failed(0, detail)

    def on_defect(self, incident: str) -> None:
        """The router itself failed."""
        if self._taken:
            self._call.on_defect(incident)
        else:
            self._over()

    def _failed(self, status: int, detail: str) -> None:
        endpoint = self.endpoint
        self._over()
        if endpoint is not None:
            self._dispatcher.note_failed_call(self._call.session, endpoint, status, detail)

    def _over(self) -> None:
        """End this try; the call's first one goes on."""
        self._call.hedge = None
        self.drop()
        self._dispatcher.look(self._call.session)

    def _leave(self) -> None:
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is not None:
            endpoint.outstanding -= 1
            endpoint.probing = False
            if endpoint.allowance:
                self._dispatcher.left(self._call.session, endpoint)
