"""One Exchange stream: many calls in, their results out, all that is queued in one message."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from podbay.v1.errors_pb2 import CallError
from podbay.v1.inference_router_service_pb2 import Call as CallMessage
from podbay.v1.inference_router_service_pb2 import (
    CallResult,
    ClientFailure,
    ExchangeRequest,
    ExchangeResponse,
)
from podbay_inference_router import failures
from podbay_inference_router.calls import Call
from podbay_inference_router.dispatch import Dispatcher
from podbay_inference_router.failed_calls import client_failure_fault
from podbay_inference_router.framing import Piece
from podbay_inference_router.requests import RequestError, check_key, prepare
from podbay_inference_router.tokens import Claims
from podbay_inference_router.tracing import NO_TRACE, begin_trace

__all__ = ["ExchangeStream"]

# A message is closed when it is about this large.
_MESSAGE_BYTES: Final = 1 << 20
# Above the first mark of what is not written yet the replicas are not read on, until it has fallen
# below the second; above the third not even new calls are read.
_HIGH_BYTES: Final = 4 << 20
_LOW_BYTES: Final = 1 << 20
_STOP_BYTES: Final = 64 << 20
_ITEM_OVERHEAD: Final = 32
# How long a stream without calls stays open while the router drains, for the client to end it.
_LINGER_SECONDS: Final = 1.0
# A message costs as much as some five calls, so results that come one after the other share one. A
# turn of the loop is a few microseconds, which nobody waits for where fewer than two calls run.
_GATHER_TURNS: Final = 3


class ExchangeStream:
    """The sink of all calls of one stream.

    Args:
        dispatcher: Where the calls go.
        claims: What the stream's token says.
        wall_clock: Gives the time of day in seconds since 1970.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        claims: Claims,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._dispatcher = dispatcher
        self._claims = claims
        self._wall_clock = wall_clock
        self._account = dispatcher.account(claims.account)
        self._calls: dict[int, Call] = {}
        # Calls whose pieces the client cannot take for now.
        self._held: set[int] = set()
        self._batch = ExchangeResponse()
        self._batch_bytes = 0
        # The results of streamed calls in the batch, so that further pieces join them.
        self._open: dict[int, CallResult] = {}
        # Streamed calls whose replica was told.
        self._told: set[int] = set()
        self._closed_batches: deque[tuple[ExchangeResponse, int]] = deque()
        self._backlog = 0
        self._wake = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._half_closed = False
        self._draining = False
        self._linger_over = False
        self.paused = False
        """Whether the client is slower than the replicas."""

    # What the client says.

    def accept(self, message: ExchangeRequest) -> None:
        """Begin the calls of a message, and cancel, pause and resume those it names."""
        refusal = (
            failures.token_expired() if not self._claims.expires > self._wall_clock() else None
        )
        for item in message.calls:
            call_id = item.id
            if call_id in self._calls:
                self._refuse(call_id, failures.duplicate_id(call_id))
            elif refusal is not None:
                self._refuse(call_id, refusal)
            else:
                self._begin(call_id, item)
        for call_id in message.cancels:
            call = self._calls.get(call_id)
            if call is not None:
                call.cancel()
        for call_id in message.pauses:
            call = self._calls.get(call_id)
            if call is not None and call.stream:
                self._held.add(call_id)
                call.pause()
        for call_id in message.resumes:
            if call_id in self._held:
                self._held.discard(call_id)
                if not self.paused:
                    self._calls[call_id].resume()

    def holds(self, call: Call) -> bool:
        """Whether the client cannot take more, of this call or of all."""
        return self.paused or call.call_id in self._held

    def half_close(self) -> None:
        """Take the news that no more calls come."""
        self._half_closed = True
        self._wake.set()

    def _begin(self, call_id: int, item: CallMessage) -> None:
        dispatcher = self._dispatcher
        settings = dispatcher.settings
        try:
            request = prepare(item, settings.max_body_bytes)
            affinity = item.affinity_key
            if affinity:
                check_key(affinity)
        except RequestError as error:
            # What has no body to be sent may tell of a failure instead.
            if item.HasField("client_failure"):
                self._take_client_failure(call_id, item.client_failure)
            else:
                self._refuse(call_id, error.failure)
            return
        timeout = settings.call_timeout
        if item.HasField("timeout"):
            duration = item.timeout
            timeout = duration.seconds + duration.nanos * 1e-9
        claims = self._claims
        trace, parent = NO_TRACE, item.traceparent
        if parent or dispatcher.spans is not None:
            trace = begin_trace(
                dispatcher.spans, parent, item.tracestate, claims.session_id, item.endpoint
            )
        call = self._calls[call_id] = Call(
            dispatcher,
            dispatcher.table.expect(claims.session_id),
            self,
            call_id,
            request,
            self._account,
            epoch=claims.epoch,
            stream=item.stream,
            affinity=affinity,
            trace=trace,
        )
        dispatcher.submit(call, timeout)

    def _take_client_failure(self, call_id: int, told: ClientFailure) -> None:
        fault = client_failure_fault(told)
        if fault is not None:
            self._refuse(call_id, failures.invalid(*fault))
            return
        self._dispatcher.failed_calls.note_client(self._claims.session_id, told)
        self._batch.results.add(id=call_id, done=True)
        self._count(_ITEM_OVERHEAD)

    def _refuse(self, call_id: int, error: CallError) -> None:
        self._dispatcher.refuse(error, self._claims.session_id)
        result = self._batch.results.add(id=call_id, done=True)
        result.error.CopyFrom(error)
        self._count(len(error.message) + _ITEM_OVERHEAD)

    # What the calls say.

    def on_pieces(self, call: Call, pieces: list[Piece]) -> None:
        """Queue pieces of a streamed call."""
        call_id = call.call_id
        result = self._open.get(call_id)
        if result is None:
            result = self._open[call_id] = self._batch.results.add(id=call_id)
            if call_id not in self._told:
                self._told.add(call_id)
                result.replica_id = call.replica_id
        self._fill(result, pieces)

    def on_done(self, call: Call, pieces: list[Piece], error: CallError | None) -> None:
        """Queue the end of a call."""
        call_id = call.call_id
        del self._calls[call_id]
        self._held.discard(call_id)
        result = self._open.pop(call_id, None) if call.stream else None
        if result is None:
            result = self._batch.results.add(id=call_id)
            if call_id not in self._told:
                result.replica_id = call.replica_id
        if call.stream:
            self._told.discard(call_id)
        if error is not None:
            result.error.CopyFrom(error)
            result.done = True
            self._count(len(error.message) + _ITEM_OVERHEAD)
        else:
            self._fill(result, pieces, done=True)

    def _fill(self, result: CallResult, pieces: list[Piece], *, done: bool = False) -> None:
        size = _ITEM_OVERHEAD
        call_id = result.id
        for text, event in pieces:
            if self._batch_bytes + size >= _MESSAGE_BYTES and len(result.items):
                self._count(size)
                size = _ITEM_OVERHEAD
                result = self._batch.results.add(id=call_id)
                if not done:
                    self._open[call_id] = result
            item = result.items.add(json=text)
            if event:
                item.event = event
            size += len(text) + _ITEM_OVERHEAD
        if done:
            result.done = True
        self._count(size)

    def _count(self, size: int) -> None:
        """Count what was put into the batch, close it where it is full, and wake the writer."""
        self._batch_bytes += size
        self._backlog += size
        if self._batch_bytes >= _MESSAGE_BYTES:
            self._close_batch()
        if self._backlog > _HIGH_BYTES and not self.paused:
            self.paused = True
            for call in self._calls.values():
                call.pause()
        if self._backlog > _STOP_BYTES:
            self._readable.clear()
        self._wake.set()

    def _close_batch(self) -> None:
        self._closed_batches.append((self._batch, self._batch_bytes))
        self._batch = ExchangeResponse()
        self._batch_bytes = 0
        self._open.clear()

    # What the router says.

    def is_of(self, session_id: str, before_epoch: int) -> bool:
        """Whether the stream's token is for a session, and of an epoch before this one."""
        return self._claims.session_id == session_id and self._claims.epoch < before_epoch

    def drain(self) -> None:
        """Tell the client that new calls belong elsewhere."""
        self._draining = True
        self._batch.draining = True
        self._count(_ITEM_OVERHEAD)
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._end_linger)

    def _end_linger(self) -> None:
        self._linger_over = True
        self._wake.set()

    def finish(self, error: CallError) -> None:
        """End what runs with a failure, and then the stream."""
        for call in list(self._calls.values()):
            call.fail(error)
        self._draining = True
        self._end_linger()

    def abort(self) -> None:
        """End what runs because nobody hears the answers any more."""
        for call in list(self._calls.values()):
            call.cancel()

    # The two loops.

    async def read_from(self, read: Callable[[], Awaitable[object]]) -> None:
        """Take messages until the client half-closes.

        Args:
            read: Returns the next message, or something else at the end.
        """
        while True:
            if not self._readable.is_set():
                await self._readable.wait()
            message = await read()
            if not isinstance(message, ExchangeRequest):
                break
            self.accept(message)
        self.half_close()

    async def write_to(self, write: Callable[[ExchangeResponse], Awaitable[None]]) -> None:
        """Write what is queued until the stream is done.

        Args:
            write: Writes one message, and returns when the next may be written.
        """
        while True:
            self._wake.clear()
            await self._gather()
            while self._backlog:
                if not self._closed_batches:
                    self._close_batch()
                batch, size = self._closed_batches.popleft()
                await write(batch)
                self._written(size)
            if not self._calls and (self._half_closed or (self._draining and self._linger_over)):
                return
            await self._wake.wait()

    async def _gather(self) -> None:
        """Let further results join those that wait, for as long as they come in a row."""
        for _ in range(_GATHER_TURNS):
            size = self._backlog
            if not size or len(self._calls) < 2 or self._closed_batches:
                return
            await asyncio.sleep(0)
            if self._backlog == size:
                return

    def _written(self, size: int) -> None:
        self._backlog -= size
        if self._backlog < _STOP_BYTES:
            self._readable.set()
        if self.paused and self._backlog <= _LOW_BYTES:
            self.paused = False
            for call_id, call in self._calls.items():
                if call_id not in self._held:
                    call.resume()
