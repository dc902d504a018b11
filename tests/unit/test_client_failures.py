"""What a client tells the router of what failed on its own side."""

from __future__ import annotations

import pytest

from podbay._core.client_failures import ClientFailures, failure_of
from podbay._core.inference import CallShape
from podbay.errors import InvalidRequestError, error_for
from podbay.schema.adapters import AdapterError
from podbay.v1 import errors_pb2

INTERFACE = {
    "endpoint": "e",
    "outputSchema": {"arrowSchema": ""},
    "inputPipeline": [{"kind": "Select", "configuration": {"fields": ["text"]}}],
}


def adapter_error(step: int = 0) -> AdapterError:
    return AdapterError("the item has no member 'text'", kind="Select", step=step)


def test_an_adapter_tells_its_place_and_nothing_of_the_item() -> None:
    shape = CallShape(INTERFACE, None, None, None)
    with pytest.raises(AdapterError) as caught:
        shape.prepare({"secret": "secret"})
    failure = failure_of(caught.value)
    assert failure is not None
    assert failure.reason == errors_pb2.ERROR_REASON_ADAPTER_FAILED
    assert failure.message == str(caught.value)
    assert dict(failure.metadata) == {"step": "0", "kind": "Select"}
    assert b"secret" not in failure.SerializeToString()


def test_what_is_no_json_is_told() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        CallShape(None, "e", None, None).prepare(float("nan"))
    assert (caught.value.reason, caught.value.not_started) == ("MALFORMED_JSON", True)
    failure = failure_of(caught.value)
    assert failure is not None
    assert failure.message == caught.value.message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the caller's own adapter says what it likes"),
        error_for("REPLICA_BAD_ANSWER", "counted by nobody else's word"),
        error_for("QUEUE_FULL", "the router has counted it"),
    ],
)
def test_what_is_not_for_the_router_is_not_told(error: Exception) -> None:
    assert failure_of(error) is None
    failures = ClientFailures()
    assert not failures.note(error)
    assert failures.next() is None


def test_texts_are_cut_and_can_be_sent() -> None:
    error = AdapterError("é" * 2000 + "\ud800", kind="K" * 2000, step=1)
    failure = failure_of(error)
    assert failure is not None
    assert len(failure.message.encode()) <= 1024
    assert all(len(k.encode()) + len(v.encode()) <= 1024 for k, v in failure.metadata.items())


def test_one_is_under_way_and_the_rest_is_summed_up() -> None:
    failures = ClientFailures()
    for step in range(5):
        assert failures.note(adapter_error(step))
        if step == 0:
            first = failures.next()
    assert first is not None
    assert first.count == 1
    assert failures.next() is None
    failures.done(told=True)
    rest = failures.next()
    assert rest is not None
    assert (rest.count, rest.metadata["step"]) == (4, "4")
    failures.done(told=True)
    assert failures.next() is None


def test_what_was_not_told_is_told_with_the_next() -> None:
    failures = ClientFailures()
    failures.note(adapter_error(1))
    assert failures.next() is not None
    failures.note(adapter_error(2))
    failures.done(told=False)
    again = failures.next()
    assert again is not None
    assert (again.count, again.metadata["step"]) == (2, "2")
