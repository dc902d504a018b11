"""The routes, as they are told."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import (
    ROUTE_STATE_ENDED,
    Route,
    VerificationKey,
    WatchRoutesResponse,
)
from podbay_inference_router.settings import Settings
from podbay_inference_router.table import RouteTable, SessionRoute
from podbay_inference_router.tenancy import AccountLoad
from tests.support.router_fakes import route
from tests.support.router_table import FakeUpstream


def make() -> RouteTable:
    return RouteTable(FakeUpstream, Settings(max_connections=100))


def apply(table: RouteTable, *routes: Route, now: float = 0.0, **fields: object) -> None:
    table.apply(WatchRoutesResponse(routes=routes, **fields), now)


def find(table: RouteTable, session_id: str = "s") -> SessionRoute:
    session = table.find(session_id)
    assert session is not None
    return session


def test_a_snapshot_replaces_everything() -> None:
    table = make()
    assert not table.synced
    apply(table, route("a", [1]), route("b", [2]), snapshot=True, revision=3)
    assert table.synced
    changes = table.apply(WatchRoutesResponse(routes=[route("b", [2])], snapshot=True), 1.0)
    assert [session.session_id for session in changes.removed] == ["a"]
    assert table.find("a") is None
    assert len(table) == 1


def test_a_change_leaves_the_others_alone() -> None:
    table = make()
    apply(table, route("a", [1]), snapshot=True)
    apply(table, route("b", [2]), revision=9)
    assert len(table) == 2
    assert table.revision == 9
    apply(table, removed_sessions=["a", "never-there"])
    assert table.find("a") is None


def test_keys_stay_until_new_ones_are_told() -> None:
    table = make()
    key = VerificationKey(kid="k", ed25519_public_key=b"x" * 32)
    assert table.apply(WatchRoutesResponse(keys=[key]), 0.0).keys
    assert not table.apply(WatchRoutesResponse(), 0.0).keys
    assert table.keys == {"k": b"x" * 32}


def test_an_endpoint_that_stays_keeps_what_it_runs() -> None:
    table = make()
    apply(table, route("s", [1, 2]))
    first, second = find(table).endpoints
    first.outstanding = 5
    apply(table, route("s", [1]))
    assert find(table).endpoints == [first]
    assert second.gone
    assert isinstance(second.upstream, FakeUpstream)
    assert second.upstream.closed
    assert not first.gone


def test_a_replica_at_another_address_is_another_endpoint() -> None:
    table = make()
    apply(table, route("s", [1]))
    before = find(table).endpoints[0]
    apply(table, route("s", [2]))
    assert before.gone
    assert find(table).endpoints[0] is not before


def test_a_route_tells_its_limits() -> None:
    table = make()
    told = route(
        "s",
        [1],
        epoch=4,
        max_concurrency=3,
        safe_to_retry=True,
        queue_timeout=Duration(seconds=1, nanos=500_000_000),
        queue_length=0,
        max_in_flight=7,
        hedge_after=Duration(nanos=250_000_000),
        expires=Timestamp(seconds=77),
        message="why",
        evidence={"a": "b"},
    )
    apply(table, told)
    session = find(table)
    assert session.known
    assert (session.epoch, session.limit, session.safe_to_retry) == (4, 3, True)
    assert (session.queue_timeout, session.expires) == (1.5, 77.0)
    assert (session.message, session.evidence) == ("why", {"a": "b"})
    assert (session.queue_length, session.max_in_flight, session.hedge_after) == (0, 7, 0.25)
    apply(table, route("s", [1], hedge_after=Duration(seconds=1)))
    assert session.hedge_after == 0.0, "it is not safe to send a call twice"
    apply(table, route("s", [1]))
    assert (session.queue_length, session.max_in_flight) == (None, 0)
    assert (session.queue_timeout, session.expires, session.limit) == (None, 0.0, 100)


def test_an_ended_session_has_no_endpoints() -> None:
    table = make()
    apply(table, route("s", [1]))
    apply(table, route("s", [1], state=ROUTE_STATE_ENDED))
    session = find(table)
    assert session.ended == errors_pb2.ERROR_REASON_SESSION_TERMINATED
    assert session.endpoints == []
    apply(
        table,
        route("s", state=ROUTE_STATE_ENDED, ended_reason=errors_pb2.ERROR_REASON_SESSION_FAILED),
    )
    assert session.ended == errors_pb2.ERROR_REASON_SESSION_FAILED


def test_the_time_since_a_session_was_ready_is_known() -> None:
    table = make()
    apply(table, route("s"), now=1.0)
    session = find(table)
    assert session.seconds_since_ready(5.0) is None
    apply(table, route("s", [1]), now=10.0)
    assert session.seconds_since_ready(50.0) == 0.0
    apply(table, route("s"), now=60.0)
    assert session.seconds_since_ready(65.0) == 5.0


def test_an_expected_session_is_filled_in_when_it_is_told() -> None:
    table = make()
    session = table.expect("s")
    assert table.expect("s") is session
    apply(table, snapshot=True)
    assert table.find("s") is session
    apply(table, route("s", [1]), snapshot=True)
    assert table.find("s") is session
    assert session.known
    table.forget_unknown(session)
    assert table.find("s") is session


def test_an_expected_session_is_forgotten() -> None:
    table = make()
    session = table.expect("s")
    tenant = session.tenant(AccountLoad("acct"))
    session.waiting.add("call", tenant)
    table.forget_unknown(session)
    assert table.find("s") is session
    session.waiting.remove("call", tenant)
    table.forget_unknown(session)
    assert table.find("s") is None
