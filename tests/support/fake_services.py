"""A registry and a session manager that answer as a test says.

They run on gRPC's synchronous API, so that they can live beside an asyncio client in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from podbay.schema import convert, platform
from podbay.v1 import registry_service_pb2 as registry
from podbay.v1 import session_manager_service_pb2 as sessions
from tests.support.fake_router import FakeRouter, abort_with

__all__ = ["FakeInstallation", "FakeService", "model", "service", "session", "status"]

TIME = datetime(2030, 1, 1, tzinfo=UTC)
INTERFACE = {"endpoint": "generate", "outputSchema": {"arrowSchema": ""}}

Handler = Callable[[Any, grpc.ServicerContext], Any]


def model(model_id: str, **changes: Any) -> Any:
    """Return a model's message."""
    values = {
        "id": model_id,
        "account": "acct",
        "status": "Ready",
        "creationTime": TIME,
        "name": "m",
        "artifact": {"kind": "Mock"},
        "source": {"kind": "Mock"},
        "resources": {},
        **changes,
    }
    return convert.to_proto(platform.Model.model_validate(values))


def service(service_id: str, **changes: Any) -> Any:
    """Return an inference service's message."""
    values = {
        "id": service_id,
        "account": "acct",
        "status": "Ready",
        "creationTime": TIME,
        "name": "s",
        "interface": INTERFACE,
        **changes,
    }
    return convert.to_proto(platform.InferenceService.model_validate(values))


def session(session_id: str, **changes: Any) -> Any:
    """Return a session's message."""
    values = {
        "id": session_id,
        "account": "acct",
        "status": "Admitted",
        "creationTime": TIME,
        "inferenceService": {"id": "s1", "account": "acct", "name": "s", "interface": INTERFACE},
        **changes,
    }
    return convert.to_proto(platform.InferenceSession.model_validate(values))


def status(session_id: str, *, ready: bool, state: str = "Admitted", **facts: Any) -> Any:
    """Return a session's status."""
    answer = sessions.WatchInferenceSessionStatusResponse()
    answer.status.session_id = session_id
    answer.status.status.status = state
    answer.status.ready = ready
    answer.status.ready_replicas = int(ready)
    answer.status.desired_replicas = 1
    for key, value in facts.items():
        if key == "reason":
            answer.status.status.reason = value
        elif key == "replicas":
            answer.status.replicas.extend(value)
        else:
            setattr(answer.status, key, value)
    return answer


class FakeService:
    """One service.

    Attributes:
        handlers: By the name of an RPC: what answers it. A stream's returns an iterator.
        requests: What was asked: the name of the RPC, the request, the token.
    """

    def __init__(self, descriptor: ServiceDescriptor) -> None:
        self.handlers: dict[str, Handler] = {}
        self.requests: list[tuple[str, Any, str]] = []
        self.host = "127.0.0.1"
        self.port = 0
        self._descriptor = descriptor
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"{self.host}:{self.port}"

    def asked(self, name: str) -> list[Any]:
        """Return the requests of one RPC."""
        return [request for method, request, _ in self.requests if method == name]

    def start(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        """Begin to serve, in plain text unless there are credentials."""
        server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        handlers = {method.name: self._handler(method) for method in self._descriptor.methods}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(self._descriptor.full_name, handlers),)
        )
        address = f"{self.host}:{port}"
        self.port = (
            server.add_insecure_port(address)
            if credentials is None
            else server.add_secure_port(address, credentials)
        )
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop at once."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def _handler(self, method: MethodDescriptor) -> Any:
        def answer(request: Message, context: grpc.ServicerContext) -> Any:
            metadata = dict(context.invocation_metadata())
            token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
            self.requests.append((method.name, request, token))
            handler = self.handlers.get(method.name)
            if handler is None:
                abort_with(context, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "There is none.")
                return None
            return handler(request, context)

        def answers(request: Message, context: grpc.ServicerContext) -> Iterator[Any]:
            yield from answer(request, context)

        make: Any = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(
            answers if method.server_streaming else answer,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )


class FakeInstallation:
    """All three services."""

    def __init__(self) -> None:
        self.registry = FakeService(registry.DESCRIPTOR.services_by_name["RegistryService"])
        self.sessions = FakeService(sessions.DESCRIPTOR.services_by_name["SessionManagerService"])
        self.router = FakeRouter()
        self.registry.handlers["GetInstallation"] = self._installation

    def start(self) -> None:
        """Begin to serve."""
        for part in (self.registry, self.sessions, self.router):
            part.start()

    def stop(self) -> None:
        """Stop at once."""
        for part in (self.router, self.sessions, self.registry):
            part.stop()

    def _installation(self, _request: Any, _context: Any) -> Any:
        return registry.GetInstallationResponse(
            installation_id="i",
            version="1",
            session_manager_endpoint=self.sessions.address,
            inference_router_endpoint=self.router.address,
            account="acct",
        )
