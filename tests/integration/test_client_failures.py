"""What fails at the client is told to the router, by both faces, and holds nobody up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podbay.errors import InvalidRequestError
from podbay.schema.adapters import AdapterError, create_pipeline
from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as wire
from tests.support.client_faces import AsyncFace, SyncFace
from tests.support.eventually import eventually_sync
from tests.support.fake_router import FakeStream
from tests.support.fake_services import FakeInstallation

ADAPTER = errors_pb2.ERROR_REASON_ADAPTER_FAILED
SELECT = [{"kind": "Select", "configuration": {"fields": ["text"]}}]


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
def client(face: Any, installation: FakeInstallation) -> Iterator[Any]:
    with face.client(installation.registry.address) as made:
        yield made


@pytest.fixture
def connect(client: Any) -> Callable[..., Any]:
    """Return clients of a session whose pipelines take nothing but items with a text."""

    def made(**adapters: Any) -> Any:
        given = adapters or {"input_adapter": create_pipeline(SELECT)}
        return client.inferencesessions.client("s", "t", endpoint="e", **given)

    return made


def take(stream: FakeStream, call: wire.Call) -> None:
    """Answer as a router does: with the body, or with nothing where something is told."""
    if call.HasField("client_failure"):
        stream.answer(call.id)
    else:
        stream.answer(call.id, call.json)


@pytest.fixture(autouse=True)
def _taking(installation: FakeInstallation) -> None:
    installation.router.on_call = take


def failures(installation: FakeInstallation) -> list[wire.ClientFailure]:
    calls = installation.router.calls
    return [call.client_failure for call in calls if call.HasField("client_failure")]


def test_a_step_that_fails_is_told_before_the_client_is_closed(
    connect: Callable[..., Any], installation: FakeInstallation
) -> None:
    calls = connect()
    with pytest.raises(AdapterError):
        calls.infer({"secret": "secret"})
    calls.close()
    (failure,) = failures(installation)
    assert (failure.reason, failure.count) == (ADAPTER, 1)
    assert failure.message == "Adapter 0 (Select): the item has no member 'text'"
    assert dict(failure.metadata) == {"step": "0", "kind": "Select"}
    assert [call.json for call in installation.router.calls] == [b""]


def test_so_is_one_that_fails_on_an_answer(
    connect: Callable[..., Any], installation: FakeInstallation
) -> None:
    calls = connect(output_adapter=create_pipeline(SELECT))
    with pytest.raises(AdapterError):
        calls.infer({"other": 1})
    with pytest.raises(AdapterError):
        list(calls.stream({"other": 1}))
    (result,) = calls.infer_many([{"other": 1}])
    assert isinstance(result.error, AdapterError)
    calls.close()
    assert sum(failure.count for failure in failures(installation)) == 3


def test_what_cannot_be_sent_is_told(
    connect: Callable[..., Any], installation: FakeInstallation
) -> None:
    calls = connect(input_adapter=iter)
    with pytest.raises(InvalidRequestError):
        calls.infer(float("nan"))
    with pytest.raises(InvalidRequestError):
        calls.stream(object())
    calls.close()
    told = failures(installation)
    assert {failure.reason for failure in told} == {errors_pb2.ERROR_REASON_MALFORMED_JSON}
    assert sum(failure.count for failure in told) == 2


def test_many_that_fail_are_summed_up_and_good_ones_go_on(
    connect: Callable[..., Any], installation: FakeInstallation
) -> None:
    calls = connect()
    bodies = [{"text": "a"} if number % 10 == 0 else {} for number in range(500)]
    results = list(calls.infer_many(bodies))
    assert sum(result.error is None for result in results) == 50
    calls.close()
    told = failures(installation)
    assert sum(failure.count for failure in told) == 450
    assert len(told) < 450


def test_what_an_adapter_of_the_callers_own_raises_is_not_told(
    connect: Callable[..., Any], installation: FakeInstallation
) -> None:
    def broken(_items: Any) -> Any:
        raise ValueError("secret")

    calls = connect(input_adapter=broken)
    with pytest.raises(ValueError, match="secret"):
        calls.infer({})
    calls.close()
    assert installation.router.streams == []


def test_a_router_that_does_not_answer_holds_nobody_up(
    connect: Callable[..., Any], installation: FakeInstallation
) -> None:
    installation.router.on_call = lambda _stream, _call: None
    calls = connect()
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(AdapterError):
            calls.infer({})
    raised = time.monotonic()
    calls.close()
    # Twenty failures wait for nothing, and the end waits for a second.
    assert raised - began < 1.0
    assert time.monotonic() - raised < 10.0
    eventually_sync(lambda: len(failures(installation)) == 1, "one of them was on its way")


def test_a_router_that_knows_nothing_of_it_is_told_once_each_time(
    connect: Callable[..., Any], installation: FakeInstallation
) -> None:
    def refuse(stream: FakeStream, call: wire.Call) -> None:
        stream.fail(call.id, "INVALID_REQUEST", not_started=True)

    installation.router.on_call = refuse
    calls = connect()
    for _ in range(3):
        with pytest.raises(AdapterError):
            calls.infer({})
    calls.close()
    told = failures(installation)
    assert 1 <= len(told) <= 3
    assert told[-1].count <= 3
