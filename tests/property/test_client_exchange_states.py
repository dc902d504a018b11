"""The Exchange client under random orders of calls, cancels, answers and lost streams."""

from __future__ import annotations

from typing import Any

import grpc
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from podbay._core.exchange import Call, CallState, Delivery, ExchangeCore, Stream
from podbay.errors import error_for
from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as wire
from tests.support.fake_router import reason_number

MAX_IN_FLIGHT = 3
MAX_BATCH = 400
RESENT = ["ROUTER_DRAINING", "ROUTER_NOT_SYNCED", "SERVICE_STOPPING"]


class Exchanges(RuleBasedStateMachine):
    """A client, and a router that may do anything it is allowed to."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.core = ExchangeCore(
            can_refresh=True, max_in_flight=MAX_IN_FLIGHT, max_batch_bytes=MAX_BATCH
        )
        self.streams: list[Stream] = []
        # What the router has, by stream: the ids that it has not answered, and all it ever saw.
        self.at_router: dict[int, dict[int, bytes]] = {}
        self.seen_ids: dict[int, set[int]] = {}
        # How often the router may have begun each body.
        self.begun: dict[bytes, int] = {}
        self.submitted: dict[bytes, Call] = {}
        self.abandoned: set[bytes] = set()
        self.finished: dict[bytes, int] = {}

    @rule(target=calls, size=st.integers(0, 500))
    def submit(self, size: int) -> Call:
        body = b"%d:" % len(self.submitted) + b"x" * size
        call = Call("e", body, stream=False, deadline=1.0)
        self.submitted[body] = call
        self.core.submit(call)
        return call

    @rule(call=calls)
    def cancel(self, call: Call) -> None:
        assert isinstance(call.body, bytes)
        if call.state is not CallState.DONE:
            self.abandoned.add(call.body)
        self.core.cancel(call)

    @precondition(lambda self: self.core.wants_stream)
    @rule()
    def open(self) -> None:
        if self.core.needs_token:
            self.core.token_replaced()
        stream = self.core.open()
        self.streams.append(stream)
        self.at_router[id(stream)] = {}
        self.seen_ids[id(stream)] = set()

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def send(self, data: Any) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        had_work = self.core.has_work(stream)
        batch = self.core.next_batch(stream, 0.0)
        if batch is None:
            return
        assert had_work
        assert not (stream.retired and batch.calls)
        sizes = [len(c.json) for c in batch.calls]
        assert len(sizes) == 1 or sum(sizes) <= MAX_BATCH
        seen = self.seen_ids[id(stream)]
        for call in batch.calls:
            assert call.id not in seen
            seen.add(call.id)
            assert call.json not in self.abandoned
            assert call.json not in self.finished
            self.at_router[id(stream)][call.id] = call.json
            self.begun[call.json] = self.begun.get(call.json, 0) + 1
            # Never sent where it may have been begun already.
            assert self.begun[call.json] == 1
        for call_id in batch.cancels:
            assert call_id in seen

    @precondition(lambda self: any(self.at_router.values()))
    @rule(data=st.data(), reason=st.sampled_from(["", "QUEUE_FULL", "TOKEN_EXPIRED", *RESENT]))
    def answer(self, data: Any, reason: str) -> None:
        stream = data.draw(st.sampled_from([s for s in self.streams if self.at_router[id(s)]]))
        waiting = self.at_router[id(stream)]
        call_id = data.draw(st.sampled_from(sorted(waiting)))
        body = waiting.pop(call_id)
        result = wire.CallResult(id=call_id, done=True)
        if reason:
            result.error.CopyFrom(
                errors_pb2.CallError(
                    code=grpc.StatusCode.UNAVAILABLE.value[0],
                    reason=reason_number(reason),
                    message="m",
                    not_started=True,
                )
            )
            self.begun[body] -= 1
        self._take(self.core.receive(stream, wire.ExchangeResponse(results=[result])))

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def drain(self, data: Any) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self._take(self.core.receive(stream, wire.ExchangeResponse(draining=True)))

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), clean=st.booleans())
    def lose(self, data: Any, clean: bool) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self.streams.remove(stream)
        unanswered = self.at_router.pop(id(stream))
        if clean and stream.draining:
            # What a router that drains has not answered, it has not begun.
            for body in unanswered.values():
                self.begun[body] -= 1
        self.seen_ids.pop(id(stream))
        error = None if clean else error_for("CONNECTION_LOST", "m")
        deliveries = self.core.end(stream, error)
        assert not (clean and stream.draining and deliveries)
        for _, _, done, failure in deliveries:
            assert done
            assert failure is not None
            assert failure.reason == "CONNECTION_LOST"
        self._take(deliveries)
        assert not stream.sent

    def _take(self, deliveries: list[Delivery]) -> None:
        for call, _, done, _ in deliveries:
            assert isinstance(call.body, bytes)
            assert call.body not in self.abandoned
            assert done
            self.finished[call.body] = self.finished.get(call.body, 0) + 1
            assert self.finished[call.body] == 1

    @invariant()
    def every_call_is_somewhere_once(self) -> None:
        for body, call in self.submitted.items():
            carriers = [s for s in self.streams if call.id and s.sent.get(call.id) is call]
            if call.state is CallState.SENT:
                assert len(carriers) == 1
                assert call.carrier is carriers[0]
            elif call.state is CallState.DONE:
                assert body in self.finished or body in self.abandoned
            else:
                assert body not in self.finished
                assert carriers == []

    @invariant()
    def streams_are_bounded(self) -> None:
        assert all(len(stream.sent) <= MAX_IN_FLIGHT for stream in self.streams)
        open_ones = [stream for stream in self.streams if not stream.retired]
        assert open_ones in ([], [self.core.current])

    def teardown(self) -> None:
        # Whatever happened: a router that answers brings every call to its end.
        for _ in range(1000):
            if self.core.wants_stream:
                self.open()
            progressed = False
            for stream in list(self.streams):
                while self.core.next_batch(stream, 0.0) is not None:
                    progressed = True
                for call_id in list(stream.sent):
                    result = wire.CallResult(id=call_id, done=True)
                    self._take(self.core.receive(stream, wire.ExchangeResponse(results=[result])))
                    progressed = True
            if not progressed and not self.core.wants_stream:
                break
        for body, call in self.submitted.items():
            assert call.state is CallState.DONE
            assert (body in self.finished) != (body in self.abandoned)
        assert not any(stream.sent for stream in self.streams)


Exchanges.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestExchanges = Exchanges.TestCase
