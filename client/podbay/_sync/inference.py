"""The synchronous client of one session."""

from __future__ import annotations

import queue
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Final, Self

from podbay._core.arguments import text
from podbay._core.exchange import Call, Delivery
from podbay._core.inference import CallShape, locate
from podbay._core.many import Many
from podbay._core.retries import call_slack
from podbay._core.timeouts import check_timeout
from podbay._core.tracing import current_trace
from podbay._sync.exchange import Exchange
from podbay.errors import SessionNotReadyError
from podbay.schema.adapters import AdapterError
from podbay.types import InferResult, SessionStatus
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["InferenceSessionClient"]

_SETTLE_SECONDS: Final = 1.0

_Sink = queue.SimpleQueue[Delivery]
_WaitReady = Callable[..., SessionStatus]


class InferenceSessionClient:
    """Calls one session. Made by `Client.inferencesessions.client(...)`; safe for threads.

    All calls share one stream to the inference router, which is opened with the first call, and
    opened again when it is lost. Close the client when it is no longer needed, or use it as a
    context manager.

    Attributes:
        session_id: The session.
    """

    def __init__(
        self,
        session_id: str,
        exchange: Exchange,
        shape: CallShape,
        timeout: float,
        wait_ready: _WaitReady,
    ) -> None:
        self.session_id = session_id
        self._exchange = exchange
        self._shape = shape
        self._timeout = check_timeout(timeout, timeout)
        self._wait_ready = wait_ready
        # A client that is forgotten must not leave its threads and its stream behind.
        self._finalizer = weakref.finalize(self, exchange.close)

    def infer(
        self,
        body: Any,
        *,
        timeout: float | None = None,
        wait: bool = False,
        affinity: str = "",
    ) -> list[Any]:
        """Send one request and return the items of its answer.

        The body goes through the input pipeline, which must make exactly one item of it; the
        answer goes through the output pipeline. A JSON answer is one item, also where it is an
        array; an answer in pieces is one item a piece.

        Args:
            body: The input item.
            timeout: How long the call may take, in seconds; the client's timeout unless given.
            wait: Whether to wait while the session is not ready yet: without end, or, where a
                timeout is given, until it has passed.
            affinity: Calls with the same key go to the same replica as long as its load allows, as
                for a cache of prompts; "" for any replica.

        Returns:
            The items.

        Raises:
            InvalidRequestError: The body makes no valid request, or `timeout` or `affinity` is not
                valid.
            AdapterError: The body or the answer does not fit a pipeline.
            PodbayError: The call failed; the class and the reason say how.
        """
        prepared = self._prepare(body)
        allowed, key = check_timeout(timeout, self._timeout), text(affinity, "affinity")
        until = time.monotonic() + allowed if timeout is not None else None
        while True:
            try:
                items, replica = self._whole(prepared, allowed, key)
                break
            except SessionNotReadyError:
                if not wait:
                    raise
                left = None if until is None else max(until - time.monotonic(), 0.001)
                self._wait_ready(timeout=left)
                if until is not None:
                    allowed = max(until - time.monotonic(), 0.001)
        return self._results(items, replica)

    def stream(
        self, body: Any, *, timeout: float | None = None, affinity: str = ""
    ) -> Generator[Any, None, None]:
        """Send one request and yield the items of its answer as they come.

        The output adapter sees one stream of all items, and is asked for the next output as soon
        as an item is there. Closing the generator, or leaving it to be collected, cancels the
        call. The call is sent when the first item is asked for.

        Args:
            body: The input item.
            timeout: How long the whole call may take, in seconds; the client's unless given.
            affinity: As for `infer`.

        Raises:
            InvalidRequestError: The body makes no valid request, or `timeout` or `affinity` is not
                valid.
            PodbayError: The call failed; items that came before it have been yielded.
        """
        prepared = self._prepare(body)
        allowed = check_timeout(timeout, self._timeout)
        return self._stream(prepared, allowed, text(affinity, "affinity"))

    def infer_many(
        self,
        bodies: Iterable[Any],
        *,
        max_in_flight: int = 32,
        ordered: bool = True,
        timeout: float | None = None,
        affinity: str | Callable[[Any], str] = "",
    ) -> Generator[InferResult, None, None]:
        """Send many requests, some at once, and yield their results.

        Bodies are taken when there is room for them, so they may come from an endless generator.
        A body that fails makes a result with an error and stops nothing. Leaving the loop cancels
        what is under way. So does what taking a body raises, which is raised at once.

        Args:
            bodies: The input items.
            max_in_flight: The most calls that are not answered.
            ordered: Whether results come in the order of the bodies; otherwise as they are there.
            timeout: How long each call may take, in seconds; the client's timeout unless given.
            affinity: As for `infer`: one key for all calls, or a function that makes one of a body.

        Raises:
            InvalidRequestError: `max_in_flight`, `timeout` or `affinity` is not valid.
            CancelledCallError: The client is closed.
        """
        many = Many(max_in_flight, ordered=ordered, decode=self._results, affinity=affinity)
        return self._many(bodies, many, check_timeout(timeout, self._timeout))

    def wait_ready(
        self,
        timeout: float | None = None,
        progress: Callable[[SessionStatus], None] | None = None,
    ) -> SessionStatus:
        """Wait until the session takes calls; see `inferencesessions.wait_ready`."""
        return self._wait_ready(timeout=timeout, progress=progress)

    def close(self) -> None:
        """Cancel what runs and end the stream. May be called more than once.

        The router is told before of what failed here, which takes a second at most.
        """
        self._exchange.settle(_SETTLE_SECONDS)
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The inside.

    def _prepare(self, body: Any) -> Any:
        """Return what is sent for a body; where there is nothing, the router is told why."""
        try:
            return self._shape.prepare(body)
        except Exception as error:
            self._exchange.report(error)
            raise

    def _results(self, items: Sequence[wire.Item], replica: str) -> list[Any]:
        """Return the user's items; where the answer does not fit, the router is told."""
        try:
            return self._shape.results(items)
        except Exception as error:
            locate(error, self.session_id, replica)
            self._exchange.report(error)
            raise

    def _submit(
        self,
        prepared: Any,
        allowed: float,
        sink: _Sink,
        *,
        stream: bool = False,
        affinity: str = "",
    ) -> Call:
        call = Call(self._shape.endpoint, prepared, stream, time.monotonic() + allowed, sink)
        call.affinity, call.trace = affinity, current_trace()
        self._exchange.submit(call)
        return call

    def _next(self, call: Call, sink: _Sink, allowed: float) -> Delivery:
        """Return the next delivery of a call, or raise why there is none."""
        slack = call_slack(allowed)
        while True:
            left = call.deadline + slack - time.monotonic()
            try:
                return sink.get(timeout=max(left, 0))
            except queue.Empty:
                error = self._exchange.give_up(call, allowed)
                if error is not None:
                    raise error from None

    def _whole(self, prepared: Any, allowed: float, affinity: str) -> tuple[list[Any], str]:
        """Return the items of an answer, and the replica that gave it."""
        sink: _Sink = queue.SimpleQueue()
        call = self._submit(prepared, allowed, sink, affinity=affinity)
        items: list[Any] = []
        try:
            while True:
                _, part, done, error = self._next(call, sink, allowed)
                if error is not None:
                    raise error
                items.extend(part)
                if done:
                    return items, call.replica_id
        finally:  # an interrupt, too, must not leave the call behind
            self._exchange.cancel(call)

    def _stream(self, prepared: Any, allowed: float, affinity: str) -> Generator[Any, None, None]:
        try:
            with closing(self._stream_values(prepared, allowed, affinity)) as values:
                yield from self._shape.adapted(values)
        except AdapterError as error:
            self._exchange.report(error)
            raise

    def _stream_values(
        self, prepared: Any, allowed: float, affinity: str
    ) -> Generator[Any, None, None]:
        sink: _Sink = queue.SimpleQueue()
        call = self._submit(prepared, allowed, sink, stream=True, affinity=affinity)
        try:
            while True:
                _, part, done, error = self._next(call, sink, allowed)
                yield from self._shape.values(part, self.session_id, call.replica_id)
                self._exchange.taken(call, part)
                if error is not None:
                    raise error
                if done:
                    return
        finally:
            self._exchange.cancel(call)

    def _many(
        self, bodies: Iterable[Any], many: Many, allowed: float
    ) -> Generator[InferResult, None, None]:
        sink: _Sink = queue.SimpleQueue()
        source = iter(bodies)
        more = True
        try:
            while True:
                self._take_ready(many, sink)
                result = many.next_result()
                if result is not None:
                    yield result
                elif more and many.wants_body:
                    more = self._start_next(source, many, sink, allowed)
                elif many.oldest is not None:
                    self._wait(many, sink, allowed)
                else:
                    return
        finally:
            for call in many.calls:
                self._exchange.cancel(call)

    def _start_next(self, source: Any, many: Many, sink: _Sink, allowed: float) -> bool:
        """Start the call of the next body; return False where there is none."""
        try:
            body = next(source)
        except StopIteration:
            return False
        try:
            prepared, key = self._prepare(body), many.key_of(body)
        except Exception as error:  # noqa: BLE001 # adapters raise what they like; it is this item's
            many.refused(error)
        else:
            call = self._submit(prepared, allowed, sink, affinity=key)
            many.started(call, call.deadline + call_slack(allowed))
        return True

    def _take_ready(self, many: Many, sink: _Sink) -> None:
        while not sink.empty():
            many.delivered(*sink.get_nowait())

    def _wait(self, many: Many, sink: _Sink, allowed: float) -> None:
        """Wait for a delivery, or until the oldest call's time has run out."""
        oldest = many.oldest
        if oldest is None:
            return
        call, deadline = oldest
        try:
            many.delivered(*sink.get(timeout=max(deadline - time.monotonic(), 0)))
        except queue.Empty:
            error = self._exchange.give_up(call, allowed)
            if error is not None:
                many.delivered(call, (), True, error)
