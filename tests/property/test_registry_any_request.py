"""Whatever is sent to the registry, it answers with a reason of the catalogue and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podbay.v1 import errors_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_registry.fetcher import FetchOptions
from tests.support.registry import (
    SERVICE_TOKEN,
    Registry,
    image_service,
    local_service,
    mock_model,
    running_registry,
)
from tests.support.rpc import details_of

_SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"]
_METHODS = sorted(_SERVICE.methods_by_name)
_REASONS = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118 # an enum wrapper is no mapping
_BAD = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
_DEPTH = 6

_TEXTS = st.one_of(
    st.sampled_from(
        [
            *("", "*", "admin", "0.1", "Mock", "mock", "container", "GPU", "x\n", "\0", "a/b"),
            *("creationTime", "name", "labels.x", "\u202e", "9" * 400, "1Gi", "-1", "é" * 300),
            *("{}", "[]", "[{}]", '{"status": "\\ud800"}', '{"a": 1e999}', "NaN", "[" * 2000),
            *('{"metadata.documentation.title": null}', '{"name": ["a", null]}', "sha256:0"),
            *("podbay.local.mocks.TextCompletion", "TransformJSON", "title", "/srv", "PORT"),
            "runner.args",
        ]
    ),
    st.text(max_size=20),
)
_KNOWN: list[str] = []
_NUMBERS = {
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 5),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5),
    FieldDescriptor.TYPE_ENUM: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 3),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FIXED32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
}


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        known = st.deferred(lambda: st.sampled_from(_KNOWN or [""]))
        return known | _TEXTS if field.name in {"id", "model", "secret"} else _TEXTS
    return _NUMBERS[field.type]


@st.composite
def _messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Message:
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        # Most fields of the outer messages are set, or nearly all requests would end early.
        if draw(st.integers(0, 4)) > (3 if depth < 3 else 1):
            continue
        inner = field.message_type
        if inner is None:
            value = draw(
                st.lists(_scalar(field), max_size=3) if field.is_repeated else _scalar(field)
            )
            _put(message, field, value)
        elif inner.GetOptions().map_entry:
            _put_map(draw, message, field, depth)
        elif depth < _DEPTH:
            if field.is_repeated:
                for _ in range(draw(st.integers(0, 2))):
                    getattr(message, field.name).append(draw(_messages(inner, depth + 1)))
            else:
                getattr(message, field.name).CopyFrom(draw(_messages(inner, depth + 1)))
    return message


def _put(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    else:
        setattr(message, field.name, value)


def _put_map(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    value = field.message_type.fields_by_name["value"]
    for key in draw(st.lists(_TEXTS, max_size=3)):
        if value.message_type is None:
            getattr(message, field.name)[key] = draw(_scalar(value))
        else:
            made = draw(_messages(value.message_type, depth + 1))
            getattr(message, field.name)[key].CopyFrom(made)


@st.composite
def _nearly_valid(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """A request that would pass, with a random one merged into it."""
    message = message_factory.GetMessageClass(descriptor)()
    name = descriptor.name
    if name == "CreateModelRequest":
        message.model.CopyFrom(mock_model())  # type: ignore[attr-defined] # by its name
    elif name == "CreateInferenceServiceRequest":
        message.inference_service.CopyFrom(image_service())  # type: ignore[attr-defined] # the same
    elif name == "CreateLocalInferenceServiceRequest":
        message.inference_service.CopyFrom(local_service())  # type: ignore[attr-defined] # the same
    elif name == "CreateApiTokenRequest":
        message.account = "admin"  # type: ignore[attr-defined] # the same
    if draw(st.booleans()):
        message.MergeFrom(draw(_messages(descriptor)))
    return message


class Running:
    """A registry that runs while a request is sent, in the test's own thread."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._folder = folder

    def start(self) -> None:
        self.registry: Registry = self._runner.run(self._start())

    async def _start(self) -> Registry:
        registry = await self._stack.enter_async_context(
            running_registry(self._folder, fetch=FetchOptions(enabled=False))
        )
        model, service = await registry.model(), await registry.service()
        _KNOWN[:] = [model.id, service.id, registry.admin_token.partition(".")[0]]
        return registry

    def stop(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def send(self, method: str, request: Message) -> grpc.aio.AioRpcError | None:
        return self._runner.run(self._send(method, request))

    async def _send(self, method: str, request: Message) -> grpc.aio.AioRpcError | None:
        token = SERVICE_TOKEN if method in {"Authenticate", "RevokeApiToken"} else None
        try:
            rpc = getattr(self.registry.stub, method)
            if _SERVICE.methods_by_name[method].client_streaming:
                await rpc(iter([request]), metadata=self.registry.metadata(), timeout=30)
            elif _SERVICE.methods_by_name[method].server_streaming:
                call = rpc(request, metadata=self.registry.metadata(), timeout=30)
                await call.read()
                call.cancel()
            elif method == "RevokeApiToken" and _KNOWN[2] == request.id:  # type: ignore[attr-defined] # by its name
                return None
            else:
                await self.registry.call(method, request, token=token)
        except grpc.aio.AioRpcError as error:
            return error
        return None


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("registry"))
    running.start()
    yield running
    running.stop()


@pytest.mark.parametrize("method", _METHODS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_any_request_gets_a_reason_or_an_answer(
    running: Running, method: str, data: st.DataObject
) -> None:
    descriptor = _SERVICE.methods_by_name[method].input_type
    request = data.draw(_nearly_valid(descriptor))
    error = running.send(method, request)
    if error is not None:
        assert error.code() not in _BAD, error
        info, _ = details_of(error)
        assert info.reason in _REASONS
    # It goes on, and what it keeps can be read.
    listing = pb.ListModelsRequest() if "Model" in method else pb.ListInferenceServicesRequest()
    listed = running.send(type(listing).__name__.removesuffix("Request"), listing)
    assert listed is None, listed
