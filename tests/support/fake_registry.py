"""A registry in memory, for tests of services that ask one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc

from podbay.schema import convert, platform
from podbay.schema.serving import ServingOptions
from podbay.v1 import account_pb2, model_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)

ADMIN = "admin-secret"
OTHER = "other-secret"
GUEST = "guest-secret"


class FakeRegistry(RegistryServiceServicer):
    """Knows tokens and services, and counts what it is asked."""

    def __init__(self) -> None:
        everything = {"resources": ["*"], "functions": ["*"], "entities": []}
        self.tokens = {
            ADMIN: account_pb2.ApiToken(
                id="admin",
                account="admin",
                grants=[account_pb2.Grant(**everything, accounts=["*"])],
            ),
            OTHER: account_pb2.ApiToken(
                id="other",
                account="beta",
                grants=[account_pb2.Grant(**everything, accounts=["beta"])],
            ),
            GUEST: account_pb2.ApiToken(
                id="guest",
                account="guest",
                grants=[account_pb2.Grant(**everything, accounts=["acme"])],
            ),
        }
        self.services: dict[str, platform.InferenceService] = {}
        self.models: dict[str, model_pb2.Model] = {}
        self.away = False
        """Whether questions about models are answered as by a registry that is away."""
        self.asked = 0
        self.quotas: dict[str, account_pb2.QuotaOfAccount] = {}
        self.missing_accounts: set[str] = set()
        self._quota_revision = 0
        self._quota_news = asyncio.Event()

    def set_quota(self, account: str, **limits: Any) -> None:
        """Set the whole quota of an account, and tell those who watch."""
        self._quota_revision += 1
        self.quotas[account] = account_pb2.QuotaOfAccount(
            account=account,
            quota=account_pb2.AccountQuota(**limits),
            revision=self._quota_revision,
        )
        news, self._quota_news = self._quota_news, asyncio.Event()
        news.set()

    def add(
        self,
        *,
        name: str = "tests.support.replica_mocks.Sample",
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
        kind: str = "mock",
        serving: ServingOptions | None = None,
        account: str = "acme",
        **runner: Any,
    ) -> str:
        """Register a service and return its id."""
        service = platform.InferenceService.model_validate(
            {
                "id": uuid.uuid4().hex,
                "account": account,
                "status": "Ready",
                "creationTime": datetime.now(UTC),
                "name": name,
                "interface": {"endpoint": "infer", "outputSchema": {"arrowSchema": ""}},
                "runner": {
                    "kind": kind,
                    "resources": {},
                    "command": command,
                    "env": [{"name": k, "value": v} for k, v in (env or {}).items()] or None,
                    **runner,
                },
                "annotations": [
                    a.model_dump() for a in (serving or ServingOptions()).to_annotations()
                ],
            }
        )
        self.services[service.id] = service
        return service.id

    async def Authenticate(
        self, request: pb.AuthenticateRequest, context: Any
    ) -> pb.AuthenticateResponse:
        self.asked += 1
        token = self.tokens.get(request.secret)
        if token is None:
            return pb.AuthenticateResponse(valid=False, reason="TOKEN_INVALID")
        return pb.AuthenticateResponse(valid=True, api_token=token)

    async def GetAccountQuota(
        self, request: pb.GetAccountQuotaRequest, context: Any
    ) -> pb.GetAccountQuotaResponse:
        if request.account in self.missing_accounts:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such account")
        known = self.quotas.get(request.account, account_pb2.QuotaOfAccount())
        return pb.GetAccountQuotaResponse(quota=known.quota, revision=known.revision)

    async def WatchAccountQuotas(  # type: ignore[override] # the stubs know no context.write()
        self, request: pb.WatchAccountQuotasRequest, context: Any
    ) -> None:
        sent, first = 0, True
        while True:
            news = self._quota_news
            quotas = [each for each in self.quotas.values() if each.revision > sent]
            message = pb.WatchAccountQuotasResponse(
                revision=self._quota_revision, snapshot=first, quotas=quotas
            )
            await context.write(message)
            sent, first = self._quota_revision, False
            await news.wait()

    async def GetInferenceService(
        self, request: pb.GetInferenceServiceRequest, context: Any
    ) -> pb.GetInferenceServiceResponse:
        service = self.services.get(request.id)
        if service is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
            raise AssertionError("abort raises")
        return pb.GetInferenceServiceResponse(inference_service=convert.to_proto(service))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if request.id not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return pb.GetModelResponse(model=self.models[request.id])


@asynccontextmanager
async def fake_registry() -> AsyncIterator[tuple[FakeRegistry, str]]:
    """Serve a fake registry, and give it with its address."""
    # Only what the session manager calls is there.
    servicer = FakeRegistry()  # type: ignore[abstract] # see above
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_RegistryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
