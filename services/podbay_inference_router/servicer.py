"""InferenceRouterService: converts between the wire and calls, and checks who calls."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import grpc

from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as pb
from podbay.v1 import inference_router_service_pb2_grpc as pb_grpc
from podbay_inference_router import failures
from podbay_inference_router.calls import Call, Sink
from podbay_inference_router.exchange import ExchangeStream
from podbay_inference_router.requests import RequestError, check_key, prepare
from podbay_inference_router.tokens import ExpiredTokenError
from podbay_inference_router.tracing import begin_trace
from podbay_inference_router.unary import PieceSink, WholeSink
from podbay_inference_router.values import ValueFormError, from_json
from podbay_kit.auth import bearer_token
from podbay_kit.errors import ServiceError

if TYPE_CHECKING:
    from podbay.v1.errors_pb2 import CallError
    from podbay_inference_router.dispatch import Dispatcher
    from podbay_inference_router.framing import Piece
    from podbay_inference_router.table import SessionRoute
    from podbay_inference_router.tokens import Claims, TokenVerifier

    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["RouterServicer", "to_service_error"]

_ACCEPTED: Final = (("podbay-accepted", "1"),)
_STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def to_service_error(error: CallError) -> ServiceError:
    """Return a call's failure as an RPC raises it."""
    delay = error.retry_delay
    return ServiceError(
        error.reason,
        error.message,
        code=_STATUS_CODES[error.code],
        metadata=error.metadata,
        retry_after=delay.seconds + delay.nanos * 1e-9 if error.HasField("retry_delay") else None,
        violations=[(item.field, item.description) for item in error.violations],
        not_started=error.not_started,
    )


class RouterServicer(pb_grpc.InferenceRouterServiceServicer):
    """The service.

    Args:
        dispatcher: Where calls go.
        verifier: Whom to believe.
        wall_clock: Gives the time of day in seconds since 1970.
        away: Says why the session manager tells no routes now; "" where that is not known.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        verifier: TokenVerifier,
        wall_clock: Callable[[], float] = time.time,
        away: Callable[[], str] = str,
    ) -> None:
        self._away = away
        self._dispatcher = dispatcher
        self._verifier = verifier
        self._wall_clock = wall_clock
        self._streams: set[ExchangeStream] = set()
        self._single: set[Call] = set()
        self._news = asyncio.Event()
        self._abandoned = False

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:
        """Send one request and return the whole answer."""
        sink = WholeSink()
        call = self._begin(request, context, sink, stream=False)
        try:
            pieces, error = await sink.result()
        finally:
            self._end(call)
        if error is not None:
            raise to_service_error(error)
        return pb.InferResponse(items=self._items(call, pieces), replica_id=call.replica_id)

    async def StreamInfer(  # type: ignore[override]  # a coroutine that writes
        self, request: pb.StreamInferRequest, context: Context
    ) -> None:
        """Send one request and return the answer in pieces."""
        sink = PieceSink()
        call = self._begin(request, context, sink, stream=True)
        try:
            first = True
            while pieces := await sink.next():
                response = pb.StreamInferResponse(items=self._items(call, pieces))
                if first:
                    response.replica_id = call.replica_id
                    first = False
                await context.write(response)
        finally:
            self._end(call)
        if sink.error is not None:
            raise to_service_error(sink.error)

    async def Exchange(  # type: ignore[override]  # a coroutine that writes
        self, request_iterator: object, context: Context
    ) -> None:
        """Carry many calls of one session."""
        del request_iterator  # context.read() does without an iterator's costs
        claims = self._authenticate(context)
        self._check_epoch(claims)
        if self._abandoned:
            raise ServiceError(
                errors_pb2.ERROR_REASON_SERVICE_STOPPING,
                "The router is about to stop and has not begun any call. Try again.",
                retry_after=0.1,
                not_started=True,
            )
        # Before this nothing of the stream was read, and a refusal has begun nothing.
        await context.send_initial_metadata(_ACCEPTED)
        stream = ExchangeStream(self._dispatcher, claims, self._wall_clock)
        self._streams.add(stream)
        if self._dispatcher.draining:
            stream.drain()
        reader = asyncio.create_task(stream.read_from(context.read), name="exchange-reader")
        reader.add_done_callback(lambda _: stream.half_close())
        try:
            await stream.write_to(context.write)
        finally:
            self._streams.discard(stream)
            self._news.set()
            stream.abort()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    def drain(self) -> None:
        """Refuse what is new, and tell the clients of open streams."""
        self._dispatcher.drain()
        for stream in self._streams:
            stream.drain()

    def revoke(self, session: SessionRoute) -> None:
        """End what runs by tokens of a session that were revoked, and their streams."""
        for call in list(self._single):
            if call.session is session and call.epoch < session.epoch:
                call.fail(failures.token_revoked(session.session_id))
        for stream in self._streams:
            if stream.is_of(session.session_id, session.epoch):
                stream.finish(failures.token_revoked(session.session_id))

    async def finished(self) -> None:
        """Return when nothing runs."""
        while self._streams or self._single:
            self._news.clear()
            await self._news.wait()

    def abandon(self) -> None:
        """End what still runs, because the time for it is over."""
        self._abandoned = True
        error = failures.stopped()
        for call in list(self._single):
            call.fail(error)
        for stream in self._streams:
            stream.finish(error)

    def _authenticate(self, context: Context) -> Claims:
        if not self._dispatcher.table.synced:
            raise self._refused(failures.not_synced(self._away()))
        try:
            token = bearer_token(context.invocation_metadata() or ())
        except ServiceError as error:
            if self._dispatcher.meters is not None:
                self._dispatcher.meters.refused(error.reason)
            raise
        try:
            return self._verifier.verify(token, self._wall_clock())
        except ExpiredTokenError as error:
            raise self._refused(error.failure, error.session_id) from error
        except RequestError as error:
            # Whoever made this token may have written any session into it.
            raise self._refused(error.failure) from error

    def _check_epoch(self, claims: Claims) -> None:
        session = self._dispatcher.table.find(claims.session_id)
        if session is not None and claims.epoch < session.epoch:
            raise self._refused(failures.token_revoked(claims.session_id), claims.session_id)

    def _refused(self, error: CallError, session_id: str = "") -> ServiceError:
        """Count a refusal, and return it as an RPC raises it; a session only where it is known."""
        self._dispatcher.refuse(error, session_id)
        return to_service_error(error)

    def _mistaken(self, session_id: str, claims: Claims) -> ServiceError:
        """Return the failure of a call to another session than the token's.

        It shows with the session that was called where that is the same account's; nobody shall
        write into what another account sees.
        """
        called = self._dispatcher.table.find(session_id)
        ours = called is not None and called.account == claims.account
        return self._refused(
            failures.token_for_other_session(session_id),
            session_id if ours else claims.session_id,
        )

    def _begin(
        self,
        request: pb.InferRequest | pb.StreamInferRequest,
        context: Context,
        sink: Sink,
        *,
        stream: bool,
    ) -> Call:
        claims = self._authenticate(context)
        if not request.session_id:
            raise self._refused(failures.invalid("sessionId", "is required"), claims.session_id)
        if request.session_id != claims.session_id:
            raise self._mistaken(request.session_id, claims)
        dispatcher = self._dispatcher
        try:
            prepared = prepare(request, dispatcher.settings.max_body_bytes)
            affinity = check_key(request.affinity_key)
        except RequestError as error:
            raise self._refused(error.failure, claims.session_id) from error
        trace = begin_trace(
            dispatcher.spans, *_trace_of(context), claims.session_id, request.endpoint
        )
        call = Call(
            dispatcher,
            dispatcher.table.expect(claims.session_id),
            sink,
            0,
            prepared,
            dispatcher.account(claims.account),
            epoch=claims.epoch,
            stream=stream,
            affinity=affinity,
            trace=trace,
        )
        self._single.add(call)
        # None without a deadline, whatever the stubs say.
        remaining = cast("float | None", context.time_remaining())
        limit = dispatcher.settings.call_timeout
        dispatcher.submit(call, limit if remaining is None else remaining)
        return call

    def _end(self, call: Call) -> None:
        """Forget a call; where its RPC was cancelled, the replica is told to stop."""
        self._single.discard(call)
        self._news.set()
        call.cancel()

    def _items(self, call: Call, pieces: list[Piece]) -> list[pb.Item]:
        if not call.request.wants_values:
            return [pb.Item(json=text, event=event) for text, event in pieces]
        try:
            return [pb.Item(value=from_json(text), event=event) for text, event in pieces]
        except ValueFormError as error:
            session_id = call.session.session_id
            failure = failures.bad_answer(session_id, call.replica_id, str(error))
            self._dispatcher.spoil(failure, session_id)
            raise to_service_error(failure) from error


def _trace_of(context: Context) -> tuple[str, str]:
    """Return traceparent and tracestate in the metadata of an RPC; "" for none."""
    parent = state = ""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent" and isinstance(value, str):
            parent = value
        elif key == "tracestate" and isinstance(value, str):
            state = value
    return parent, state
