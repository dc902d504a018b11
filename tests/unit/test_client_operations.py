"""The RPCs of the client are those of the protos."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor

from podbay._core import (
    create_ops,
    key_ops,
    model_data_ops,
    node_ops,
    platform_ops,
    quota_ops,
    session_ops,
)
from podbay._core.log_reading import LogReading
from podbay._core.operations import Operation, StreamOperation, UploadOperation
from podbay._core.reading import decoded, decoded_all
from podbay._core.resource_ops import MODELS, SERVICES, SESSIONS, read
from podbay._core.transfers import Offer
from podbay.errors import DeadlineExceededError, InternalError, InvalidRequestError
from podbay.schema.platform import InferenceInterface
from podbay.schema.requests import InferenceSessionCreateRequest, ModelCreateRequest
from podbay.v1 import model_pb2
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as sessions
from tests.support.fake_services import INTERFACE

METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for module in (registry, sessions)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

# For services, not for clients.
INTERNAL = {
    "/podbay.v1.RegistryService/Authenticate",
    "/podbay.v1.RegistryService/WatchAccountQuotas",
    "/podbay.v1.SessionManagerService/AcknowledgeRoutes",
    "/podbay.v1.SessionManagerService/ShareLimits",
    "/podbay.v1.SessionManagerService/ReportReplica",
    "/podbay.v1.SessionManagerService/ReportUsage",
    "/podbay.v1.SessionManagerService/WatchRoutes",
}


Every = Operation[Any] | StreamOperation[Any] | UploadOperation[Any]


def everything() -> list[Every]:
    made: list[Every] = [
        model_data_ops.list_files("m", ""),
        model_data_ops.offer_files("m", [Offer("a", 1, "0" * 64)]),
        model_data_ops.upload_file("a"),
        model_data_ops.finalize("m"),
        model_data_ops.download_file("m", "a", 1),
        model_data_ops.model_logs("m"),
        platform_ops.get_installation(),
        platform_ops.create_account("a"),
        platform_ops.list_accounts(""),
        platform_ops.create_api_token("a", "n", (), None),
        platform_ops.list_api_tokens("a", ""),
        platform_ops.revoke_api_token("i"),
        quota_ops.get_account_quota("a"),
        quota_ops.set_account_quota(
            "a", sessions=1, replicas=..., gpus={"t": 1}, model_bytes=None, requests_in_flight=...
        ),
        quota_ops.get_account_usage("a"),
        *(
            quota_ops.list_audit_records(quota_ops.AuditQuestion(), service, "", 1)
            for service in quota_ops.AUDIT_SERVICES
        ),
        key_ops.list_keys(),
        key_ops.rotate_keys(),
        node_ops.list_nodes(),
        node_ops.get_node("n"),
        node_ops.cordon_node("n"),
        node_ops.uncordon_node("n"),
        node_ops.drain_node("n"),
        node_ops.undrain_node("n"),
        node_ops.declare_node({"name": "n", "engine": "unix:///e"}),
        node_ops.withdraw_node("n", True),
        node_ops.watch_nodes(),
        node_ops.explain_placement("s"),
        node_ops.explain_request({"account": "a", "inferenceService": "i"}),
        session_ops.terminate("s"),
        session_ops.create_token("s", None),
        session_ops.revoke_tokens("s"),
        session_ops.get_status("s"),
        session_ops.watch_status("s"),
        LogReading("s", "r", 1, follow=True).operation(),
        create_ops.create_session({"account": "a", "inferenceService": "i"}, None),
        create_ops.create_local_service(
            create_ops.mock_request("a.B", "a", None, INTERFACE, None), None, None
        ),
        create_ops.create_model(
            {
                "account": "a",
                "name": "m",
                "artifact": {"kind": "Mock"},
                "source": {"kind": "Mock"},
                "resources": {},
            },
            None,
        ),
        create_ops.create_service(
            {
                "account": "a",
                "name": "s",
                "interface": INTERFACE,
                "runner": {
                    "kind": "container",
                    "resources": {},
                    "image": {"host": "h", "name": "n", "digest": f"sha256:{'0' * 64}"},
                },
            },
            {"safeToRetry": True},
            "r",
        ),
    ]
    for resource in (MODELS, SERVICES, SESSIONS):
        made += [
            resource.get("i"),
            resource.delete("i"),
            resource.label("i", {"a": None}),
            resource.list_page({}),
            resource.watch({}, 3),
        ]
        if resource is not SESSIONS:
            made.append(resource.edit_documentation("i", {"documentation": {"title": None}}))
    return made


def test_all_rpcs_are_there() -> None:
    assert {operation.path for operation in everything()} == set(METHODS) - INTERNAL


@pytest.mark.parametrize("operation", everything(), ids=lambda o: o.method)
def test_types_are_those_of_the_protos(operation: Any) -> None:
    method = METHODS[operation.path]
    sends_many = isinstance(operation, UploadOperation)
    assert method.client_streaming == sends_many
    request = (
        model_data_ops.header("m", Offer("a", 1, "0" * 64), 0) if sends_many else operation.request
    )
    assert request.DESCRIPTOR is method.input_type
    assert operation.response.DESCRIPTOR is method.output_type
    assert method.server_streaming == isinstance(operation, StreamOperation)
    if hasattr(request, "request_id"):
        assert request.request_id


def test_calls_that_are_not_idempotent_are_not_safe() -> None:
    unsafe = {o.method for o in everything() if isinstance(o, Operation) and not o.safe}
    assert unsafe == {
        "CreateAccount",
        "CreateApiToken",
        "RevokeSessionTokens",
        "RotateSigningKeys",
        "WithdrawNode",
    }


def test_an_answer_that_breaks_rules_is_explained() -> None:
    answer = registry.GetModelResponse(model=model_pb2.Model(id="m"))
    with pytest.raises(InternalError, match=r"get the model.*version"):
        decoded(MODELS.get("m"), answer)


@pytest.mark.parametrize("left", [0.01, 0.0, -1.0])
def test_an_answer_that_was_lost_as_the_time_was_up_is_a_deadline(left: float) -> None:
    """So gRPC tells of an answer and a deadline that come at once: success, without a message."""
    with pytest.raises(DeadlineExceededError, match="get the model"):
        decoded(MODELS.get("m"), None, left)


def test_an_answer_that_cannot_be_read_is_explained() -> None:
    with pytest.raises(InternalError, match=r"get the model.*no message"):
        decoded(MODELS.get("m"), None, 3.0)
    with pytest.raises(InternalError, match="no message"):
        decoded_all(session_ops.watch_status("s"), None)


def test_requests_of_other_packages_are_taken_by_their_json() -> None:
    class Other(InferenceSessionCreateRequest):
        """Stands for a class that is not ours."""

    other = Other(account="a", inferenceService="i", replicas=2)
    taken = read(InferenceSessionCreateRequest, other, "The session")
    assert type(taken) is InferenceSessionCreateRequest
    assert taken.model_dump() == {"account": "a", "inferenceService": "i", "replicas": 2}
    with pytest.raises(InvalidRequestError, match="The model is not valid"):
        read(ModelCreateRequest, 3, "The model")


def test_a_watch_has_no_order() -> None:
    with pytest.raises(InvalidRequestError, match="limit"):
        MODELS.watch({"limit": 3}, 0)


class Outer:
    """Holds a mock that is not at the top of its module."""

    class Inner:
        """A mock without a base class."""

        interface = InferenceInterface.model_validate(INTERFACE)

    class Bare:
        """No mock: it has no interface."""


def test_mocks_are_named_by_their_import_path() -> None:
    request = create_ops.mock_request(Outer.Inner, "a", None, None, {"K": "v"})
    assert request.name == f"{__name__}.Outer.Inner"
    assert request.interface.endpoint == "generate"
    assert create_ops.mock_request(request.name, "a", None, None, {"K": "v"}) == request


@pytest.mark.parametrize(
    ("mock", "why"),
    [
        (Outer.Bare, "interface"),
        (f"{__name__}.Outer.Missing", "imported"),
        (f"{__name__}.METHODS", "class"),
        ("no_such_module.Class", "imported"),
        ("Class", "imported"),
    ],
)
def test_what_is_no_mock(mock: Any, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        create_ops.mock_request(mock, "a", None, None, None)


def test_a_local_class_is_no_mock() -> None:
    class Local:
        interface = None

    with pytest.raises(InvalidRequestError, match="function"):
        create_ops.mock_request(Local, "a", None, INTERFACE, None)


def test_a_command_is_a_list() -> None:
    options = {"account": "a", "name": None, "args": None, "env": None, "model": None}
    with pytest.raises(InvalidRequestError, match="list"):
        create_ops.process_request("ls -l", INTERFACE, working_dir=None, **options)
