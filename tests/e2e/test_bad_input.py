"""Bad input is refused with the field's path or a reason, and the services keep running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podbay import Client
from podbay.errors import InvalidRequestError, NotFoundError, OverloadedError, PodbayError
from podbay.local import mocks
from podbay.v1 import common_pb2 as common
from podbay.v1 import inference_router_service_pb2 as router_pb
from podbay.v1 import inference_router_service_pb2_grpc as router_rpc
from podbay.v1 import inference_service_pb2 as services
from podbay.v1 import registry_service_pb2 as registry_pb
from podbay.v1 import registry_service_pb2_grpc as registry_rpc
from podbay.v1 import session_manager_service_pb2 as manager_pb
from podbay.v1 import session_manager_service_pb2_grpc as manager_rpc
from tests.support.eventually import eventually_sync
from tests.support.platform import Platform
from tests.support.rpc import details_of

DEFECTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


@pytest.fixture(scope="module")
def echo(platform: Platform) -> Iterator[tuple[str, str]]:
    """A ready session of the echo mock: its id and a token."""
    with platform.client() as client:
        account = client.installation().account
        service = client.inferenceservices.create_mock(mocks.Echo, account=account)
        made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
        client.inferencesessions.wait_ready(made.inferencesession.id, timeout=60)
        yield made.inferencesession.id, made.token
        client.inferencesessions.terminate(made.inferencesession.id)


def refused(call: Any, request: Any, token: str) -> tuple[grpc.StatusCode, Any, list[str]]:
    """Return code, ErrorInfo and the paths of the violations."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, metadata=(("authorization", f"Bearer {token}"),), timeout=30)
    info, bad = details_of(caught.value)
    paths = [violation.field for violation in bad.field_violations] if bad else []
    return caught.value.code(), info, paths


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"unknownField": 1}, "unknownField"),
        ({"replicas": "two"}, "replicas"),
        ({"replicas": 0}, "replicas"),
        ({"inferenceService": 7}, "inferenceService"),
        ({"account": "no spaces allowed"}, "account"),
        ({"expires": "tomorrow"}, "expires"),
        ({"accelerator": {"kind": "GPU"}}, "accelerator"),
    ],
)
def test_the_client_names_the_field(client: Client, account: str, body, path):
    request = {"account": account, "inferenceService": "0" * 32, **body}
    with pytest.raises(InvalidRequestError) as caught:
        client.inferencesessions.create(request)
    assert [field for field, _ in caught.value.violations if path in field.split(".")]


def test_a_missing_specification_is_named_on_the_wire(platform: Platform):
    with grpc.insecure_channel(platform.endpoint()) as channel:
        stub = registry_rpc.RegistryServiceStub(channel)
        for call, request in [
            (stub.CreateModel, registry_pb.CreateModelRequest()),
            (stub.CreateInferenceService, registry_pb.CreateInferenceServiceRequest()),
            (stub.CreateLocalInferenceService, registry_pb.CreateLocalInferenceServiceRequest()),
        ]:
            code, info, paths = refused(call, request, platform.token)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert info.reason == "INVALID_REQUEST"
            assert paths


@pytest.mark.parametrize(
    ("configuration", "path"),
    [
        ("not json", "inferenceService.interface.inputPipeline.0.configuration"),
        ('{"fields": []}', "inferenceService.runner.image.digest"),
    ],
)
def test_nested_fields_are_named_by_their_path(
    platform: Platform, account: str, configuration: str, path: str
):
    request = registry_pb.CreateInferenceServiceRequest(
        inference_service=services.InferenceServiceCreateRequest(
            account=account,
            name="bad",
            interface=services.InferenceInterface(
                endpoint="e",
                output_schema=services.DataSchema(arrow_schema="AAAA"),
                input_pipeline=[services.SchemaAdapter(kind="Drop", configuration=configuration)],
            ),
            runner=services.InferenceServiceRunner(
                kind="container",
                resources=common.ResourceRequirements(),
                image=services.ContainerImageSource(host="h", name="n", digest="latest"),
            ),
        )
    )
    with grpc.insecure_channel(platform.endpoint()) as channel:
        stub = registry_rpc.RegistryServiceStub(channel)
        _, _, paths = refused(stub.CreateInferenceService, request, platform.token)
    assert paths == [path]


@pytest.mark.parametrize("bad_id", ["", "0" * 32, "../../etc/passwd", "x" * 10_000, "\x00", "ü"])
def test_what_is_not_there_is_not_found(client: Client, bad_id: str):
    for get in (
        client.models.get,
        client.inferenceservices.get,
        client.inferencesessions.get,
        client.inferencesessions.status,
    ):
        with pytest.raises((NotFoundError, InvalidRequestError)) as caught:
            get(bad_id)
        assert caught.value.reason.endswith("_NOT_FOUND") or caught.value.violations


def test_a_session_of_no_service(client: Client, account: str):
    with pytest.raises(NotFoundError) as caught:
        client.inferencesessions.create({"account": account, "inferenceService": "0" * 32})
    assert caught.value.reason == "INFERENCE_SERVICE_NOT_FOUND"


@pytest.mark.parametrize("body", [b'{"a": 1', b"\xff\xfe", b"nonsense", b'{"a": 1}}'])
def test_malformed_json_is_named_as_such(platform: Platform, echo, body: bytes):
    session_id, token = echo
    with grpc.insecure_channel(platform.endpoint("inference-router")) as channel:
        stub = router_rpc.InferenceRouterServiceStub(channel)
        request = router_pb.InferRequest(session_id=session_id, endpoint="echo", json=body)
        code, info, _ = refused(stub.Infer, request, token)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "MALFORMED_JSON"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"session_id": ""}, "sessionId"),
        ({"endpoint": ""}, "endpoint"),
        ({"endpoint": "a\r\nX-Injected: 1"}, "endpoint"),
        ({"json": b""}, "json"),
    ],
)
def test_the_router_names_the_field(platform: Platform, echo, fields, path):
    session_id, token = echo
    values = {"session_id": session_id, "endpoint": "echo", "json": b"{}", **fields}
    with grpc.insecure_channel(platform.endpoint("inference-router")) as channel:
        stub = router_rpc.InferenceRouterServiceStub(channel)
        code, info, paths = refused(stub.Infer, router_pb.InferRequest(**values), token)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "INVALID_REQUEST"
    assert paths in ([path], ["body"])


def test_an_oversize_body_fails_alone(platform: Platform, echo):
    session_id, token = echo
    with (
        platform.client() as client,
        client.inferencesessions.client(session_id, token, endpoint="echo") as calls,
    ):
        with pytest.raises((OverloadedError, InvalidRequestError, PodbayError)) as caught:
            calls.infer({"text": "x" * (65 << 20)})
        assert caught.value.reason == "BODY_TOO_LARGE"
        assert calls.infer({"still": "here"}) == [{"still": "here"}]


def test_an_expired_or_foreign_token_is_told_apart(platform: Platform, client, account, echo):
    session_id, token = echo
    service = client.inferenceservices.create_mock(mocks.Echo, account=account)
    other = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    client.inferencesessions.wait_ready(other.inferencesession.id, timeout=60)
    with grpc.insecure_channel(platform.endpoint("inference-router")) as channel:
        stub = router_rpc.InferenceRouterServiceStub(channel)
        request = router_pb.InferRequest(session_id=session_id, endpoint="echo", json=b"{}")
        for given_token, reason in [
            (other.token, "TOKEN_FOR_OTHER_SESSION"),
            (platform.token, "TOKEN_INVALID"),
            (token[:-4] + "AAAA", "TOKEN_INVALID"),
        ]:
            _, info, _ = refused(stub.Infer, request, given_token)
            assert info.reason == reason
        client.inferencesessions.terminate(other.inferencesession.id)
        ended = router_pb.InferRequest(
            session_id=other.inferencesession.id, endpoint="echo", json=b"{}"
        )

        def told() -> bool:
            # The routers learn of the end a moment after the caller.
            try:
                stub.Infer(ended, metadata=(("authorization", f"Bearer {other.token}"),))
            except grpc.RpcError as error:
                return (
                    error.code() is grpc.StatusCode.FAILED_PRECONDITION
                    and details_of(error)[0].reason == "SESSION_TERMINATED"
                )
            return False

        eventually_sync(told, "the router refuses calls of the ended session")


_METHODS = [
    ("registry", registry_rpc.RegistryServiceStub, registry_pb),
    ("session-manager", manager_rpc.SessionManagerServiceStub, manager_pb),
    ("inference-router", router_rpc.InferenceRouterServiceStub, router_pb),
]


def unary_methods() -> list[tuple[str, str]]:
    """Return service and full method of every method with one request and one answer."""
    return [
        (name, f"/{service.full_name}/{method.name}")
        for name, _, module in _METHODS
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    ]


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    method=st.sampled_from(unary_methods()),
    payload=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.tuples(st.integers(1, 20), st.binary(max_size=20) | st.text(max_size=10)).map(
                lambda pair: (
                    bytes([pair[0] << 3 | 2 if pair[0] < 16 else 122])
                    + bytes(
                        [len(raw := pair[1] if isinstance(pair[1], bytes) else pair[1].encode())]
                    )
                    + raw
                )
            ),
            lambda inner: st.tuples(st.integers(1, 15), inner).map(
                lambda pair: bytes([pair[0] << 3 | 2, len(pair[1]) & 127]) + pair[1][:127]
            ),
            max_leaves=5,
        ),
    ),
)
def test_no_message_is_an_internal_error(platform: Platform, method, payload: bytes):
    name, full_name = method
    with grpc.insecure_channel(platform.endpoint(name)) as channel:
        call = channel.unary_unary(full_name)
        try:
            call(payload, metadata=(("authorization", f"Bearer {platform.token}"),), timeout=30)
        except grpc.RpcError as error:
            assert error.code() not in DEFECTS, (full_name, payload, error)


def test_the_services_still_run(platform: Platform):
    assert [service["restarts"] for service in platform.record()["services"]] == [0, 0, 0]
