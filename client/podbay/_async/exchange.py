"""The Exchange stream of one session client, on gRPC's asyncio API.

One task opens streams and reads them, another writes to the present one. Both are there only
while there is a stream.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc

from podbay._async.transport import Endpoint, Transport, error_of, now
from podbay._async.write_failures import keep_status
from podbay._core import forks
from podbay._core.channels import authorization, closed_error, is_accepted
from podbay._core.client_failures import TELL_SECONDS, ClientFailures
from podbay._core.exchange import Call, CallState, Delivery, ExchangeCore, Stream
from podbay._core.operations import Service
from podbay._core.retries import FIRST_CONTACT_SECONDS
from podbay.errors import AuthenticationError, PermissionDeniedError, PodbayError, error_for
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["Exchange"]

_METHOD = "/podbay.v1.InferenceRouterService/Exchange"

# How long a wait for the router lasts before it looks whether anybody still waits for it.
_LOOK_SECONDS = 0.25


class Exchange:
    """All calls of one session client, in one event loop.

    A call's `sink` is a `Mailbox`, or has its `put`.

    Args:
        transport: The channels of the client.
        token: A session token.
        refresh: Returns a new token when the present one has expired; None where there is none.
    """

    def __init__(
        self,
        transport: Transport,
        token: str,
        refresh: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self.transport = transport
        self.token = token
        self.refresh = refresh
        self.core = ExchangeCore(can_refresh=refresh is not None)
        self._drivers: set[_Driver] = set()
        self._driver: _Driver | None = None  # the one that takes new calls
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # where the drivers run
        self._failures = ClientFailures()
        self._telling: Call | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        forks.follow(self)

    def left_behind(self) -> None:
        """Be closed, as this is a forked child; see `forks`."""
        self._closed = True
        self._loop = None
        self._quiet = asyncio.Event()
        self._quiet.set()

    def report(self, error: Exception) -> None:
        """Tell the router of what failed at the client, where that is for it; returns at once.

        Outside of the client's event loop it is told with what fails next.
        """
        if not self._failures.note(error):
            return
        try:
            self.transport.check_loop()
        except (RuntimeError, PodbayError):
            return
        self._tell()

    async def settle(self, seconds: float) -> None:
        """Wait until the router was told, at most some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()

    def _tell(self) -> None:
        """Tell the router what it is to be told, one after the other."""
        if self._closed or self.transport.closed:
            return
        failure = self._failures.next()
        if failure is None:
            return
        self._quiet.clear()
        self._telling = Call("", failure, False, now() + TELL_SECONDS, _Told(self))
        self.core.submit(self._telling)
        self.notice()

    def give_up_telling(self) -> None:
        """Tell nobody where that has taken too long: no caller waits for it."""
        call = self._telling
        if call is not None and now() >= call.deadline:
            self.core.cancel(call)
            self._end_telling(told=False)

    def told(self, delivery: Delivery) -> None:
        """Take the answer to what the router was told."""
        call, _, _, error = delivery
        if self._telling is call:
            self._end_telling(told=error is None)

    def _end_telling(self, *, told: bool) -> None:
        self._telling = None
        self._failures.done(told=told)
        if told:
            self._tell()
        if self._telling is None:
            self._quiet.set()

    def submit(self, call: Call) -> None:
        """Send a call as soon as there is room for it.

        Raises:
            CancelledCallError: The client is closed.
            InvalidRequestError: It belongs to another event loop.
        """
        if self._closed or self.transport.closed:
            raise self.transport.closed_error()
        self.transport.check_loop()
        self.core.submit(call)
        self.notice()

    def cancel(self, call: Call) -> None:
        """Let nobody wait for a call any more; nothing happens where it is answered."""
        if call.state is CallState.DONE:
            return
        carrier = call.carrier
        if self.core.cancel(call):
            for driver in self._drivers:
                if driver.stream is carrier:
                    driver.wake()

    def taken(self, call: Call, items: Sequence[wire.Item]) -> None:
        """Note that the caller has taken pieces of a streamed call, so that more may come."""
        carrier = call.carrier
        if self.core.taken(call, items):
            for driver in self._drivers:
                if driver.stream is carrier:
                    driver.wake()

    def give_up(self, call: Call, timeout: float) -> PodbayError | None:
        """Cancel a call whose time ran out; return its error, or None where it is answered."""
        if call.state is CallState.DONE:
            return None
        error = self.core.timeout_error(call, timeout)
        self.cancel(call)
        return error

    async def close(self) -> None:
        """Cancel all calls and end the streams."""
        for driver in self._abandon():
            await driver.join()

    def _abandon(self) -> list[_Driver]:
        """Cancel all calls and have the streams end; return whom to wait for."""
        if self._closed:
            return []
        self._closed = True
        drivers = list(self._drivers)
        streams = [driver.stream for driver in drivers if driver.stream is not None]
        _deliver(self.core.close(streams))
        self._driver = None
        for driver in drivers:
            driver.stop()
        return drivers

    def forget(self) -> None:
        """Close it because nobody holds it any more; may be called from any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # nothing runs
        with suppress(RuntimeError):  # the loop was closed in between
            loop.call_soon_threadsafe(self._abandon)

    # For the drivers.

    def notice(self) -> None:
        """See to it that queued calls are sent."""
        self._loop = asyncio.get_running_loop()
        if self._driver is None:
            self._driver = _Driver(self)
            self._drivers.add(self._driver)
        else:
            self._driver.wake()

    def takes_calls(self, driver: _Driver) -> bool:
        """Whether a driver is the one that takes new calls."""
        return self._driver is driver

    def leave(self, driver: _Driver) -> None:
        """Let another driver take the calls that wait, and those to come."""
        if self._driver is driver:
            self._driver = None
        # Also where it had left before: a stream that is read to its end may put calls back.
        if not self._closed and (self._driver is not None or self.core.wants_stream):
            self.notice()

    def ended(self, driver: _Driver) -> None:
        """Forget a driver."""
        self._drivers.discard(driver)
        self.leave(driver)


class _Told:
    """The sink of what the router is told."""

    def __init__(self, exchange: Exchange) -> None:
        self.put = exchange.told


class _Driver:
    """Opens streams while calls wait, and reads what comes."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._core = exchange.core
        self._wakes = asyncio.Event()
        self._stopped = False
        self.stream: Stream | None = None
        self._task = asyncio.create_task(self._run(), name="podbay-exchange")

    def wake(self) -> None:
        """Have the writer look for something to send."""
        self._wakes.set()

    def stop(self) -> None:
        """End what runs."""
        self._stopped = True
        self._task.cancel()

    async def join(self) -> None:
        """Wait for the task."""
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._goes_on():
                try:
                    endpoint = await self._connect()
                except PodbayError as error:
                    self._fail_queued(error)
                else:
                    if endpoint is not None:
                        await self._serve(endpoint)
        except asyncio.CancelledError:
            # Stopped, or the loop is about to end: nobody awaits the outcome of this task.
            self._fail_queued(closed_error())
        except BaseException:
            # Nobody else would ever answer the callers.
            self._fail_queued(error_for("INTERNAL", "The client's exchange task failed."))
            raise
        finally:
            self._exchange.ended(self)

    def _goes_on(self) -> bool:
        if self._stopped or not self._exchange.takes_calls(self):
            return False
        self._exchange.give_up_telling()
        if self._core.wants_stream:
            return True
        self._exchange.leave(self)
        return False

    def _fail_queued(self, error: PodbayError) -> None:
        _deliver(self._core.fail_queued(lambda: copy.copy(error)))

    async def _connect(self) -> Endpoint | None:
        """Return the router once it is reached; None where nobody waits any more."""
        exchange = self._exchange
        endpoint = await exchange.transport.endpoint(Service.ROUTER)
        self._core.address = endpoint.address
        delay = self._core.reopen_delay(random.random())  # noqa: S311 # spreads tries
        if delay:
            await asyncio.sleep(delay)
        if self._core.needs_token and exchange.refresh is not None:
            try:
                exchange.token = await exchange.refresh()
            except (AuthenticationError, PermissionDeniedError) as refusal:
                raise self._core.not_replaced(refusal) from refusal
            self._core.token_replaced()
        began = now()
        never_reached = not endpoint.reached
        while not await endpoint.is_ready(_LOOK_SECONDS):
            if not self._goes_on():
                return None
            waited = now() - began
            if never_reached and waited >= FIRST_CONTACT_SECONDS:
                raise await endpoint.why_not(waited)
        return endpoint

    async def _serve(self, endpoint: Endpoint) -> None:
        stream = self.stream = self._core.open()
        failure: PodbayError | None = None
        writer: asyncio.Task[None] | None = None
        rpc: Any = None
        try:
            rpc = self._open(endpoint)
            # Nothing is handed over before the stream is taken: a refusal then leaves no doubt.
            if is_accepted(await rpc.initial_metadata()):
                writer = asyncio.create_task(
                    self._write(rpc, stream), name="podbay-exchange-writer"
                )
            while (answer := await rpc.read()) is not grpc.aio.EOF:
                self._take(stream, answer)
        except grpc.aio.AioRpcError as error:
            failure = error_of(error, "exchange calls", endpoint.address)
        except grpc.aio.UsageError:
            failure = closed_error()
        except asyncio.CancelledError:
            if self._stopped or writer is None or not _has_failed(writer):
                failure = closed_error()
                raise
            failure = error_for("INTERNAL", "The client's exchange task failed.")
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.wait([writer])
            if rpc is not None:
                rpc.cancel()
            _deliver(self._core.end(stream, failure))
            stream.retired = True
            self.stream = None

    def _open(self, endpoint: Endpoint) -> Any:
        rpc = endpoint.channel.stream_stream(
            _METHOD,
            request_serializer=wire.ExchangeRequest.SerializeToString,
            response_deserializer=wire.ExchangeResponse.FromString,
        )(metadata=authorization(self._exchange.token), wait_for_ready=True)
        keep_status(rpc)
        return rpc

    def _take(self, stream: Stream, answer: wire.ExchangeResponse) -> None:
        deliveries = self._core.receive(stream, answer)
        if stream.retired:
            # New calls belong on another stream; this one is read to its end.
            self._exchange.leave(self)
        if self._core.has_work(stream):
            self._wakes.set()
        _deliver(deliveries)

    async def _write(self, rpc: Any, stream: Stream) -> None:
        """Send what is to be sent until the stream is finished, or lost."""
        try:
            while True:
                batch = self._core.next_batch(stream, now())
                if batch is not None:
                    await rpc.write(batch)
                elif stream.finished:
                    await rpc.done_writing()
                    return
                else:
                    self._wakes.clear()
                    await self._wakes.wait()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            # The stream has ended; the reader finds out how.
            return
        except Exception as error:
            # Without a writer the stream would stay open, and its calls wait for ever.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the writer of a podbay stream failed", "exception": error}
            )
            rpc.cancel()
            raise


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _deliver(deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        delivery[0].sink.put(delivery)
