"""The Exchange stream of both faces, against a router that does as it is told."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from podbay import errors
from podbay._core.exchange import Call
from podbay.schema import adapters
from podbay.v1 import session_manager_service_pb2 as sessions
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.eventually import eventually_sync
from tests.support.fake_router import abort_with, silent
from tests.support.fake_services import FakeInstallation, status


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def face(request: Any) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def installation() -> Iterator[FakeInstallation]:
    made = FakeInstallation()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def calls(face: Any, installation: FakeInstallation) -> Iterator[Any]:
    with face.client(installation.registry.address) as client:
        yield client.inferencesessions.client("s1", "token-1", endpoint="generate")


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_infer_returns_a_list(calls: Any, installation: FakeInstallation) -> None:
    assert calls.infer({"text": "é", "n": 2**60}) == [{"text": "é", "n": 2**60}]
    call = installation.router.calls[0]
    assert (call.endpoint, call.stream) == ("generate", False)
    assert call.json == '{"text":"é","n":1152921504606846976}'.encode()
    assert 59 < call.timeout.seconds + call.timeout.nanos / 1e9 <= 60
    assert installation.router.streams[0].token == "token-1"


def test_an_array_stays_one_item_and_pieces_become_several(
    calls: Any, installation: FakeInstallation
) -> None:
    assert calls.infer([1, 2]) == [[1, 2]]
    installation.router.on_call = lambda stream, call: stream.answer(call.id, b"1", b"[2]", b"{}")
    assert calls.infer({}) == [1, [2], {}]


def test_all_calls_share_one_stream(calls: Any, installation: FakeInstallation) -> None:
    for number in range(20):
        assert calls.infer(number) == [number]
    assert len(installation.router.streams) == 1


def test_stream_yields_pieces_as_they_come(calls: Any, installation: FakeInstallation) -> None:
    router = installation.router
    router.on_call = lambda stream, call: stream.answer(call.id, b"1", done=False)
    pieces = calls.stream({})
    assert next(pieces) == 1
    # The second piece is sent only now: the first did not wait for it.
    router.streams[0].answer(router.calls[0].id, b"2")
    assert list(pieces) == [2]
    assert router.calls[0].stream


def test_a_key_travels_with_a_call(calls: Any, installation: FakeInstallation) -> None:
    assert calls.infer(1, affinity="user-1") == [1]
    assert list(calls.stream(2, affinity="user-2")) == [2]
    assert calls.infer(3) == [3]
    assert [call.affinity_key for call in installation.router.calls] == ["user-1", "user-2", ""]


def test_many_calls_have_one_key_or_each_its_own(
    calls: Any, installation: FakeInstallation
) -> None:
    def key_of(body: Any) -> Any:
        return {1: "one", 2: 2, 3: "three"}[body]

    assert [result.items for result in calls.infer_many([1, 2], affinity="all")] == [[1], [2]]
    results = list(calls.infer_many([1, 2, 3, 4], affinity=key_of))
    assert [result.items for result in results] == [[1], None, [3], None]
    assert [type(result.error) for result in results[1::2]] == [
        errors.InvalidRequestError,
        KeyError,
    ]
    keys = [call.affinity_key for call in installation.router.calls]
    assert keys == ["all", "all", "one", "three"]
    with pytest.raises(errors.InvalidRequestError, match="affinity"):
        list(calls.infer_many([1], affinity=7))


@pytest.mark.parametrize("key", [7, None, b"x", "\ud800"])
def test_a_key_that_cannot_be_sent_breaks_no_stream(
    calls: Any, installation: FakeInstallation, background: ThreadPoolExecutor, key: Any
) -> None:
    router = installation.router
    router.on_call = silent
    other = background.submit(calls.infer, 1)
    eventually_sync(lambda: len(router.calls) == 1, "the first call is under way")
    for call in (calls.infer, lambda body, **options: list(calls.stream(body, **options))):
        with pytest.raises(errors.InvalidRequestError, match="affinity"):
            call(2, affinity=key, timeout=5)
    assert not other.done()
    router.streams[0].answer(router.calls[0].id, b"1")
    assert other.result(20) == [1]
    assert len(router.streams) == 1


@pytest.mark.parametrize("timeout", [2e9, 1e10, 1e19, 1e300, pytest.param(10**400, id="huge")])
def test_a_timeout_may_be_longer_than_any_clock(calls: Any, timeout: Any) -> None:
    assert calls.infer(1, timeout=timeout) == [1]
    assert list(calls.stream(2, timeout=timeout)) == [2]
    assert [result.items for result in calls.infer_many([3], timeout=timeout)] == [[3]]


@pytest.mark.parametrize("number", [0, -1, "3", None, 1.5, float("nan")])
def test_how_many_run_at_once_is_a_number_from_one_on(calls: Any, number: Any) -> None:
    with pytest.raises(errors.InvalidRequestError, match="max_in_flight"):
        list(calls.infer_many([1, 2], max_in_flight=number))


def test_a_writer_that_fails_leaves_nobody_waiting(
    calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls.infer(1) == [1]

    for face in ("_sync", "_async"):
        monkeypatch.setattr(f"podbay.{face}.inference.text", lambda value, _field: value)
    with pytest.raises(errors.PodbayError) as caught:
        calls.infer(2, affinity="\ud800", timeout=10)
    assert caught.value.reason in ("INTERNAL", "CONNECTION_LOST")
    assert calls.infer(3, timeout=5) == [3]


@pytest.mark.parametrize(
    ("bad", "failure"), [(b"{}", adapters.ItemKeyError), (b"<", errors.ReplicaError)]
)
def test_a_bad_piece_does_not_take_those_before_it_along(
    face: Any, installation: FakeInstallation, bad: bytes, failure: type[Exception]
) -> None:
    router = installation.router
    router.on_call = lambda stream, call: stream.answer(call.id, b'{"a":[1,2]}', bad, done=False)
    explode = {"kind": "ExplodeCollections", "configuration": {"collections": ["a"]}}
    with face.client(installation.registry.address) as client:
        calls = client.inferencesessions.client(
            "s1",
            "token-1",
            endpoint="generate",
            output_adapter=adapters.create_pipeline([explode]),
        )
        pieces = calls.stream({})
        assert [next(pieces), next(pieces)] == [{"a": 1}, {"a": 2}]
        with pytest.raises(failure):
            next(pieces)
        eventually_sync(lambda: router.streams[0].cancels == [router.calls[0].id], "the cancel")


def test_closing_a_stream_cancels_the_call(calls: Any, installation: FakeInstallation) -> None:
    router = installation.router
    router.on_call = lambda stream, call: stream.answer(call.id, b"1", done=False)
    pieces = calls.stream({})
    assert next(pieces) == 1
    pieces.close()
    eventually_sync(lambda: router.streams[0].cancels == [router.calls[0].id], "the cancel")
    router.on_call = lambda stream, call: stream.answer(call.id, b"3")
    assert calls.infer({}) == [3]


def test_a_deadline_is_enforced_at_the_client_and_cancels(
    calls: Any, installation: FakeInstallation
) -> None:
    installation.router.on_call = silent
    with pytest.raises(errors.DeadlineExceededError, match="did not answer within 0.05 s"):
        calls.infer({}, timeout=0.05)
    call = installation.router.calls[0]
    assert call.timeout.seconds == 0
    assert 0 < call.timeout.nanos <= 50_000_000
    stream = installation.router.streams[0]
    eventually_sync(lambda: stream.cancels == [call.id], "the cancel")


def test_errors_of_calls_keep_all_facts(calls: Any, installation: FakeInstallation) -> None:
    def refuse(stream: Any, call: Any) -> None:
        stream.fail(
            call.id,
            "REPLICA_REFUSED",
            message="The replica answered 418.",
            metadata={"httpStatus": "418", "body": "teapot"},
        )

    installation.router.on_call = refuse
    with pytest.raises(errors.ReplicaError) as caught:
        calls.infer({})
    assert caught.value.http_status == caught.value.status_code == 418
    assert "teapot" in str(caught.value)


def test_an_answer_that_is_not_json_is_an_error(calls: Any, installation: FakeInstallation) -> None:
    installation.router.on_call = lambda stream, call: stream.answer(call.id, b"<html>")
    with pytest.raises(errors.ReplicaError) as caught:
        calls.infer({})
    assert caught.value.reason == "REPLICA_BAD_ANSWER"
    assert "<html>" not in str(caught.value)
    where = {"session": "s1", "replica": "r1"}
    assert caught.value.metadata == where
    (result,) = calls.infer_many([{}])
    assert result.error.metadata == where
    # What came before it is yielded, though it came in the same message.
    installation.router.on_call = lambda stream, call: stream.answer(call.id, b"1", b"<", b"3")
    pieces = calls.stream({})
    assert next(pieces) == 1
    with pytest.raises(errors.ReplicaError) as caught:
        next(pieces)
    assert caught.value.metadata == where


def test_in_flight_calls_fail_with_a_lost_stream_and_the_next_ones_do_not(
    calls: Any, installation: FakeInstallation, background: ThreadPoolExecutor
) -> None:
    router = installation.router
    assert calls.infer(0) == [0]
    router.on_call = silent
    lost = background.submit(calls.infer, 1)
    eventually_sync(lambda: len(router.calls) == 2, "the call at the router")
    port = router.port
    router.stop()
    with pytest.raises(errors.ConnectionLostError, match="in flight") as caught:
        lost.result(timeout=30)
    assert caught.value.reason == "CONNECTION_LOST"
    assert isinstance(caught.value, ConnectionError)
    # Nobody listens now: this call waits for the router instead of failing.
    waiting = background.submit(calls.infer, 2)
    router.on_call = lambda stream, call: stream.answer(call.id, call.json)
    router.start(port)
    assert waiting.result(timeout=30) == [2]
    assert [call.json for call in router.calls].count(b"1") == 1


def test_draining_moves_new_calls_and_lets_old_ones_finish(
    calls: Any, installation: FakeInstallation, background: ThreadPoolExecutor
) -> None:
    router = installation.router
    router.on_call = silent
    old = background.submit(calls.infer, "old")
    eventually_sync(lambda: len(router.calls) == 1, "the call at the router")
    first = router.streams[0]
    router.on_call = lambda stream, call: stream.answer(call.id, call.json)
    first.drain()

    def moved() -> bool:
        assert calls.infer("new") == ["new"]
        return len(router.streams) == 2

    eventually_sync(moved, "a second stream")
    assert not old.done()
    first.answer(first.calls[0].id, b'"finished"')
    assert old.result(timeout=30) == ["finished"]
    assert first.half_closed.wait(30)


@pytest.mark.parametrize("moved", [False, True], ids=["nobody-drives", "another-drives"])
def test_calls_that_a_drained_stream_gives_back_go_to_the_next_one(
    calls: Any, installation: FakeInstallation, background: ThreadPoolExecutor, moved: bool
) -> None:
    router = installation.router
    router.on_call = silent
    old = background.submit(calls.infer, "old")
    eventually_sync(lambda: len(router.calls) == 1, "the call at the router")
    first = router.streams[0]
    router.on_call = lambda stream, call: stream.answer(call.id, call.json)
    first.drain()
    if moved:

        def second_stream() -> bool:
            assert calls.infer("new") == ["new"]
            return len(router.streams) == 2

        eventually_sync(second_stream, "a second stream")
    first.end(
        lambda context: abort_with(
            context,
            grpc.StatusCode.UNAVAILABLE,
            "ROUTER_DRAINING",
            "The router stops.",
            {"notStarted": "true"},
        )
    )
    assert old.result(timeout=30) == ["old"]


@pytest.mark.parametrize("reason", ["ROUTER_DRAINING", "ROUTER_NOT_SYNCED"])
def test_a_call_that_was_not_begun_is_sent_again(
    calls: Any, installation: FakeInstallation, reason: str
) -> None:
    router = installation.router

    def once(stream: Any, call: Any) -> None:
        if len(router.calls) < 3:
            stream.fail(call.id, reason, not_started=True)
        else:
            stream.answer(call.id, call.json)

    router.on_call = once
    assert calls.infer("x") == ["x"]
    assert len(router.calls) == 3


def test_other_errors_are_not_sent_again(calls: Any, installation: FakeInstallation) -> None:
    installation.router.on_call = lambda stream, call: stream.fail(
        call.id, "SESSION_NOT_READY", not_started=True
    )
    with pytest.raises(errors.SessionNotReadyError):
        calls.infer("x")
    assert len(installation.router.calls) == 1


def test_wait_waits_until_the_session_is_ready(calls: Any, installation: FakeInstallation) -> None:
    ready = threading.Event()

    def watch(request: Any, _context: Any) -> Iterator[Any]:
        yield status(request.id, ready=False)
        ready.set()
        yield status(request.id, ready=True)

    def answer(stream: Any, call: Any) -> None:
        if ready.is_set():
            stream.answer(call.id, call.json)
        else:
            stream.fail(call.id, "SESSION_NOT_READY", not_started=True)

    installation.sessions.handlers["WatchInferenceSessionStatus"] = watch
    installation.router.on_call = answer
    assert calls.infer("x", wait=True) == ["x"]


@pytest.mark.parametrize("where", ["stream", "call"])
def test_an_expired_token_is_replaced_once(
    calls: Any, installation: FakeInstallation, where: str
) -> None:
    router = installation.router
    installation.sessions.handlers["CreateSessionToken"] = lambda request, context: (
        sessions.CreateSessionTokenResponse(token="token-2")
    )

    def on_open(stream: Any, context: Any) -> None:
        if stream.token == "token-1" and where == "stream":
            abort_with(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", "It expired.")

    def on_call(stream: Any, call: Any) -> None:
        if stream.token == "token-1":
            stream.fail(call.id, "TOKEN_EXPIRED", not_started=True)
        else:
            stream.answer(call.id, call.json)

    router.on_open, router.on_call = on_open, on_call
    results = list(calls.infer_many(range(50)))
    assert [result.items for result in results] == [[n] for n in range(50)]
    assert len(installation.sessions.asked("CreateSessionToken")) == 1
    assert {token for name, _, token in installation.sessions.requests} == {"api-token"}


def test_a_fresh_token_that_has_expired_is_an_error(
    calls: Any, installation: FakeInstallation
) -> None:
    installation.sessions.handlers["CreateSessionToken"] = lambda request, context: (
        sessions.CreateSessionTokenResponse(token="token-2")
    )
    installation.router.on_call = lambda stream, call: stream.fail(
        call.id, "TOKEN_EXPIRED", not_started=True
    )
    with pytest.raises(errors.AuthenticationError):
        calls.infer({})
    assert len(installation.sessions.asked("CreateSessionToken")) == 1


def test_a_refused_stream_fails_its_calls_with_the_reason(
    calls: Any, installation: FakeInstallation
) -> None:
    installation.router.on_open = lambda stream, context: abort_with(
        context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED", "It was revoked."
    )
    for _ in range(2):
        with pytest.raises(errors.AuthenticationError) as caught:
            calls.infer({})
        assert caught.value.reason == "TOKEN_REVOKED"


@pytest.mark.parametrize("ordered", [True, False])
def test_infer_many(calls: Any, installation: FakeInstallation, ordered: bool) -> None:
    router = installation.router
    held: list[tuple[Any, Any]] = []

    def backwards(stream: Any, call: Any) -> None:
        # Answers in fours, the last first.
        held.append((stream, call))
        if len(held) == 4:
            for one, other in reversed(held):
                one.answer(other.id, other.json)
            held.clear()

    router.on_call = backwards
    results = list(calls.infer_many(range(40), max_in_flight=4, ordered=ordered))
    assert sorted(r.index for r in results) == list(range(40))
    assert all(r.items == [r.index] and r.error is None for r in results)
    assert ([r.index for r in results] == list(range(40))) is ordered


def test_infer_many_takes_bodies_when_there_is_room(
    calls: Any, installation: FakeInstallation
) -> None:
    taken = 0

    def bodies() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = calls.infer_many(bodies(), max_in_flight=8)
    for index in range(100):
        assert next(results).index == index
        assert taken <= index + 1 + 2 * 8
    results.close()


def test_infer_many_keeps_errors_with_their_items(
    calls: Any, installation: FakeInstallation
) -> None:
    def some(stream: Any, call: Any) -> None:
        if call.json == b"2":
            stream.fail(call.id, "REPLICA_REFUSED")
        else:
            stream.answer(call.id, call.json)

    installation.router.on_call = some
    results = list(calls.infer_many([1, 2, float("nan"), 4]))
    assert [r.index for r in results] == [0, 1, 2, 3]
    assert [r.items for r in results] == [[1], None, None, [4]]
    assert isinstance(results[1].error, errors.ReplicaError)
    assert isinstance(results[2].error, errors.InvalidRequestError)
    with pytest.raises(errors.ReplicaError):
        results[1].unwrap()


def test_leaving_infer_many_cancels_the_rest(calls: Any, installation: FakeInstallation) -> None:
    router = installation.router

    def first_only(stream: Any, call: Any) -> None:
        if call.json == b"0":
            stream.answer(call.id, call.json)

    router.on_call = first_only
    results = calls.infer_many(range(10), max_in_flight=4)
    assert next(results).items == [0]
    results.close()
    unanswered = {call.id for call in router.calls if call.json != b"0"}
    eventually_sync(lambda: set(router.streams[0].cancels) == unanswered, "the cancels")


def test_infer_many_enforces_each_deadline(calls: Any, installation: FakeInstallation) -> None:
    def odd_only(stream: Any, call: Any) -> None:
        if int(call.json) % 2:
            stream.answer(call.id, call.json)

    installation.router.on_call = odd_only
    results = list(calls.infer_many(range(6), timeout=0.1))
    assert [r.items for r in results] == [None, [1], None, [3], None, [5]]
    assert all(isinstance(r.error, errors.DeadlineExceededError) for r in results[::2])


def test_an_error_of_the_bodies_cancels_the_rest(
    calls: Any, installation: FakeInstallation
) -> None:
    installation.router.on_call = silent

    def bodies() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(calls.infer_many(bodies()))
    router = installation.router
    eventually_sync(lambda: all(s.cancels for s in router.streams if s.calls), "the cancels")


def test_closing_cancels_what_is_in_flight(
    calls: Any, installation: FakeInstallation, background: ThreadPoolExecutor
) -> None:
    router = installation.router
    router.on_call = silent
    waiting = [background.submit(calls.infer, n) for n in range(3)]
    eventually_sync(lambda: len(router.calls) == 3, "the calls at the router")
    calls.close()
    for one in waiting:
        with pytest.raises(errors.CancelledCallError, match="closed"):
            one.result(timeout=30)
    calls.close()
    with pytest.raises(errors.CancelledCallError, match="closed"):
        calls.infer({})
    assert router.streams[0].ended.wait(30)


def test_closing_the_client_closes_its_session_clients(
    face: Any, installation: FakeInstallation, background: ThreadPoolExecutor
) -> None:
    installation.router.on_call = silent
    with face.client(installation.registry.address) as client:
        calls = client.inferencesessions.client("s1", "token-1", endpoint="generate")
        waiting = background.submit(calls.infer, 1)
        eventually_sync(lambda: installation.router.calls, "the call at the router")
    with pytest.raises(errors.CancelledCallError):
        waiting.result(timeout=30)


def test_a_router_that_is_not_there_is_named(
    face: Any, installation: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("podbay._sync.exchange", "podbay._async.exchange"):
        monkeypatch.setattr(f"{module}.FIRST_CONTACT_SECONDS", 0.3)
    address = installation.router.address
    installation.router.stop()
    with face.client(installation.registry.address) as client:
        calls = client.inferencesessions.client("s1", "token-1", endpoint="generate")
        with pytest.raises(errors.UnavailableError) as caught:
            calls.infer({})
    assert caught.value.reason == "SERVICE_UNREACHABLE"
    assert address in str(caught.value)
    assert "podbay up" in str(caught.value)


def test_ten_thousand_failed_calls_leave_nothing(
    calls: Any, installation: FakeInstallation
) -> None:
    installation.router.on_call = lambda stream, call: stream.fail(call.id, "REPLICA_REFUSED")
    calls_before = _remaining_calls()
    threads = threading.active_count()
    failed = sum(
        isinstance(result.error, errors.ReplicaError)
        for result in calls.infer_many(itertools.repeat({}, 9_900), max_in_flight=64)
    )
    for _ in range(100):
        with pytest.raises(errors.ReplicaError):
            calls.infer({})
    assert failed == 9_900
    installation.router.on_call = lambda stream, call: stream.answer(call.id, b"1")
    assert calls.infer({}) == [1]
    assert len(installation.router.streams) == 1
    assert _remaining_calls() - calls_before <= 2
    # The stream's reader, gRPC's own, and the fake router's.
    assert threading.active_count() - threads <= 8


def _remaining_calls() -> int:
    gc.collect()
    return sum(type(thing) is Call for thing in gc.get_objects())
