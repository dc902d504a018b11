"""The life of one call: wait, send, collect or stream, and end exactly once.

A call is driven by callbacks, so that none needs a task of its own. All its paths end in `_finish`,
which gives back what the call holds; the counters of the table are exact because nothing else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from podbay_inference_router import failures
from podbay_inference_router.answers import Answer, AnswerError
from podbay_inference_router.errors_map import refused
from podbay_inference_router.health import is_failure
from podbay_inference_router.requests import JSON_TYPE, Request
from podbay_inference_router.tracing import NO_TRACE, CallTrace

if TYPE_CHECKING:
    from podbay.v1.errors_pb2 import CallError
    from podbay_inference_router.dispatch import Dispatcher
    from podbay_inference_router.framing import Piece
    from podbay_inference_router.hedging import Hedge
    from podbay_inference_router.ports import Flight, TimerHandle
    from podbay_inference_router.table import Endpoint, SessionRoute
    from podbay_inference_router.tenancy import AccountLoad

__all__ = ["Call", "Sink"]

_WAITING, _RUNNING, _DONE = range(3)

# After `[DONE]`, how long the replica has to end its HTTP answer, so that the connection can be
# used again; then the connection is closed.
_TAIL_SECONDS: Final = 1.0


class Sink(Protocol):
    """Where a call's results go."""

    def holds(self, call: Call) -> bool:
        """Whether the caller is slower than the replica: its answer is then not read on."""
        ...

    def on_pieces(self, call: Call, pieces: list[Piece]) -> None:
        """Take pieces of a streamed call, in order."""

    def on_done(self, call: Call, pieces: list[Piece], error: CallError | None) -> None:
        """Take the end of a call, once: the last pieces, or the failure."""


class Call:
    """One call.

    Args:
        dispatcher: Who chooses its replica.
        session: Its session.
        sink: Where its results go.
        call_id: The caller's name for it.
        request: What is sent.
        account: The account of the token that it came with.
        epoch: The epoch of that token.
        stream: Whether pieces are wanted as they come.
        affinity: What calls that belong to the same replica share; "" for any replica.
        trace: The trace that it belongs to.
    """

    __slots__ = (
        "_answer",
        "_dispatcher",
        "_pieces",
        "_retried",
        "_size",
        "_state",
        "affinity",
        "began",
        "call_id",
        "connect_failure",
        "endpoint",
        "epoch",
        "excluded",
        "expires_at",
        "first_piece_at",
        "flight",
        "hedge",
        "hedge_timer",
        "held",
        "in_line",
        "replica_id",
        "request",
        "sent",
        "session",
        "sink",
        "stream",
        "tenant",
        "timer",
        "trace",
        "wait_timer",
        "waiting_since",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        session: SessionRoute,
        sink: Sink,
        call_id: int,
        request: Request,
        account: AccountLoad,
        *,
        epoch: int,
        stream: bool,
        affinity: str = "",
        trace: CallTrace = NO_TRACE,
    ) -> None:
        self._dispatcher = dispatcher
        self._answer: Answer | None = None
        self._pieces: list[Piece] | None = None
        self._size = 0
        self._retried = False
        self._state = _WAITING
        self.session = session
        self.tenant = session.tenant(account)
        self.sink = sink
        self.call_id = call_id
        self.request = request
        self.epoch = epoch
        self.stream = stream
        self.affinity = affinity
        self.trace = trace
        self.replica_id = ""
        self.endpoint: Endpoint | None = None
        self.excluded: Endpoint | None = None
        self.flight: Flight | None = None
        self.hedge: Hedge | None = None
        self.hedge_timer: TimerHandle | None = None
        self.sent = False
        self.timer: TimerHandle | None = None
        self.began = 0.0
        self.first_piece_at = 0.0
        self.expires_at = 0.0
        self.wait_timer: TimerHandle | None = None
        self.waiting_since: float | None = None
        self.in_line = False
        self.held = False
        self.connect_failure: tuple[str, str] | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._state == _DONE

    def cancel(self) -> None:
        """End it because the caller no longer wants it; the replica's connection closes at once."""
        if self._state != _DONE:
            self.fail(failures.cancelled(not_started=not self.sent))

    def fail(self, error: CallError) -> None:
        """End it with a failure; nothing happens where it has ended already."""
        if self._state != _DONE:
            flight, self.flight = self.flight, None
            if flight is not None:
                flight.abort()
            if self.sent:
                error.not_started = False
            self._finish([], error)

    def on_deadline(self) -> None:
        """End it because its time ran out."""
        self.timer = None
        self.fail(
            failures.deadline_exceeded(
                self.session.session_id, self.replica_id if self.sent else "", waiting=not self.sent
            )
        )

    def pause(self) -> None:
        """Stop reading the answer, because the caller is slow."""
        if self.flight is not None:
            self.flight.pause()

    def resume(self) -> None:
        """Go on reading the answer."""
        if self.flight is not None:
            self.flight.resume()

    # What the dispatcher says.

    def begin(self, endpoint: Endpoint) -> None:
        """Send it to an endpoint, which counts it from now on."""
        self._state = _RUNNING
        self.endpoint = endpoint
        self.replica_id = endpoint.replica_id
        endpoint.outstanding += 1
        if endpoint.failures or endpoint.asides:
            endpoint.probing = True
        session, tenant = self.session, self.tenant
        tenant.running += 1
        tenant.account.running += 1
        if session.hedge_after and self.hedge_timer is None and not self._retried:
            self.hedge_timer = self._dispatcher.scheduler.call_later(
                session.hedge_after, self._hedge
            )
        request = self.request
        endpoint.upstream.send(self, request.path, request.content_type, request.body)

    def take_hedge(self) -> None:
        """Go on with the second try alone: it was answered first, or the first one failed."""
        hedge, self.hedge = self.hedge, None
        if hedge is None:
            return
        flight, endpoint = self.flight, self.endpoint
        if flight is not None:
            flight.abort()
        if endpoint is not None:
            endpoint.outstanding -= 1
            endpoint.probing = False
            if endpoint.allowance:
                self._dispatcher.left(self.session, endpoint)
        self.endpoint, self.flight = hedge.take()
        self.replica_id = self.endpoint.replica_id if self.endpoint is not None else ""
        self._answer = None
        self._retried = True
        self._dispatcher.look(self.session)

    def _hedge(self) -> None:
        # The timer stays: it says that there may be a hedge.
        if self._state == _RUNNING and self._answer is None:
            self._dispatcher.hedge(self)

    def _drop_hedge(self) -> None:
        if self.hedge_timer is not None:
            self.hedge_timer.cancel()
            self.hedge_timer = None
        hedge, self.hedge = self.hedge, None
        if hedge is not None:
            hedge.drop()
            self._dispatcher.look(self.session)

    def _leave_endpoint(self) -> bool:
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is None:
            return False
        endpoint.outstanding -= 1
        endpoint.probing = False
        if endpoint.allowance:
            self._dispatcher.left(self.session, endpoint)
        tenant = self.tenant
        tenant.running -= 1
        tenant.account.running -= 1
        if tenant.account.leases:
            self._dispatcher.left_account(tenant.account)
        if self.session.leases:
            self._dispatcher.left_session(self.session)
        return True

    # What the connection says.

    def head_lines(self, now: float) -> bytes:
        """Return further lines of the request's head: how long the replica has, and the trace.

        Args:
            now: The time on the scheduler's clock.
        """
        left = int((self.expires_at - now) * 1000)
        return b"Podbay-Timeout-Ms: %d\r\n%b" % (left if left > 0 else 1, self.trace.lines)

    def on_connected(self) -> None:
        """The endpoint can be connected to: others that wait for it may go."""
        endpoint = self.endpoint
        if endpoint is not None and endpoint.failures:
            self._dispatcher.note_connected(self.session, endpoint)

    def on_connect_failed(self, detail: str) -> None:
        """No replica has seen the call: it moves on, or waits for one that can be reached."""
        self.flight = None
        endpoint = self.endpoint
        if endpoint is not None:
            self._dispatcher.note_connect_failure(endpoint)
            self.connect_failure = (endpoint.replica_id, detail)
        if self.hedge is not None:
            self.take_hedge()
        else:
            self._move_on()

    def on_no_files(self, limit: int | None) -> None:
        """The router lacks files: the replica is not to blame, and no other would do better."""
        self.flight = None
        if self.hedge is not None:
            self.take_hedge()
        else:
            self.fail(failures.out_of_files(self.session.session_id, limit))

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
        """The answer begins."""
        if self.hedge is not None and is_failure(status):
            self._note_failure(status, "the first of two tries was answered so")
            self.take_hedge()
            return
        if self.hedge_timer is not None:
            self._drop_hedge()
        settings = self._dispatcher.settings
        answer = self._answer = Answer(settings.max_answer_bytes, settings.max_error_bytes)
        try:
            answer.head(
                status,
                content_type,
                encoding,
                retry_after,
                location=location,
                chunked=chunked,
                pieces=self.stream,
            )
        except AnswerError as error:
            self.on_bad_answer(str(error))

    def on_body(self, data: bytes) -> None:
        """The answer goes on."""
        answer = self._answer
        if answer is None or self._state == _DONE:
            return
        try:
            pieces = answer.feed(data)
        except AnswerError as error:
            self.on_bad_answer(str(error))
            return
        if pieces:
            self._take(pieces)
        if answer.complete and self._state != _DONE:
            if answer.refused:
                self._end_early()
            elif self.wait_timer is None:
                self.wait_timer = self._dispatcher.scheduler.call_later(
                    _TAIL_SECONDS, self._end_early
                )

    def on_end(self, *, closed: bool = False) -> None:
        """The answer is complete."""
        self.flight = None
        answer = self._answer
        if answer is None or self._state == _DONE:
            return
        if answer.refused:
            error = self._refusal(answer)
            if is_failure(answer.status):
                self._note_failure(answer.status, error.message)
            elif self.endpoint is not None and self.endpoint.strikes:
                self._dispatcher.note_good_call(self.session, self.endpoint)
            self._finish([], error)
            return
        try:
            pieces = answer.end(closed=closed)
        except AnswerError as error:
            self.on_bad_answer(str(error))
            return
        if self._pieces is not None:
            self._pieces.extend(pieces)
            pieces = self._pieces
        endpoint = self.endpoint
        if endpoint is not None and endpoint.strikes:
            self._dispatcher.note_good_call(self.session, endpoint)
        self._finish(pieces, None)

    def on_json(self, body: bytes) -> None:
        """A good answer in JSON has come as a whole; the short way through the three above."""
        self.flight = None
        if len(body) > self._dispatcher.settings.max_answer_bytes:
            self.on_head(200, JSON_TYPE, "", "")
            self.on_body(body)
            return
        if self.hedge_timer is not None:
            self._drop_hedge()
        endpoint = self.endpoint
        if endpoint is not None and endpoint.strikes:
            self._dispatcher.note_good_call(self.session, endpoint)
        self._finish([(body, "")], None)

    def on_lost(self, *, answering: bool) -> None:
        """The replica closed the connection too early."""
        self.flight = None
        session = self.session
        answer = self._answer
        if answer is not None and (answer.complete or answer.refused):
            # What a refusal's status says holds, however much of its text has come.
            self.on_end()
            return
        if session.ended:
            self.fail(
                failures.session_ended(
                    session.session_id,
                    session.ended,
                    session.message,
                    session.evidence,
                    not_started=False,
                )
            )
            return
        error = failures.connection_lost(session.session_id, self.replica_id, answering=answering)
        self._note_failure(0, error.message)
        if self.hedge is not None:
            self.take_hedge()
        elif not answering and not self._retried and self._dispatcher.may_repeat(self):
            self._retried = True
            self.excluded = self.endpoint
            self._move_on()
        else:
            self.fail(error)

    def on_bad_answer(self, detail: str) -> None:
        """The answer cannot be passed on."""
        self._note_failure(0, f"its answer cannot be used: {detail}")
        if self.hedge is not None:
            self.take_hedge()
            return
        self.fail(failures.bad_answer(self.session.session_id, self.replica_id, detail))

    def _note_failure(self, status: int, detail: str) -> None:
        if self.endpoint is not None:
            self._dispatcher.note_failed_call(self.session, self.endpoint, status, detail)

    def on_defect(self, incident: str) -> None:
        """The router itself failed."""
        self.fail(failures.internal(incident))

    def _take(self, pieces: list[Piece]) -> None:
        if self.stream:
            if not self.first_piece_at and self._dispatcher.meters is not None:
                self.first_piece_at = self._dispatcher.scheduler.time()
            self.sink.on_pieces(self, pieces)
            if self.sink.holds(self):
                self.pause()
            return
        for text, _ in pieces:
            self._size += len(text)
        if self._size > self._dispatcher.settings.max_answer_bytes:
            limit = self._dispatcher.settings.max_answer_bytes
            self.on_bad_answer(f"it is larger than {limit} bytes")
        elif self._pieces is None:
            self._pieces = pieces
        else:
            self._pieces.extend(pieces)

    def _refusal(self, answer: Answer) -> CallError:
        request = self.request
        return refused(
            answer.status,
            answer.body,
            retry_after=answer.retry_after,
            location=answer.location,
            session_id=self.session.session_id,
            replica_id=self.replica_id,
            request_json=request.body if request.content_type == JSON_TYPE else None,
        )

    def _end_early(self) -> None:
        """Take the answer as complete although the connection is not done with it."""
        self.wait_timer = None
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.abort()
        self.on_end()

    def _move_on(self) -> None:
        """Leave the endpoint and look for another."""
        if self._state != _DONE:
            self._leave_endpoint()
            self._state = _WAITING
            self._answer = None
            self._dispatcher.route(self, again=True)
            self._dispatcher.freed(self, finished=False)

    def _finish(self, pieces: list[Piece], error: CallError | None) -> None:
        self._state = _DONE
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        dispatcher = self._dispatcher
        if self.wait_timer is not None or self.in_line:
            dispatcher.stop_waiting(self)
        if self.hedge_timer is not None:
            self._drop_hedge()
        ran = self._leave_endpoint()
        dispatcher.count_done(self.session)
        if error is not None:
            dispatcher.failed_calls.note(self.session.session_id, error)
        if dispatcher.meters is not None:
            dispatcher.meters.done(self, error, dispatcher.scheduler.time())
        if self.trace.span is not None:
            dispatcher.end_span(self, error)
        self.sink.on_done(self, pieces, error)
        if ran:
            if self.session.waiting.length or self.tenant.account.held:
                dispatcher.freed(self, finished=True)
        elif self.session.waiting.length:
            dispatcher.look(self.session)
