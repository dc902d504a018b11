"""The interceptor's own decisions about callers: before, after and during an RPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from podbay.v1 import errors_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay.v1 import registry_service_pb2_grpc as rpc
from podbay_kit.access import current_access
from podbay_kit.auth import Grant, Principal
from podbay_kit.errors import ServiceError
from podbay_kit.rpc_rules import RULES
from podbay_kit.serving import GrpcServer, ServiceRegistration
from tests.support.eventually import eventually
from tests.support.rpc import details_of

NAME = "podbay.v1.RegistryService"
EVERYTHING = frozenset({"*"})
CODE = grpc.StatusCode


class Tokens:
    """Knows one token, and what became of it."""

    def __init__(self) -> None:
        self.error: ServiceError | None = None
        self.asked = 0
        self.service = False

    async def authenticate(self, token: str) -> Principal:
        self.asked += 1
        if self.error is not None:
            raise self.error
        grants = (Grant(EVERYTHING, EVERYTHING, EVERYTHING, EVERYTHING),)
        return Principal("acme", token, grants, service=self.service)


class Careless(rpc.RegistryServiceServicer):
    """Answers without having asked whether the caller may; streams for ever."""

    def __init__(self) -> None:
        self.streams = 0

    async def GetModel(self, request: Any, context: Any) -> Any:
        return pb.GetModelResponse()

    async def LabelModel(self, request: Any, context: Any) -> Any:
        current_access().permit("models", "acme", "m")
        return pb.LabelModelResponse()

    async def WatchModels(self, request: Any, context: Any) -> None:
        current_access().scope()
        self.streams += 1
        try:
            await context.write(pb.WatchModelsResponse(revision=1))
            await asyncio.Event().wait()
        finally:
            self.streams -= 1


class Rig:
    def __init__(self) -> None:
        self.tokens, self.servicer = Tokens(), Careless()  # type: ignore[abstract]
        self.stub: Any = None

    async def failure(self, call: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value.code(), details_of(caught.value)[0].reason


METADATA = (("authorization", "Bearer t"),)


@pytest.fixture
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    made = Rig()
    rules = {k: v for k, v in RULES.items() if not k.endswith("/DeleteModel")}
    server = GrpcServer(
        listen="127.0.0.1:0",
        services=[
            ServiceRegistration(
                NAME, lambda s: rpc.add_RegistryServiceServicer_to_server(made.servicer, s)
            )
        ],
        authenticator=made.tokens,
        rules=rules,
        recheck_seconds=0.05,
    )
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        made.stub = rpc.RegistryServiceStub(channel)
        yield made
    await server.stop(0)


async def test_a_servicer_that_asks_nobody_answers_nobody(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        call = rig.stub.GetModel(pb.GetModelRequest(), metadata=METADATA)
        assert await rig.failure(call) == (CODE.INTERNAL, "INTERNAL")
    assert "has asked nobody" in caplog.text
    assert await rig.stub.LabelModel(pb.LabelModelRequest(), metadata=METADATA)


async def test_an_rpc_without_a_rule_is_answered_to_nobody(rig: Rig) -> None:
    call = rig.stub.DeleteModel(pb.DeleteModelRequest(), metadata=METADATA)
    assert await rig.failure(call) == (CODE.INTERNAL, "INTERNAL")


@pytest.mark.parametrize(
    "reason", [errors_pb2.ERROR_REASON_TOKEN_REVOKED, errors_pb2.ERROR_REASON_TOKEN_EXPIRED]
)
async def test_a_stream_ends_with_its_token(
    rig: Rig, reason: errors_pb2.ErrorReason.ValueType
) -> None:
    stream = rig.stub.WatchModels(pb.WatchModelsRequest(), metadata=METADATA)
    assert (await stream.read()).revision == 1
    asked = rig.tokens.asked
    await eventually(lambda: rig.tokens.asked > asked + 2, "it is looked at again and again")
    assert not stream.done()
    rig.tokens.error = ServiceError(reason, "No longer.")
    name = errors_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    assert await rig.failure(stream.read()) == (CODE.UNAUTHENTICATED, name)
    await eventually(lambda: rig.servicer.streams == 0, "the handler has ended")


async def test_a_stream_goes_on_while_nobody_can_be_asked(rig: Rig) -> None:
    stream = rig.stub.WatchModels(pb.WatchModelsRequest(), metadata=METADATA)
    await stream.read()
    rig.tokens.error = ServiceError(errors_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE, "Away.")
    asked = rig.tokens.asked
    await eventually(lambda: rig.tokens.asked > asked + 2, "it was asked")
    assert not stream.done()
    stream.cancel()
    await eventually(lambda: rig.servicer.streams == 0, "a cancel reaches the handler")


async def test_the_streams_of_services_are_not_looked_at_again(rig: Rig) -> None:
    rig.tokens.service = True
    streams = [rig.stub.WatchModels(pb.WatchModelsRequest(), metadata=METADATA) for _ in range(2)]
    for stream in streams:
        await stream.read()
    assert rig.tokens.asked == 2
    for stream in streams:
        stream.cancel()
    await eventually(lambda: rig.servicer.streams == 0, "they have ended")
    assert rig.tokens.asked == 2
