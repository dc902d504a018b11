"""The state of one Exchange client: which call is where. No I/O, no threads, no clock.

A face (`podbay._sync.exchange`, `podbay._async.exchange`) moves the messages: it opens a stream
when `wants_stream`, sends what `next_batch` returns, hands what comes to `receive`, and tells of a
stream's end with `end`. What the last two return is for the callers.

The rule for a lost stream: a call that was never handed to the transport goes to the next stream,
and so does one that the router has not begun: it says so, or it drains and ends the stream well.
One that was handed over and is not answered fails, as nobody knows whether a replica has seen it.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from podbay._core.calls import Call, CallState, Delivery, Stream
from podbay._core.retries import backoff
from podbay._core.wire_errors import from_call_error, unreachable
from podbay.errors import NoAnswerError, PodbayError, error_for
from podbay.v1 import inference_router_service_pb2 as wire

__all__ = ["Call", "CallState", "Delivery", "ExchangeCore", "Stream"]

MAX_IN_FLIGHT: Final = 1024
MAX_BATCH_BYTES: Final = 1 << 20

# Above the first mark of pieces that the caller has not taken, the router is asked to pause their
# call, until less than the second is left. What was on its way still comes.
_UNREAD_HIGH: Final = 1 << 20
_UNREAD_LOW: Final = 1 << 18
_ITEM_OVERHEAD: Final = 128

# A router that answers so has not begun the call, and another stream may lead to one that does.
_RESENT: Final = frozenset({"ROUTER_DRAINING", "ROUTER_NOT_SYNCED", "SERVICE_STOPPING"})

# The reasons of statuses without details that tell of nothing but a broken stream.
_LOST: Final = frozenset({"CONNECTION_LOST", "CANCELLED", "INTERNAL"})


class ExchangeCore:
    """The calls of one client of one session, over as many streams as it takes.

    Args:
        address: The router's address, for errors.
        can_refresh: Whether a new token can be had when the present one has expired.
        max_in_flight: The most calls on one stream that are not answered.
        max_batch_bytes: About the most bytes of one message; a larger call goes alone.
    """

    def __init__(
        self,
        *,
        address: str = "",
        can_refresh: bool = False,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self.address = address
        self.needs_token = False
        self.current: Stream | None = None
        self._can_refresh = can_refresh
        self._max_in_flight = max_in_flight
        self._max_batch_bytes = max_batch_bytes
        self._queued: deque[Call] = deque()
        self._next_id = 1
        self._token_number = 0
        self._refreshed = False  # since a call was last answered
        self._expiry: PodbayError | None = None  # why a new token is needed
        self._failures = 0  # streams in a row on which no call was answered

    # What the callers do.

    def submit(self, call: Call) -> None:
        """Queue a call."""
        self._queued.append(call)

    def cancel(self, call: Call) -> bool:
        """Let nobody wait for a call any more; the router is told where it has the call.

        Returns:
            Whether the face has something to send now.
        """
        carrier = call.carrier if call.state is CallState.SENT else None
        if carrier is not None:
            carrier.cancels.append(call.id)
        # A queued one is skipped when its turn comes.
        call.state = CallState.DONE
        return carrier is not None

    def taken(self, call: Call, items: Sequence[wire.Item]) -> bool:
        """Note that the caller has taken pieces of a streamed call.

        Returns:
            Whether the face has something to send now.
        """
        call.unread -= _weight(items)
        if not call.paused or call.unread > _UNREAD_LOW:
            return False
        call.paused = False
        carrier = call.carrier
        if call.state is not CallState.SENT or carrier is None:
            return False
        carrier.flow[call.id] = False
        return True

    def timeout_error(self, call: Call, timeout: float) -> PodbayError:
        """Return the error of a call whose time ran out at the client.

        Args:
            call: The call, before it is cancelled.
            timeout: How long it was allowed, in seconds.
        """
        if call.state is CallState.QUEUED and self.current is None:
            return unreachable("inference router", self.address, timeout)
        if call.state is CallState.QUEUED:
            return error_for(
                "DEADLINE_EXCEEDED",
                f"The call waited {timeout:.3g} s at the client: {self._max_in_flight} calls are "
                "in flight already.",
                not_started=True,
            )
        return NoAnswerError(
            f"The inference router at {self.address} did not answer within {timeout:.3g} s.",
            reason="DEADLINE_EXCEEDED",
        )

    # What a face does.

    @property
    def wants_stream(self) -> bool:
        """Whether calls wait and no stream takes them."""
        if self.current is not None:
            return False
        while self._queued and self._queued[0].state is CallState.DONE:
            self._queued.popleft()
        return bool(self._queued)

    def open(self) -> Stream:
        """Return a stream that is about to be opened with the present token."""
        self.current = Stream(self._token_number)
        return self.current

    def reopen_delay(self, chance: float) -> float:
        """Return how many seconds to wait before the next stream is opened.

        Args:
            chance: A random number from 0 up to 1.
        """
        return backoff(self._failures, chance) if self._failures else 0.0

    def not_replaced(self, refusal: PodbayError) -> PodbayError:
        """Return the error of calls whose token has expired, where a new one is refused.

        Args:
            refusal: Why there is no new one.
        """
        if self._expiry is None:
            return refusal
        expiry = copy.copy(self._expiry)
        expiry.metadata["renewal"] = refusal.message
        return expiry

    def token_replaced(self) -> None:
        """Note that streams are opened with another token from now on."""
        self.needs_token = False
        self._refreshed = True
        self._token_number += 1

    def next_batch(self, stream: Stream, now: float) -> wire.ExchangeRequest | None:
        """Return the next message of a stream, with all that is queued and fits; None for nothing.

        Args:
            stream: The stream.
            now: The time on the clock of the calls' deadlines.
        """
        if not self._queued and not stream.cancels and not stream.flow:
            return None
        batch = wire.ExchangeRequest()
        if stream.flow:
            for call_id, pause in stream.flow.items():
                (batch.pauses if pause else batch.resumes).append(call_id)
            stream.flow.clear()
        if stream.cancels:
            batch.cancels.extend(stream.cancels)
            stream.cancels.clear()
        room = self._max_batch_bytes
        queued, sent = self._queued, stream.sent
        while queued and not stream.retired and len(sent) < self._max_in_flight:
            call = queued[0]
            if call.state is CallState.DONE:
                queued.popleft()
                continue
            size = call.size
            if size > room and batch.calls:
                break
            room -= size
            queued.popleft()
            self._hand_over(call, stream, batch, now)
        some = batch.calls or batch.cancels or batch.pauses or batch.resumes
        return batch if some else None

    def has_work(self, stream: Stream) -> bool:
        """Whether `next_batch` has something to send, or the stream can be half-closed."""
        if stream.cancels or stream.flow or stream.finished:
            return True
        return bool(self._queued) and not stream.retired and len(stream.sent) < self._max_in_flight

    def receive(self, stream: Stream, response: wire.ExchangeResponse) -> list[Delivery]:
        """Take a message of a stream; return what it brings to whom."""
        deliveries: list[Delivery] = []
        again: list[Call] = []
        for result in response.results:
            call = stream.sent.get(result.id)
            if call is None:
                continue
            if result.done:
                del stream.sent[result.id]
            if call.state is not CallState.SENT:
                continue
            error = from_call_error(result.error) if result.HasField("error") else None
            if error is not None and self._goes_again(stream, error):
                call.state, call.carrier = CallState.QUEUED, None
                again.append(call)
                continue
            self._went_well(stream)
            if result.replica_id:
                call.replica_id = result.replica_id
            if result.done:
                call.state = CallState.DONE
            elif call.stream:
                self._count_unread(stream, call, result.items)
            deliveries.append((call, result.items, result.done, error))
        self._queued.extendleft(reversed(again))
        if response.draining:
            stream.draining = True
            self._retire(stream)
        return deliveries

    def end(self, stream: Stream, error: PodbayError | None) -> list[Delivery]:
        """Note that a stream has ended.

        Args:
            stream: The stream.
            error: Why; None where the router ended it as it should.

        Returns:
            The failures of the calls that were in flight.
        """
        left = [call for call in stream.sent.values() if call.state is CallState.SENT]
        stream.sent.clear()
        stream.cancels.clear()
        stream.flow.clear()
        expired = error is not None and self._takes_expiry(stream, error)
        if not expired:
            self._retire(stream)
        if error is not None and not stream.used and not expired and _is_refusal(error):
            # No other stream would fare better, and those who wait shall hear why.
            return self.fail_queued(lambda: copy.copy(error))
        if error is None:
            # A router that stops ends a stream well only when all calls that it has read are
            # answered: what is left was on its way.
            again = stream.draining
        else:
            again = (expired and (error.not_started or not stream.good)) or (
                error.not_started and error.reason in _RESENT
            )
        if again:
            for call in left:
                call.state, call.carrier = CallState.QUEUED, None
            self._queued.extendleft(reversed(left))
            return []
        for call in left:
            call.state = CallState.DONE
        return [(call, (), True, self._ended_error(error)) for call in left]

    def fail_queued(self, error: Callable[[], PodbayError]) -> list[Delivery]:
        """Fail all calls that wait for a stream, each with an error of its own."""
        waiting = [call for call in self._queued if call.state is CallState.QUEUED]
        self._queued.clear()
        for call in waiting:
            call.state = CallState.DONE
        return [(call, (), True, error()) for call in waiting]

    def close(self, streams: Iterable[Stream]) -> list[Delivery]:
        """Cancel everything, as the client is closed.

        Args:
            streams: All streams that have not ended.
        """

        def closed() -> PodbayError:
            return error_for("CANCELLED", "The client was closed while the call was under way.")

        deliveries = self.fail_queued(closed)
        for stream in streams:
            stream.retired = True
            for call in stream.sent.values():
                if call.state is CallState.SENT:
                    call.state = CallState.DONE
                    deliveries.append((call, (), True, closed()))
            stream.sent.clear()
            stream.cancels.clear()
            stream.flow.clear()
        self.current = None
        return deliveries

    # The inside.

    def _count_unread(self, stream: Stream, call: Call, items: Sequence[wire.Item]) -> None:
        call.unread += _weight(items)
        if call.unread > _UNREAD_HIGH and not call.paused:
            call.paused = True
            stream.flow[call.id] = True

    def _hand_over(
        self, call: Call, stream: Stream, batch: wire.ExchangeRequest, now: float
    ) -> None:
        call.id = self._next_id
        self._next_id += 1
        call.state, call.carrier = CallState.SENT, stream
        stream.used = True
        stream.sent[call.id] = call
        message = batch.calls.add(id=call.id, endpoint=call.endpoint, stream=call.stream)
        if isinstance(call.body, bytes):
            message.json = call.body
        elif isinstance(call.body, wire.ClientFailure):
            message.client_failure.CopyFrom(call.body)
        else:
            message.file_upload.CopyFrom(call.body)
        if call.affinity:
            message.affinity_key = call.affinity
        if call.trace[0]:
            message.traceparent, message.tracestate = call.trace
        # One that is late already is still sent: its caller is about to give up by itself.
        left = max(call.deadline - now, 0.001)
        message.timeout.seconds = int(left)
        message.timeout.nanos = int(left % 1 * 1e9)

    def _went_well(self, stream: Stream) -> None:
        stream.good = True
        self._failures = 0
        self._refreshed = False

    def _goes_again(self, stream: Stream, error: PodbayError) -> bool:
        """Whether a call that failed so is put on another stream."""
        if not error.not_started:
            return False
        if self._takes_expiry(stream, error):
            return True
        if error.reason not in _RESENT:
            return False
        self._retire(stream)
        return True

    def _takes_expiry(self, stream: Stream, error: PodbayError) -> bool:
        """Whether an error tells of an expired token that is, or can be, replaced."""
        if error.reason != "TOKEN_EXPIRED" or not self._can_refresh:
            return False
        if stream.token_number == self._token_number and not self.needs_token:
            if self._refreshed:
                return False  # a fresh token that has expired: the clocks disagree
            self.needs_token = True
            self._expiry = error
        stream.retired = True
        if self.current is stream:
            self.current = None
        return True

    def _retire(self, stream: Stream) -> None:
        if not stream.retired:
            stream.retired = True
            self._failures = 0 if stream.good else self._failures + 1
        if self.current is stream:
            self.current = None

    def _ended_error(self, error: PodbayError | None) -> PodbayError:
        if error is None or (error.reason in _LOST and "grpcCode" in error.metadata):
            return error_for(
                "CONNECTION_LOST",
                f"The connection to the inference router at {self.address} was lost while the "
                "call was in flight; whether it ran is not known.",
                metadata={} if error is None else error.metadata,
            )
        return copy.copy(error)


def _is_refusal(error: PodbayError) -> bool:
    """Whether a router does not take the stream, rather than being away or about to stop."""
    lost = error.reason in _LOST and "grpcCode" in error.metadata
    return not lost and not (error.not_started and error.reason in _RESENT)


def _weight(items: Sequence[wire.Item]) -> int:
    """Tell about how many bytes of memory pieces take."""
    return sum(len(item.json) + _ITEM_OVERHEAD for item in items)
