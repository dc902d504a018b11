"""The server around every RPC: over a real connection, with handlers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import grpc
import pydantic
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.fuzz.frames import connection, only_message, request
from podbay.v1 import (
    common_pb2,
    errors_pb2,
)
from podbay.v1 import (
    registry_service_pb2 as pb,
)
from podbay.v1 import (
    registry_service_pb2_grpc as rpc,
)
from podbay_kit.auth import Principal, current_principal
from podbay_kit.errors import ServiceError
from podbay_kit.rpc_rules import RULES, Rule, Who
from podbay_kit.serving import (
    GrpcServer,
    ListenError,
    ServiceRegistration,
    queues_for,
    split_address,
)
from tests.support.eventually import eventually
from tests.support.rpc import details_of

NAME = "podbay.v1.RegistryService"
GOOD = (("authorization", "Bearer good"),)


class OneToken:
    async def authenticate(self, token: str) -> Principal:
        if token != "good":
            raise ServiceError(errors_pb2.ERROR_REASON_TOKEN_INVALID, "Not a token.")
        return Principal(account="acme", token_id="t1")


class Misbehaving(rpc.RegistryServiceServicer):
    """Each method fails in its own way."""

    async def GetInstallation(self, request, context):
        return pb.GetInstallationResponse(account=current_principal().account)

    async def GetModel(self, request, context):
        raise KeyError("secret detail of the machine")

    async def CreateModel(self, request, context):
        class Body(pydantic.BaseModel):
            size: int

        Body.model_validate({"size": "secret"})

    async def DeleteModel(self, request, context):
        lost = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    async def WatchModels(self, request, context):
        await context.write(pb.WatchModelsResponse(revision=1))
        raise ServiceError(errors_pb2.ERROR_REASON_REVISION_COMPACTED, "List again.")

    def __init__(self):
        self.begun = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.listed, self.first = 0, asyncio.Event()

    async def ListInferenceServices(self, request, context):
        self.begun.set()
        await self.may_finish.wait()
        return pb.ListInferenceServicesResponse()

    async def ListModels(self, request, context):
        self.listed += 1
        self.first.set()
        return pb.ListModelsResponse()


@pytest.fixture
async def server():
    servicer = Misbehaving()
    server = GrpcServer(
        listen="127.0.0.1:0",
        services=[
            ServiceRegistration(
                NAME, lambda s: rpc.add_RegistryServiceServicer_to_server(servicer, s)
            )
        ],
        authenticator=OneToken(),
        rules=dict.fromkeys(RULES, Rule(Who.ANY_TOKEN)),
    )
    server.port = await server.start()
    server.servicer = servicer
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


async def failure(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_callers_are_known_inside_the_handler(channel):
    stub = rpc.RegistryServiceStub(channel)
    answer = await stub.GetInstallation(pb.GetInstallationRequest(), metadata=GOOD)
    assert answer.account == "acme"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [((), "TOKEN_MISSING"), ((("authorization", "Bearer bad"),), "TOKEN_INVALID")],
)
async def test_no_call_without_a_token(channel, metadata, reason):
    stub = rpc.RegistryServiceStub(channel)
    error = await failure(stub.GetInstallation(pb.GetInstallationRequest(), metadata=metadata))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details_of(error)[0].reason == reason


async def test_an_unknown_exception_says_nothing_and_leaves_an_incident(channel, caplog):
    stub = rpc.RegistryServiceStub(channel)
    with caplog.at_level(logging.ERROR):
        error = await failure(stub.GetModel(pb.GetModelRequest(), metadata=GOOD))
    info, _ = details_of(error)
    assert info.reason == "INTERNAL"
    assert "secret" not in error.details()
    assert info.metadata["incident"] in error.details()
    assert f"incident {info.metadata['incident']}" in caplog.text
    assert "secret detail" in caplog.text


async def test_validation_becomes_bad_request_with_paths(channel):
    stub = rpc.RegistryServiceStub(channel)
    error = await failure(stub.CreateModel(pb.CreateModelRequest(), metadata=GOOD))
    info, bad = details_of(error)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "INVALID_REQUEST"
    assert [violation.field for violation in bad.field_violations] == ["size"]
    assert "secret" not in error.details()


async def test_a_cancellation_from_inside_ends_the_call(channel):
    stub = rpc.RegistryServiceStub(channel)
    error = await failure(stub.DeleteModel(pb.DeleteModelRequest(), metadata=GOOD, timeout=30))
    assert details_of(error)[0].reason == "INTERNAL"


async def test_a_stream_keeps_what_it_sent_and_ends_with_the_reason(channel):
    stub = rpc.RegistryServiceStub(channel)
    call = stub.WatchModels(pb.WatchModelsRequest(), metadata=GOOD)
    assert (await call.read()).revision == 1
    error = await failure(call.read())
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert details_of(error)[0].reason == "REVISION_COMPACTED"


async def test_an_unknown_method_has_a_reason(channel):
    call = channel.unary_unary(f"/{NAME}/Nonsense")
    error = await failure(call(b"", metadata=GOOD))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert details_of(error)[0].reason == "METHOD_NOT_FOUND"


async def test_bytes_that_are_no_message_are_an_invalid_request(channel):
    call = channel.unary_unary(f"/{NAME}/ListModels")
    error = await failure(call(b"\xff\xff\xff", metadata=GOOD))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error)[0].reason == "INVALID_REQUEST"


async def test_unknown_fields_are_refused_by_path(channel):
    # Field 200 of `filter`, which no version of the protos has.
    inner = common_pb2.ResourceFilter(id="x").SerializeToString() + b"\xc0\x0c\x01"
    request = pb.ListModelsRequest.FromString(b"\x0a" + bytes([len(inner)]) + inner)
    stub = rpc.RegistryServiceStub(channel)
    error = await failure(stub.ListModels(request, metadata=GOOD))
    _, bad = details_of(error)
    assert [violation.field for violation in bad.field_violations] == ["filter.#200"]


async def test_health_and_reflection_need_no_token(server, channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", NAME):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = reflection.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    listed = await call.read()
    names = {service.name for service in listed.list_services_response.service}
    assert {NAME, "grpc.health.v1.Health"} <= names
    for symbol, known in [(NAME, True), (f"{NAME}.GetModel", True), (f"{NAME}.Nope", False)]:
        call = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)])
        )
        assert bool((await call.read()).file_descriptor_response.file_descriptor_proto) is known


async def test_reflection_tells_json_names(channel):
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_by_filename="podbay/v1/model.proto")
    answer = await reflection.ServerReflectionInfo(iter([request])).read()
    names = {}
    for serialized in answer.file_descriptor_response.file_descriptor_proto:
        file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
        for message in file.message_type:
            names |= {f"{message.name}.{f.name}": f.json_name for f in message.field}
    assert names["Model.creation_time"] == "creationTime"
    assert names["ModelSource.git_lfs"] == "gitLFS"
    assert names["ModelSourceHuggingFaceHub.repo_id"] == "repoID"
    assert names["Status.reason"] == "reason"


async def test_stop_lets_what_runs_finish_and_refuses_what_is_new(server, channel):
    stub = rpc.RegistryServiceStub(channel)
    running = stub.ListInferenceServices(pb.ListInferenceServicesRequest(), metadata=GOOD)
    await server.servicer.begun.wait()
    stop = asyncio.create_task(server.stop(60))
    await server.stopping.wait()
    error = await failure(stub.GetInstallation(pb.GetInstallationRequest(), metadata=GOOD))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    info, _ = details_of(error)
    assert (info.reason, info.metadata["notStarted"]) == ("SERVICE_STOPPING", "true")
    assert not stop.done()
    server.servicer.may_finish.set()
    assert await running == pb.ListInferenceServicesResponse()
    await stop


async def test_stop_ends_what_does_not_finish(server, channel, caplog):
    stub = rpc.RegistryServiceStub(channel)
    running = stub.ListInferenceServices(pb.ListInferenceServicesRequest(), metadata=GOOD)
    await server.servicer.begun.wait()
    await server.stop(0.05)
    assert "1 calls did not end within 0.05 s" in caplog.text
    assert (await failure(running)).code() in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    }


async def test_stop_does_not_wait_for_a_health_watch(server, channel):
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    started = time.monotonic()
    await server.stop(60)
    assert time.monotonic() - started < 30
    watch.cancel()


async def test_a_burst_of_one_connection_takes_turns_with_the_others(server):
    """Of 900 streams at once on one connection, few are taken before what others ask."""
    burst = 900
    stubs = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(16):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options)
            stubs.append(rpc.RegistryServiceStub(await stack.enter_async_context(channel)))
        get = pb.GetInstallationRequest()
        for stub in stubs:
            await stub.GetInstallation(get, metadata=GOOD, wait_for_ready=True)
        servicer, before = server.servicer, []

        async def ask(stub):
            await stub.GetInstallation(get, metadata=GOOD)
            before.append(servicer.listed)

        flood = stack.enter_context(connection(server.port))
        path, token = f"/{NAME}/ListModels", (b"authorization", b"Bearer good")
        streams = range(1, 2 * burst, 2)
        flood.sendall(b"".join(request(n, path, token) + only_message(n) for n in streams))
        await servicer.first.wait()
        assert servicer.listed < burst / 10
        await asyncio.gather(*(ask(stub) for stub in stubs))
        # A few share the queue of the burst: the kernel spreads connections by their addresses.
        assert sorted(before)[len(before) // 2] < burst / 2, before
        await eventually(
            lambda: servicer.listed == burst, "the whole burst is answered", timeout=30
        )


@pytest.mark.parametrize(
    ("connections", "queues"), [(1, 1), (100, 1), (512, 8), (4_096, 64), (100_000, 64)]
)
def test_few_connections_have_few_queues(connections, queues):
    assert queues_for(connections) == queues


async def test_a_taken_port_is_an_error_and_is_not_shared(server):
    second = GrpcServer(listen=f"127.0.0.1:{server.port}", services=[], authenticator=None)
    with pytest.raises(ListenError, match=f"127.0.0.1:{server.port}.*Choose another port"):
        await second.start()
    await second.stop(0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("host:1", ("host", 1))],
)
def test_addresses(text, parts):
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["host", ":1", "host:", "host:x", "host:70000"])
def test_bad_addresses(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address(text)
