"""The asynchronous client of one session."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self

from podbay._async.adapting import in_thread
from podbay._async.exchange import Exchange
from podbay._async.mailbox import Mailbox
from podbay._async.transport import now
from podbay._core.arguments import text
from podbay._core.exchange import Call, Delivery
from podbay._core.inference import CallShape, locate
from podbay._core.many import Many
from podbay._core.retries import call_slack
from podbay._core.timeouts import check_timeout
from podbay._core.tracing import current_trace
from podbay.errors import SessionNotReadyError
from podbay.schema.adapters import AdapterError
from podbay.types import InferResult, SessionStatus
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["AsyncInferenceSessionClient"]

_Progress = Callable[[SessionStatus], None] | None
_WaitReady = Callable[..., Awaitable[SessionStatus]]

_SETTLE_SECONDS: Final = 1.0

_END: Any = object()


class AsyncInferenceSessionClient:
    """Calls one session. Made by `AsyncClient.inferencesessions.client(...)`.

    Used in one event loop. All calls share one stream to the inference router, which is opened
    with the first call, and opened again when it is lost. Close the client when it is no longer
    needed, or use it as a context manager.

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
        # A client that is forgotten must not leave its tasks and its stream behind.
        weakref.finalize(self, exchange.forget)

    async def infer(
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
        array; an answer in pieces is one item a piece. Cancelling the task cancels the call.

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
        until = now() + allowed if timeout is not None else None
        while True:
            try:
                items, replica = await self._whole(prepared, allowed, key)
                break
            except SessionNotReadyError:
                if not wait:
                    raise
                left = None if until is None else max(until - now(), 0.001)
                await self._wait_ready(timeout=left)
                if until is not None:
                    allowed = max(until - now(), 0.001)
        return self._results(items, replica)

    def stream(
        self, body: Any, *, timeout: float | None = None, affinity: str = ""
    ) -> AsyncGenerator[Any, None]:
        """Send one request and yield the items of its answer as they come.

        The output adapter sees one stream of all items, and is asked for the next output as soon
        as an item is there. An adapter that is not of `podbay.schema.adapters` may wait for items
        and keep some of them, so it runs in a thread of its own, for as long as the stream does.
        Closing the generator cancels the call. The call is sent when the first item is asked for.

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
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        max_in_flight: int = 32,
        ordered: bool = True,
        timeout: float | None = None,
        affinity: str | Callable[[Any], str] = "",
    ) -> AsyncGenerator[InferResult, None]:
        """Send many requests, some at once, and yield their results.

        Bodies are taken when there is room for them, so they may come from an endless generator.
        A body that fails makes a result with an error and stops nothing. Closing the generator
        cancels what is under way. So does what taking a body raises, which is raised at once.

        Args:
            bodies: The input items; may be asynchronous.
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

    async def wait_ready(
        self,
        timeout: float | None = None,
        progress: _Progress = None,
    ) -> SessionStatus:
        """Wait until the session takes calls; see `inferencesessions.wait_ready`."""
        return await self._wait_ready(timeout=timeout, progress=progress)

    async def close(self) -> None:
        """Cancel what runs and end the stream. May be called more than once.

        The router is told before of what failed here, which takes a second at most.
        """
        await self._exchange.settle(_SETTLE_SECONDS)
        await self._exchange.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

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
        sink: Mailbox,
        *,
        stream: bool = False,
        affinity: str = "",
    ) -> Call:
        call = Call(self._shape.endpoint, prepared, stream, now() + allowed, sink)
        call.affinity, call.trace = affinity, current_trace()
        self._exchange.submit(call)
        return call

    async def _next(self, call: Call, sink: Mailbox, allowed: float) -> Delivery:
        """Return the next delivery of a call, or raise why there is none."""
        deadline = call.deadline + call_slack(allowed)
        while True:
            delivery = sink.take()
            if delivery is not None:
                return delivery
            if now() >= deadline:
                error = self._exchange.give_up(call, allowed)
                if error is not None:
                    raise error
            await sink.wait(deadline)

    async def _whole(self, prepared: Any, allowed: float, affinity: str) -> tuple[list[Any], str]:
        """Return the items of an answer, and the replica that gave it."""
        sink = Mailbox()
        call = self._submit(prepared, allowed, sink, affinity=affinity)
        items: list[Any] = []
        try:
            while True:
                _, part, done, error = await self._next(call, sink, allowed)
                if error is not None:
                    raise error
                items.extend(part)
                if done:
                    return items, call.replica_id
        finally:  # a cancelled task, too, must not leave the call behind
            self._exchange.cancel(call)

    async def _stream(
        self, prepared: Any, allowed: float, affinity: str
    ) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(self._stream_parts(prepared, allowed, affinity)) as parts:
                if self._shape.adapts_by_item:
                    async for part in parts:
                        for result in self._shape.adapted(part):
                            yield result
                    return
                async with aclosing(in_thread(self._shape.adapted, self._values(parts))) as made:
                    async for result in made:
                        yield result
        except AdapterError as error:
            self._exchange.report(error)
            raise

    async def _values(self, parts: AsyncIterable[Iterator[Any]]) -> AsyncGenerator[Any, None]:
        async for part in parts:
            for value in part:
                yield value

    async def _stream_parts(
        self, prepared: Any, allowed: float, affinity: str
    ) -> AsyncGenerator[Iterator[Any], None]:
        """Yield the values of each piece."""
        sink = Mailbox()
        call = self._submit(prepared, allowed, sink, stream=True, affinity=affinity)
        try:
            while True:
                _, part, done, error = await self._next(call, sink, allowed)
                if part:
                    yield self._shape.values(part, self.session_id, call.replica_id)
                    self._exchange.taken(call, part)
                if error is not None:
                    raise error
                if done:
                    return
        finally:
            self._exchange.cancel(call)

    async def _many(
        self, bodies: Iterable[Any] | AsyncIterable[Any], many: Many, allowed: float
    ) -> AsyncGenerator[InferResult, None]:
        sink = Mailbox()
        source = _Source(bodies)
        try:
            while True:
                while (delivery := sink.take()) is not None:
                    many.delivered(*delivery)
                result = many.next_result()
                if result is not None:
                    yield result
                elif many.wants_body and not source.exhausted:
                    body = await source.next(sink, many.oldest)
                    if body is not _END:
                        await self._start(body, many, sink, allowed)
                elif (oldest := many.oldest) is not None:
                    await sink.wait(oldest[1])
                else:
                    return
                self._expire(many, allowed)
        finally:
            await source.close()
            for call in many.calls:
                self._exchange.cancel(call)

    async def _start(self, body: Any, many: Many, sink: Mailbox, allowed: float) -> None:
        try:
            prepared, key = self._prepare(body), many.key_of(body)
        except Exception as error:  # noqa: BLE001 # adapters raise what they like; it is this item's
            many.refused(error)
            await asyncio.sleep(0)  # an endless row of these must not stop the loop
        else:
            call = self._submit(prepared, allowed, sink, affinity=key)
            many.started(call, call.deadline + call_slack(allowed))

    def _expire(self, many: Many, allowed: float) -> None:
        """Give up the oldest call where its time has run out."""
        if many.oldest is None or many.oldest[1] > now():
            return
        call = many.oldest[0]
        error = self._exchange.give_up(call, allowed)
        if error is not None:
            many.delivered(call, (), True, error)


class _Source:
    """Bodies, from an iterable or an asynchronous one."""

    def __init__(self, bodies: Iterable[Any] | AsyncIterable[Any]) -> None:
        self.exhausted = False
        self._plain = None if isinstance(bodies, AsyncIterable) else iter(bodies)
        self._async = aiter(bodies) if isinstance(bodies, AsyncIterable) else None
        self._pending: asyncio.Task[Any] | None = None

    async def next(self, sink: Mailbox, oldest: tuple[Call, float] | None) -> Any:
        """Return the next body; `_END` where there is none, or something else is to be done.

        Args:
            sink: Where results come; one ends the wait.
            oldest: The oldest call in flight, and when the client gives it up.
        """
        if self._plain is not None:
            body = next(self._plain, _END)
            self.exhausted = body is _END
            return body
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._anext())
            self._pending.add_done_callback(lambda _task: sink.wake())
        if not self._pending.done():
            await sink.wait(None if oldest is None else oldest[1])
        if not self._pending.done():
            return _END
        task, self._pending = self._pending, None
        body = task.result()
        self.exhausted = body is _END
        return body

    async def close(self) -> None:
        """Stop asking for bodies."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.wait([self._pending])
            if not self._pending.cancelled():
                self._pending.exception()  # nobody asks for this body any more
            self._pending = None

    async def _anext(self) -> Any:
        return _END if self._async is None else await anext(self._async, _END)
