"""Whatever happens, each call is answered once and every counter is exact."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import ROUTE_STATE_ENDED
from podbay_inference_router.calls import Call
from podbay_inference_router.health import is_healthy
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import Endpoint, SessionRoute
from tests.support.router_fakes import route
from tests.support.router_table import FakeFlight, FakeRouter, ListSink

# More where somebody has the time.
EXAMPLES = int(os.environ.get("PODBAY_ROUTER_EXAMPLES", "150"))
SESSIONS = ("a", "b")
ACCOUNTS = ("one", "two")


class CallsMachine(RuleBasedStateMachine):
    """Calls, cancels, deadlines, deaths of replicas and changes of the table, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.router = FakeRouter(
            Settings(
                queue_length=3,
                queue_timeout=5,
                settle_seconds=0.5,
                max_answer_bytes=50,
                account_in_flight=3,
                account_queue_length=5,
                failures_in_row=2,
                retry_ratio=0.5,
            )
        )
        self.calls: list[tuple[Call, ListSink]] = []
        self.endpoints: set[Endpoint] = set()
        self.ports = 0

    @property
    def flights(self) -> list[FakeFlight]:
        return [flight for upstream in self.router.upstreams for flight in upstream.flights]

    @initialize()
    def begin_well(self) -> None:
        for session in SESSIONS:
            told = route(session, [1, 2, 3], max_concurrency=2, safe_to_retry=True)
            told.hedge_after.FromMilliseconds(50)
            self.router.apply(told)

    @rule(
        session=st.sampled_from((*SESSIONS, *SESSIONS, "unknown")),
        timeout=st.sampled_from([0.0, 0.3, 3.0, 60.0, 60.0, 60.0]),
        stream=st.booleans(),
        epoch=st.sampled_from([1, 2, 2, 2]),
        account=st.sampled_from(ACCOUNTS),
        affinity=st.sampled_from(["", "k1", "k2"]),
    )
    def begin(
        self, session: str, timeout: float, stream: bool, epoch: int, account: str, affinity: str
    ) -> None:
        self.calls.append(
            self.router.call(
                session,
                timeout=timeout,
                stream=stream,
                epoch=epoch,
                account=account,
                affinity=affinity,
            )
        )

    @rule(
        session=st.sampled_from(SESSIONS),
        replicas=st.sampled_from([0, 1, 2, 3, 3]),
        fresh=st.booleans(),
        limit=st.integers(0, 2),
        safe=st.sampled_from([True, True, False]),
        hedged=st.booleans(),
        in_flight=st.sampled_from([0, 0, 0, 3]),
        epoch=st.integers(1, 2),
    )
    def change(
        self,
        session: str,
        replicas: int,
        fresh: bool,
        limit: int,
        safe: bool,
        hedged: bool,
        in_flight: int,
        epoch: int,
    ) -> None:
        if fresh:
            self.ports += 10
        ports = [100 + self.ports + index for index in range(replicas)]
        told = route(
            session,
            ports,
            max_concurrency=limit,
            safe_to_retry=safe,
            epoch=epoch,
            max_in_flight=in_flight,
        )
        if hedged:
            told.hedge_after.FromMilliseconds(50)
        self.router.apply(told)

    @rule(session=st.sampled_from(SESSIONS), count=st.integers(2, 6))
    def begin_many(self, session: str, count: int) -> None:
        for number in range(count):
            account = ACCOUNTS[number % 3 == 0]
            self.calls.append(self.router.call(session, epoch=2, account=account))

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), how=st.sampled_from(["lose", "500", "200"]))
    def a_replica_treats_all_alike(self, data: st.DataObject, how: str) -> None:
        upstream = data.draw(
            st.sampled_from([item for item in self.router.upstreams if item.flights])
        )
        for flight in list(upstream.flights):
            if flight not in upstream.flights:
                continue
            if how == "lose":
                if not flight.connected:
                    flight.connect()
                flight.lose()
            elif not flight.answering:
                flight.answer(b"1", int(how))

    @rule()
    def wait_for_hedges(self) -> None:
        self.router.scheduler.advance(0.1)

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
        what=st.sampled_from(
            ["connect", "answer", "json", "refused", "piece", "lose", "bad", "error"]
        ),
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
            case "json" if not flight.answering:
                flight.answer_json(data.draw(st.sampled_from([b"{}", b"x" * 60])))
            case "error" if not flight.answering:
                flight.answer(b"no", data.draw(st.sampled_from([400, 500, 503])))
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
        running: Counter[Endpoint] = Counter()
        accounts: Counter[str] = Counter()
        sessions: Counter[SessionRoute] = Counter()
        lines: Counter[str] = Counter()
        for call, sink in self.calls:
            assert len(sink.ends) == (1 if call.done else 0)
            account = call.tenant.account.name
            waits = call in list(call.session.waiting)
            assert waits == call.in_line
            if call.endpoint is not None:
                running[call.endpoint] += 1
                accounts[account] += 1
                sessions[call.session] += 1
            if call.hedge is not None:
                assert call.endpoint is not None
                assert call.hedge.endpoint is not None
                running[call.hedge.endpoint] += 1
            if call.done:
                assert call.endpoint is None
                assert call.flight is None
                assert not waits
            else:
                assert (call.endpoint is not None) != waits
            lines[account] += waits
        assert self.router.dispatcher.active == sum(not call.done for call, _ in self.calls)
        assert self.router.meters.requests == sum(call.done for call, _ in self.calls)
        for name in ACCOUNTS:
            load = self.router.dispatcher.account(name)
            assert (load.running, load.waiting) == (accounts[name], lines[name])
            assert load.running <= 3
        self.endpoints |= set(running)
        for session in {call.session for call, _ in self.calls}:
            assert session.running == sessions[session]
        for name in SESSIONS:
            route_of = self.router.table.find(name)
            self.endpoints |= set(route_of.endpoints) if route_of is not None else set()
        for endpoint in self.endpoints:
            assert endpoint.outstanding == running[endpoint]
        assert self.router.running == running.total()

    @invariant()
    def nobody_waits_beside_a_free_replica(self) -> None:
        dispatcher = self.router.dispatcher
        for name in SESSIONS:
            session = self.router.table.find(name)
            if session is None or not session.waiting:
                continue
            tried = [call for call in session.waiting if call.connect_failure or call.sent]
            assert len(session.waiting) <= 3 + len(tried)
            if session.max_in_flight and session.running >= session.max_in_flight:
                continue
            if all(dispatcher.account(a).running >= 3 for a in ACCOUNTS):
                continue
            waiting = {call.tenant.account.name for call in session.waiting}
            if all(dispatcher.account(account).running >= 3 for account in waiting):
                continue
            free = [item for item in session.endpoints if item.outstanding < session.limit]
            assert all(endpoint.failures or endpoint.asides for endpoint in free)
            if not any(map(is_healthy, session.endpoints)):
                assert all(endpoint.failures for endpoint in free)

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


CallsMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=50, deadline=None
)
TestCalls: Any = CallsMachine.TestCase
