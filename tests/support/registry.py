"""A registry that serves on a free port, and requests that it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from podbay.v1 import account_pb2, common_pb2, inference_service_pb2, model_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay.v1 import registry_service_pb2_grpc as rpc
from podbay_kit.clock import Clock
from podbay_registry.server import Settings, serving

SERVICE_TOKEN = "service-token-of-the-tests-0123456789"
DIGEST = f"sha256:{'0' * 64}"


class Registry:
    """A running registry, and one connection to it."""

    def __init__(self, port: int, channel: grpc.aio.Channel, admin_token: str) -> None:
        self.port = port
        self.channel = channel
        self.admin_token = admin_token
        self.stub: Any = rpc.RegistryServiceStub(channel)

    async def call(self, method: str, request: Any, *, token: str | None = None) -> Any:
        """Call a method by its name, as the administrator unless said."""
        return await getattr(self.stub, method)(request, metadata=self.metadata(token), timeout=30)

    def metadata(self, token: str | None = None) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call."""
        return (("authorization", f"Bearer {token or self.admin_token}"),)

    async def account(self, account_id: str) -> str:
        """Make an account, and return a token that may do everything on it."""
        await self.call("CreateAccount", pb.CreateAccountRequest(id=account_id))
        return await self.token(account_id)

    async def token(self, account: str, *grants: account_pb2.Grant) -> str:
        """Make a token, and return its secret."""
        request = pb.CreateApiTokenRequest(account=account, grants=grants)
        answer = await self.call("CreateApiToken", request)
        secret: str = answer.secret
        return secret

    async def model(self, token: str | None = None, **fields: Any) -> model_pb2.Model:
        """Register a mock model."""
        request = pb.CreateModelRequest(model=mock_model(**fields))
        answer = await self.call("CreateModel", request, token=token)
        model: model_pb2.Model = answer.model
        return model

    async def service(
        self, token: str | None = None, **fields: Any
    ) -> inference_service_pb2.InferenceService:
        """Register a mock service."""
        request = pb.CreateLocalInferenceServiceRequest(inference_service=local_service(**fields))
        answer = await self.call("CreateLocalInferenceService", request, token=token)
        service: inference_service_pb2.InferenceService = answer.inference_service
        return service


@asynccontextmanager
async def running_registry(
    folder: Path, *, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Registry]:
    """Run a registry over a data directory, and stop it at once at the end."""
    given = Settings(
        **{
            "listen": "127.0.0.1:0",
            "data_dir": folder / "registry",
            "service_token": SERVICE_TOKEN,
            "admin_token_file": folder / "admin-token",
            "session_manager_endpoint": "127.0.0.1:7102",
            "inference_router_endpoint": "127.0.0.1:7103",
            "drain_seconds": 5.0,
            **settings,
        }
    )
    async with serving(given, clock=clock) as port:
        admin_token = given.admin_token_file.read_text().strip()
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            yield Registry(port, channel, admin_token)


def interface() -> inference_service_pb2.InferenceInterface:
    """Return a valid interface."""
    return inference_service_pb2.InferenceInterface(
        endpoint="generate",
        output_schema=inference_service_pb2.DataSchema(arrow_schema="AAAA"),
    )


def mock_model(**fields: Any) -> model_pb2.ModelCreateRequest:
    """Return the specification of a mock model."""
    return model_pb2.ModelCreateRequest(
        **{
            "account": "admin",
            "name": "hal-9000",
            "artifact": model_pb2.ModelArtifact(kind="Mock"),
            "source": model_pb2.ModelSource(kind="Mock"),
            "resources": {},
            **fields,
        }
    )


def local_service(**fields: Any) -> inference_service_pb2.LocalInferenceServiceCreateRequest:
    """Return the specification of a mock service."""
    return inference_service_pb2.LocalInferenceServiceCreateRequest(
        **{
            "account": "admin",
            "name": "podbay.local.mocks.TextCompletion",
            "interface": interface(),
            **fields,
        }
    )


def image_service(**fields: Any) -> inference_service_pb2.InferenceServiceCreateRequest:
    """Return the specification of a service around an image."""
    runner = inference_service_pb2.InferenceServiceRunner(
        kind="container",
        resources=common_pb2.ResourceRequirements(),
        image=inference_service_pb2.ContainerImageSource(
            host="registry.example", name="hal/nine-thousand", digest=DIGEST
        ),
    )
    return inference_service_pb2.InferenceServiceCreateRequest(
        **{
            "account": "admin",
            "name": "hal",
            "interface": interface(),
            "runner": runner,
            **fields,
        }
    )


def grant(
    resources: str = "*", functions: str = "*", accounts: str = "", entities: str = ""
) -> account_pb2.Grant:
    """Return a grant; lists are words."""
    return account_pb2.Grant(
        resources=resources.split(),
        functions=functions.split(),
        accounts=accounts.split(),
        entities=entities.split(),
    )
