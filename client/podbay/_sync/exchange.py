"""The Exchange stream of one session client, on gRPC's synchronous API.

One thread reads a stream and hands results to the callers' queues; gRPC's own thread asks for the
next message, and sleeps while there is nothing to send. Streams come and go with the work: a
client that is idle from the start has no thread at all.
"""

from __future__ import annotations

import copy
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from podbay._core import forks
from podbay._core.channels import authorization, closed_error, is_accepted
from podbay._core.client_failures import TELL_SECONDS, ClientFailures
from podbay._core.exchange import Call, CallState, Delivery, ExchangeCore, Stream
from podbay._core.operations import Service
from podbay._core.retries import FIRST_CONTACT_SECONDS
from podbay._sync.transport import Endpoint, Transport, error_of
from podbay.errors import AuthenticationError, PermissionDeniedError, PodbayError, error_for
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["Exchange"]

_METHOD = "/podbay.v1.InferenceRouterService/Exchange"

# How long a wait for the router lasts before it looks whether anybody still waits for it.
_LOOK_SECONDS = 0.25

# How long close() waits for a thread that has nothing left to do.
_JOIN_SECONDS = 5.0


class Exchange:
    """All calls of one session client.

    A call's `sink` is a `queue.SimpleQueue`, or has its `put`; what is put are `Delivery` tuples.

    Args:
        transport: The channels of the client.
        token: A session token.
        refresh: Returns a new token when the present one has expired; None where there is none.
    """

    def __init__(
        self, transport: Transport, token: str, refresh: Callable[[], str] | None = None
    ) -> None:
        self._transport = transport
        self._token = token
        self._refresh = refresh
        self._lock = threading.Lock()
        self._core = ExchangeCore(can_refresh=refresh is not None)
        self._drivers: set[_Driver] = set()
        self._driver: _Driver | None = None  # the one that takes new calls
        self._closed = False
        self._failures = ClientFailures()
        self._telling: Call | None = None
        self._quiet = threading.Event()
        self._quiet.set()
        forks.follow(self)

    def left_behind(self) -> None:
        """Be closed, as this is a forked child; see `forks`."""
        self._lock = threading.Lock()
        self._closed = True
        self._quiet = threading.Event()
        self._quiet.set()

    def report(self, error: Exception) -> None:
        """Tell the router of what failed at the client, where that is for it; returns at once."""
        with self._lock:
            if self._failures.note(error):
                self._tell()

    def settle(self, seconds: float) -> None:
        """Wait until the router was told, at most some seconds."""
        self._quiet.wait(seconds)

    def submit(self, call: Call) -> None:
        """Send a call as soon as there is room for it.

        Raises:
            CancelledCallError: The client is closed.
        """
        with self._lock:
            if self._closed or self._transport.closed:
                raise self._transport.closed_error()
            self._core.submit(call)
            self._notice()

    def cancel(self, call: Call) -> None:
        """Let nobody wait for a call any more; nothing happens where it is answered."""
        if call.state is CallState.DONE:
            return
        with self._lock:
            carrier = call.carrier
            if self._core.cancel(call):
                for driver in self._drivers:
                    if driver.stream is carrier:
                        driver.wake()

    def taken(self, call: Call, items: Sequence[wire.Item]) -> None:
        """Note that the caller has taken pieces of a streamed call, so that more may come."""
        with self._lock:
            carrier = call.carrier
            if self._core.taken(call, items):
                for driver in self._drivers:
                    if driver.stream is carrier:
                        driver.wake()

    def give_up(self, call: Call, timeout: float) -> PodbayError | None:
        """Cancel a call whose time ran out; return its error, or None where it is answered.

        Args:
            call: The call.
            timeout: How long it was allowed, in seconds.
        """
        with self._lock:
            if call.state is CallState.DONE:
                return None
            error = self._core.timeout_error(call, timeout)
        self.cancel(call)
        return error

    def close(self) -> None:
        """Cancel all calls and end the streams."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            drivers = list(self._drivers)
            deliveries = self._core.close([d.stream for d in drivers if d.stream is not None])
            self._driver = None
        _deliver(deliveries)
        for driver in drivers:
            driver.stop()
        for driver in drivers:
            driver.join(_JOIN_SECONDS)

    # The inside; called with the lock held.

    def _tell(self) -> None:
        """Tell the router what it is to be told, one after the other."""
        if self._closed or self._transport.closed:
            return
        failure = self._failures.next()
        if failure is None:
            return
        self._quiet.clear()
        deadline = time.monotonic() + TELL_SECONDS
        self._telling = Call("", failure, False, deadline, _Told(self))
        self._core.submit(self._telling)
        self._notice()

    def _give_up_telling(self) -> None:
        """Tell nobody where that has taken too long: no caller waits for it."""
        call = self._telling
        if call is not None and time.monotonic() >= call.deadline:
            self._core.cancel(call)
            self._end_telling(told=False)

    def _end_telling(self, *, told: bool) -> None:
        self._telling = None
        self._failures.done(told=told)
        if told:
            self._tell()
        if self._telling is None:
            self._quiet.set()

    def _notice(self) -> None:
        """See to it that queued calls are sent."""
        if self._driver is None:
            self._driver = _Driver(self)
            self._drivers.add(self._driver)
            self._driver.start()
        else:
            self._driver.wake()


class _Told:
    """The sink of what the router is told."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def put(self, delivery: Delivery) -> None:
        """Take the answer."""
        call, _, _, error = delivery
        exchange = self._exchange
        with exchange._lock:  # noqa: SLF001 # one unit
            if exchange._telling is call:  # noqa: SLF001
                exchange._end_telling(told=error is None)  # noqa: SLF001


class _Driver(threading.Thread):
    """Opens streams while calls wait, and reads what comes."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(name="podbay-exchange", daemon=True)
        self._exchange = exchange
        self._core = exchange._core  # noqa: SLF001 # the two are one unit in two threads
        self._lock = exchange._lock  # noqa: SLF001
        self._stopped = threading.Event()
        self._writer: _Writer | None = None
        self._rpc: Any = None
        self.stream: Stream | None = None

    # Called by others, with the lock held.

    def wake(self) -> None:
        """Have the writer look for something to send."""
        if self._writer is not None:
            self._writer.wake()

    # Called by others, without it.

    def stop(self) -> None:
        """End what runs."""
        self._stopped.set()
        with self._lock:
            rpc = self._rpc
            self.wake()
        if rpc is not None:
            rpc.cancel()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread, unless it is the caller's own."""
        if threading.current_thread() is not self:
            super().join(timeout)

    # The thread.

    def run(self) -> None:
        """Serve calls until none waits, or another driver has taken over."""
        try:
            while self._goes_on():
                try:
                    endpoint = self._connect()
                except PodbayError as error:
                    self._fail_queued(error)
                else:
                    if endpoint is not None:
                        self._serve(endpoint)
        except BaseException:
            # Nobody else would ever answer the callers.
            self._fail_queued(error_for("INTERNAL", "The client's exchange thread failed."))
            raise
        finally:
            with self._lock:
                self._exchange._drivers.discard(self)  # noqa: SLF001 # one unit
                self._leave()

    def _goes_on(self) -> bool:
        with self._lock:
            if self._stopped.is_set() or self._exchange._driver is not self:  # noqa: SLF001
                return False
            self._exchange._give_up_telling()  # noqa: SLF001
            if self._core.wants_stream:
                return True
            self._leave()
            return False

    def _leave(self) -> None:
        """Let another driver take the calls that wait, and those to come; with the lock held."""
        exchange = self._exchange
        if exchange._driver is self:  # noqa: SLF001 # one unit
            exchange._driver = None  # noqa: SLF001
        # Also where it had left before: a stream that is read to its end may put calls back.
        if not exchange._closed and (  # noqa: SLF001
            exchange._driver is not None or self._core.wants_stream  # noqa: SLF001
        ):
            exchange._notice()  # noqa: SLF001

    def _fail_queued(self, error: PodbayError) -> None:
        with self._lock:
            deliveries = self._core.fail_queued(lambda: copy.copy(error))
        _deliver(deliveries)

    def _connect(self) -> Endpoint | None:
        """Return the router once it is reached; None where nobody waits any more."""
        exchange = self._exchange
        transport = exchange._transport  # noqa: SLF001 # one unit
        endpoint = transport.endpoint(Service.ROUTER)
        self._core.address = endpoint.address
        with self._lock:
            needs_token = self._core.needs_token
            delay = self._core.reopen_delay(random.random())  # noqa: S311 # spreads tries
        if delay:
            self._stopped.wait(delay)
        if needs_token and exchange._refresh is not None:  # noqa: SLF001
            try:
                token = exchange._refresh()  # noqa: SLF001
            except (AuthenticationError, PermissionDeniedError) as refusal:
                raise self._core.not_replaced(refusal) from refusal
            with self._lock:
                exchange._token = token  # noqa: SLF001
                self._core.token_replaced()
        began = time.monotonic()
        never_reached = not endpoint.reached
        while not endpoint.is_ready(_LOOK_SECONDS):
            if not self._goes_on():
                return None
            waited = time.monotonic() - began
            if never_reached and waited >= FIRST_CONTACT_SECONDS:
                raise endpoint.why_not(waited)
        return endpoint

    def _serve(self, endpoint: Endpoint) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            stream = self.stream = self._core.open()
            writer = self._writer = _Writer(self._core, self._lock, stream)
            token = self._exchange._token  # noqa: SLF001 # one unit
        failure: PodbayError | None = None
        try:
            rpc = endpoint.channel.stream_stream(
                _METHOD,
                request_serializer=wire.ExchangeRequest.SerializeToString,
                response_deserializer=wire.ExchangeResponse.FromString,
            )
            answers = rpc(writer.requests(), metadata=authorization(token), wait_for_ready=True)
            with self._lock:
                self._rpc = answers
            if self._stopped.is_set():
                answers.cancel()
            # Nothing is handed over before the stream is taken: a refusal then leaves no doubt.
            if is_accepted(answers.initial_metadata()):
                with self._lock:
                    writer.begin()
            for answer in answers:
                self._take(stream, answer)
        except grpc.RpcError as error:
            failure = error_of(error, "exchange calls", endpoint.address)
        except ValueError:
            # gRPC's word for a channel that was closed; said while it is open, it tells nothing of
            # the calls that wait.
            if self._exchange._closed or self._exchange._transport.closed:  # noqa: SLF001 # one unit
                failure = closed_error()
        with self._lock:
            deliveries = self._core.end(stream, failure)
            stream.retired = True
            writer.wake()
            self._rpc = self._writer = self.stream = None
        _deliver(deliveries)

    def _take(self, stream: Stream, answer: wire.ExchangeResponse) -> None:
        with self._lock:
            deliveries = self._core.receive(stream, answer)
            if stream.retired:
                # New calls belong on another stream; this one is read to its end.
                self._leave()
            if self._core.has_work(stream):
                self.wake()
        _deliver(deliveries)


class _Writer:
    """What one stream sends; gRPC asks for it in a thread of its own."""

    def __init__(self, core: ExchangeCore, lock: threading.Lock, stream: Stream) -> None:
        self._core = core
        self._lock = lock
        self._stream = stream
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = False
        self._begun = False

    def begin(self) -> None:
        """Let it send, as the stream is taken; called with the lock held."""
        self._begun = True
        self.wake()

    def wake(self) -> None:
        """Have it look for something to send; called with the lock held."""
        if self._asleep:
            self._asleep = False
            self._wakes.put(None)

    def requests(self) -> Iterator[wire.ExchangeRequest]:
        """Yield messages until the stream is finished."""
        while True:
            with self._lock:
                batch = (
                    self._core.next_batch(self._stream, time.monotonic()) if self._begun else None
                )
                if batch is None:
                    if self._stream.finished:
                        return
                    self._asleep = True
            if batch is not None:
                yield batch
            else:
                self._wakes.get()


def _deliver(deliveries: list[Delivery]) -> None:
    for delivery in deliveries:
        delivery[0].sink.put(delivery)
