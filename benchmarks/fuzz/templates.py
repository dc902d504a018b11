"""Requests that would pass, so that those with one wrong field come far."""

from __future__ import annotations

from google.protobuf.message import Message

from podbay.v1 import common_pb2 as common
from podbay.v1 import inference_router_service_pb2 as router
from podbay.v1 import inference_service_pb2 as services
from podbay.v1 import inference_session_pb2 as sessions
from podbay.v1 import model_pb2 as models
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as manager

__all__ = ["templates"]

_BODY = b'{"text": "hello"}'


def templates(account: str, service: str, session: str) -> dict[str, bytes]:
    """Return requests in bytes, by the full names of their types.

    Args:
        account: Who owns what they make.
        service: The id of a service.
        session: The id of a session.
    """
    interface = services.InferenceInterface(
        endpoint="echo",
        output_schema=services.DataSchema(arrow_schema="AAAA"),
        input_pipeline=[
            services.SchemaAdapter(kind="Drop", configuration='{"fields": ["a"]}'),
        ],
    )
    call = router.Call(id=1, endpoint="echo", json=_BODY)
    call.timeout.seconds = 2
    made: list[Message] = [
        registry.CreateModelRequest(
            model=models.ModelCreateRequest(
                account=account,
                name="fuzz",
                artifact=models.ModelArtifact(kind="Mock"),
                source=models.ModelSource(kind="Mock"),
                resources=common.ResourceRequirements(),
            )
        ),
        registry.CreateInferenceServiceRequest(
            inference_service=services.InferenceServiceCreateRequest(
                account=account,
                name="fuzz",
                interface=interface,
                runner=services.InferenceServiceRunner(
                    kind="container",
                    resources=common.ResourceRequirements(),
                    image=services.ContainerImageSource(
                        host="registry.example", name="a/b", digest="sha256:" + "0" * 64
                    ),
                ),
            )
        ),
        registry.CreateLocalInferenceServiceRequest(
            inference_service=services.LocalInferenceServiceCreateRequest(
                account=account, name="podbay.local.mocks.Echo", interface=interface
            )
        ),
        registry.CreateApiTokenRequest(account=account, name="fuzz"),
        manager.CreateInferenceSessionRequest(
            inference_session=sessions.InferenceSessionCreateRequest(
                account=account, inference_service=service
            )
        ),
        router.InferRequest(session_id=session, endpoint="echo", json=_BODY),
        router.StreamInferRequest(session_id=session, endpoint="echo", json=_BODY),
        router.ExchangeRequest(calls=[call]),
    ]
    made += [
        getattr(manager, name)(id=session)
        for name in (
            "GetInferenceSessionRequest",
            "GetInferenceSessionStatusRequest",
            "StreamInferenceSessionLogsRequest",
            "WatchInferenceSessionStatusRequest",
        )
    ]
    return {message.DESCRIPTOR.full_name: message.SerializeToString() for message in made}
