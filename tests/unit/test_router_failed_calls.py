"""What routers tell of calls that failed, and what they keep to themselves."""

from __future__ import annotations

import pytest

from podbay.v1 import errors_pb2, inference_router_service_pb2
from podbay.v1.inference_router_service_pb2 import Call, ClientFailure, ExchangeRequest
from podbay.v1.session_manager_service_pb2 import FailedCalls as Told
from podbay_inference_router import failures
from podbay_inference_router.errors_map import refused
from podbay_inference_router.exchange import ExchangeStream
from podbay_inference_router.failed_calls import FailedCalls, client_failure_fault, message_of
from podbay_inference_router.tokens import Claims
from tests.support.router_fakes import route
from tests.support.router_table import FakeRouter

ADAPTER = errors_pb2.ERROR_REASON_ADAPTER_FAILED


def told(failed: FailedCalls, now: float = 0.0) -> list[Told]:
    return [message_of(row, now) for row in failed.take()]


def refusal(
    status: int, body: bytes, request: bytes = b"{}", location: str = ""
) -> errors_pb2.CallError:
    return refused(
        status,
        body,
        retry_after="",
        location=location,
        session_id="s",
        replica_id="r",
        request_json=request,
    )


class Seconds:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_they_are_summed_up_by_session_and_reason() -> None:
    clock = Seconds()
    failed = FailedCalls(clock)
    assert not failed.any
    for clock.now in (1.0, 2.0, 3.0):
        failed.note("s", failures.queue_full("s", int(clock.now), 0.1))
    failed.note("t", failures.queue_full("t", 9, 0.1))
    failed.note("s", failures.token_expired())
    assert failed.any
    first, *rest = told(failed, now=5.0)
    assert (first.session_id, first.reason, first.count) == (
        "s",
        errors_pb2.ERROR_REASON_QUEUE_FULL,
        3,
    )
    assert (first.first_age.ToMilliseconds(), first.last_age.ToMilliseconds()) == (4000, 2000)
    assert first.metadata["waiting"] == "3"
    assert [(one.session_id, one.count) for one in rest] == [("t", 1), ("s", 1)]
    assert not failed.any
    assert told(failed) == []


def test_what_nobody_has_to_mend_is_not_told() -> None:
    failed = FailedCalls(Seconds())
    failed.note("s", failures.cancelled(not_started=True))
    failed.note("s", failures.draining())
    assert not failed.any


def test_what_a_replica_says_of_its_own_failure_is_told() -> None:
    failed = FailedCalls(Seconds())
    failed.note("s", refusal(500, b"the weights are all zero"))
    (one,) = told(failed)
    assert one.message == "Replica r answered with HTTP status 500: the weights are all zero"
    assert one.metadata["detail"] == "the weights are all zero"


@pytest.mark.parametrize("status", [400, 404, 422, 429])
@pytest.mark.parametrize("request_json", [b"{}", b"{ secret"])
def test_what_a_replica_says_of_a_body_is_not_told(status: int, request_json: bytes) -> None:
    failed = FailedCalls(Seconds())
    failed.note("s", refusal(status, b'{"input": "secret"}', request_json))
    (one,) = told(failed)
    assert b"secret" not in one.SerializeToString()
    assert one.metadata["httpStatus"] == str(status)


def test_where_a_replica_sends_a_call_is_not_told() -> None:
    failed = FailedCalls(Seconds())
    failed.note("s", refusal(307, b"", location="http://r/?q=secret"))
    (one,) = told(failed)
    assert b"secret" not in one.SerializeToString()


def test_all_of_it_is_bounded() -> None:
    failed = FailedCalls(Seconds())
    for number in range(3000):
        failed.note(f"s{number}", refusal(500, b"\xc3\xa9" * 2000))
    lists = []
    while failed.any:
        lists.append(told(failed))
    assert [len(one) for one in lists] == [100] * 10
    # The oldest made room.
    assert lists[0][0].session_id == "s2000"
    for message in lists[0]:
        assert len(message.message.encode()) <= 1024
        assert all(len(value.encode()) <= 1024 for value in message.metadata.values())


def test_no_character_steers_a_terminal() -> None:
    failed = FailedCalls(Seconds())
    error = refusal(500, b"gone")
    error.metadata["detail"] = "\x1b[2Jgone\r\nline\t1\x07"
    failed.note("s", error)
    (one,) = told(failed)
    assert one.metadata["detail"] == "�[2Jgone�\nline\t1�"


@pytest.mark.parametrize(
    ("field", "failure"),
    [
        ("reason", ClientFailure(reason=errors_pb2.ERROR_REASON_INTERNAL, message="m", count=1)),
        ("reason", ClientFailure(message="m", count=1)),
        ("message", ClientFailure(reason=ADAPTER, count=1)),
        ("message", ClientFailure(reason=ADAPTER, message="é" * 513, count=1)),
        ("count", ClientFailure(reason=ADAPTER, message="m")),
        ("count", ClientFailure(reason=ADAPTER, message="m", count=1_000_001)),
        (
            "metadata",
            ClientFailure(reason=ADAPTER, message="m", count=1, metadata={"k": "v" * 1024}),
        ),
        (
            "metadata",
            ClientFailure(
                reason=ADAPTER, message="m", count=1, metadata={str(n): "" for n in range(17)}
            ),
        ),
    ],
)
def test_what_clients_tell_has_bounds(field: str, failure: ClientFailure) -> None:
    fault = client_failure_fault(failure)
    assert fault is not None
    assert fault[0] == f"clientFailure.{field}"


async def test_what_a_client_tells_goes_to_no_replica_and_counts_for_its_tokens_session() -> None:
    router = FakeRouter()
    router.apply(route("s", [1]))
    stream = ExchangeStream(router.dispatcher, Claims("s", "acct", 1, 9000.0), lambda: router.wall)
    failure = ClientFailure(reason=ADAPTER, message="Adapter 0", count=7, metadata={"step": "0"})
    bad = ClientFailure(reason=errors_pb2.ERROR_REASON_SESSION_FAILED, message="m", count=1)
    stream.accept(
        ExchangeRequest(calls=[Call(id=1, client_failure=failure), Call(id=2, client_failure=bad)])
    )
    assert router.upstreams[0].flights == []
    stream.half_close()
    messages: list[inference_router_service_pb2.ExchangeResponse] = []

    async def write(message: inference_router_service_pb2.ExchangeResponse) -> None:
        messages.append(message)

    await stream.write_to(write)
    well, badly = [result for message in messages for result in message.results]
    assert (well.id, well.done, well.HasField("error")) == (1, True, False)
    assert (badly.id, badly.error.reason) == (2, errors_pb2.ERROR_REASON_INVALID_REQUEST)
    assert [item.field for item in badly.error.violations] == ["clientFailure.reason"]
    counts = {
        one.reason: (one.session_id, one.count) for one in told(router.dispatcher.failed_calls)
    }
    assert counts == {
        ADAPTER: ("s", 7),
        errors_pb2.ERROR_REASON_INVALID_REQUEST: ("s", 1),
    }
