"""Whatever happens, each call is answered once and every counter is exact."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import ROUTE_STATE_ENDED
from podbay_inference_router.calls import Call
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import Endpoint
from tests.support.router_fakes import route
from tests.support.router_table import FakeFlight, FakeRouter, ListSink

SESSIONS = ("a", "b")


class CallsMachine(RuleBasedStateMachine):
    """Calls, cancels, deadlines, deaths of replicas and changes of the table, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.router = FakeRouter(
            Settings(queue_length=3, queue_timeout=5, settle_seconds=0.5, max_answer_bytes=50)
        )
        self.calls: list[tuple[Call, ListSink]] = []
        self.endpoints: set[Endpoint] = set()
        self.ports = 0

    @property
    def flights(self) -> list[FakeFlight]:
        return [flight for upstream in self.router.upstreams for flight in upstream.flights]

    @rule(
        session=st.sampled_from((*SESSIONS, "unknown")),
        timeout=st.sampled_from([0.0, 0.3, 3.0, 60.0]),
        stream=st.booleans(),
        epoch=st.integers(1, 2),
    )
    def begin(self, session: str, timeout: float, stream: bool, epoch: int) -> None:
        self.calls.append(self.router.call(session, timeout=timeout, stream=stream, epoch=epoch))

    @rule(
        session=st.sampled_from(SESSIONS),
        replicas=st.integers(0, 3),
        fresh=st.booleans(),
        limit=st.integers(0, 2),
        safe=st.booleans(),
        epoch=st.integers(1, 2),
    )
    def change(
        self, session: str, replicas: int, fresh: bool, limit: int, safe: bool, epoch: int
    ) -> None:
        if fresh:
            self.ports += 10
        ports = [100 + self.ports + index for index in range(replicas)]
        self.router.apply(
            route(session, ports, max_concurrency=limit, safe_to_retry=safe, epoch=epoch)
        )

    @rule(session=st.sampled_from(SESSIONS))
    def end_session(self, session: str) -> None:
        self.router.apply(
            route(
                session,
                state=ROUTE_STATE_ENDED,
                ended_reason=errors_pb2.ERROR_REASON_SESSION_TERMINATED,
            )
        )

    @rule(session=st.sampled_from(SESSIONS))
    def remove_session(self, session: str) -> None:
        self.router.apply(removed=(session,))

    @rule(session=st.sampled_from(SESSIONS))
    def snapshot(self, session: str) -> None:
        self.router.apply(route(session, [7]), snapshot=True)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.calls))[0].cancel()

    @precondition(lambda self: self.flights)
    @rule(
        data=st.data(),
        what=st.sampled_from(["connect", "answer", "refused", "piece", "lose", "bad", "error"]),
    )
    def happen(self, data: st.DataObject, what: str) -> None:
        flight = data.draw(st.sampled_from(self.flights))
        if not flight.connected:
            if what == "refused":
                flight.refuse()
                return
            flight.connect()
        match what:
            case "answer" if not flight.answering:
                flight.answer(data.draw(st.sampled_from([b"{}", b"", b"x" * 60])))
            case "error" if not flight.answering:
                flight.answer(b"no", 500)
            case "piece":
                if not flight.answering:
                    flight.answering = True
                    flight.call.on_head(200, "text/event-stream", "", "")
                text = data.draw(st.sampled_from([b"data: 1\n\n", b"data: [DONE]\n\n", b"x" * 99]))
                flight.call.on_body(text)
            case "lose":
                flight.lose()
            case "bad":
                flight.end()
                flight.call.flight = None
                flight.call.on_bad_answer("it is not HTTP/1.1")
            case _:
                pass

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.router.scheduler.advance(seconds)

    @rule()
    def pause_a_caller(self) -> None:
        for _, sink in self.calls:
            sink.paused = not sink.paused

    @invariant()
    def counters_are_exact(self) -> None:
        running: dict[Endpoint, int] = {}
        for call, sink in self.calls:
            assert len(sink.ends) == (1 if call.done else 0)
            if call.endpoint is not None:
                running[call.endpoint] = running.get(call.endpoint, 0) + 1
            if call.done:
                assert call.endpoint is None
                assert call.flight is None
                assert call not in call.session.waiting
            else:
                assert (call.endpoint is not None) != (call in call.session.waiting)
        assert self.router.dispatcher.active == sum(not call.done for call, _ in self.calls)
        self.endpoints |= set(running)
        for name in SESSIONS:
            session = self.router.table.find(name)
            self.endpoints |= set(session.endpoints) if session is not None else set()
        for endpoint in self.endpoints:
            assert endpoint.outstanding == running.get(endpoint, 0)
        assert self.router.running == sum(running.values())

    @invariant()
    def nobody_waits_beside_a_free_replica(self) -> None:
        for name in SESSIONS:
            session = self.router.table.find(name)
            if session is None or not session.waiting:
                continue
            assert len(session.waiting) <= 3 + sum(
                call.connect_failure is not None or call.sent for call in session.waiting.calls()
            )
            for endpoint in session.endpoints:
                assert endpoint.outstanding >= session.limit or endpoint.failures

    def teardown(self) -> None:
        for name in SESSIONS:
            self.router.apply(route(name, epoch=2))
        self.router.scheduler.advance(100)
        self.counters_are_exact()
        assert self.router.dispatcher.active == 0
        assert self.router.scheduler.pending == 0
        assert self.router.running == 0
        assert all(endpoint.outstanding == 0 for endpoint in self.endpoints)
        assert self.router.table.find("unknown") is None


CallsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestCalls: Any = CallsMachine.TestCase
