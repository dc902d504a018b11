"""The registry and the session manager with things of an account, and the requests of every RPC.

A world makes for each RPC that grants decide about the requests that reach its resources, one for
each way in which the RPC can be called, and tokens with any grants.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor

from podbay.v1 import (
    account_pb2,
    common_pb2,
    inference_session_pb2,
    registry_service_pb2,
    session_manager_service_pb2,
)
from podbay_kit.rpc_rules import FUNCTIONS, RESOURCES, RULES, Found, Need, Who
from tests.support.registry import SERVICE_TOKEN as REGISTRY_SERVICE_TOKEN
from tests.support.registry import grant, image_service, local_service, mock_model, running_registry
from tests.support.session_manager import SERVICE_TOKEN, session_manager

__all__ = ["ACCOUNT", "Answer", "Case", "World", "all_but", "cases", "only", "registry_world"]

ACCOUNT: Final = "acme"
UNKNOWN: Final = "f" * 32
"""An id of which there is nothing."""

Make = Callable[[str | None], Awaitable[Any]]
"""Makes a request of a resource of its own, or of the id that is given."""


@dataclass(frozen=True)
class Answer:
    """What came of an RPC."""

    code: str
    message: str
    details: bytes
    response: Any = None

    @property
    def refused(self) -> bool:
        """Whether the caller was not let pass."""
        return self.code in {"UNAUTHENTICATED", "PERMISSION_DENIED"}


@dataclass(frozen=True)
class Case:
    """One way to call an RPC."""

    method: str
    way: int

    def __str__(self) -> str:
        """Return its name in a report."""
        return self.method + (f"-{self.way}" if self.way else "")

    def needs(self, service: str) -> tuple[Need, ...]:
        """Return what the table says of it."""
        return RULES[f"/podbay.v1.{service}/{self.method}"].ways[self.way]


def cases(service: str) -> list[Case]:
    """Return every way of every RPC of a service that grants decide about."""
    prefix = f"/podbay.v1.{service}/"
    return [
        Case(name.removeprefix(prefix), way)
        for name, rule in RULES.items()
        if name.startswith(prefix) and rule.who is Who.GRANTED
        for way in range(len(rule.ways))
    ]


def only(needs: tuple[Need, ...], account: str = "*") -> list[account_pb2.Grant]:
    """Return the grants of these needs and of nothing else."""
    return [grant(need.resource, need.function, account) for need in needs]


def all_but(need: Need, account: str = "*") -> list[account_pb2.Grant]:
    """Return the grants of everything but one function on one resource."""
    others = " ".join(name for name in RESOURCES if name != need.resource)
    rest = " ".join(name for name in FUNCTIONS if name != need.function)
    return [grant(others, "*", account), grant(need.resource, rest, account)]


class World:
    """A running service and its account."""

    def __init__(
        self, service: Any, stub: Any, requests: Mapping[Case, Make], service_token: str
    ) -> None:
        self.service: str = service.name
        self.stub = stub
        self.requests = requests
        self.service_token = service_token
        self._methods: Mapping[str, MethodDescriptor] = service.methods_by_name

    async def token(self, grants: list[account_pb2.Grant]) -> str:
        """Return the secret of a token with these grants."""
        raise NotImplementedError

    async def ask(self, method: str, request: Any, token: str) -> Answer:
        """Call an RPC, and return its end, or the first message of a stream."""
        described = self._methods[method]
        given = iter([request]) if described.client_streaming else request
        call = getattr(self.stub, method)(
            given, metadata=(("authorization", f"Bearer {token}"),), timeout=30
        )
        try:
            if described.server_streaming:
                response = await call.read()
                call.cancel()
            else:
                response = await call
        except grpc.aio.AioRpcError as error:
            metadata: Any = error.trailing_metadata()
            details = b"".join(v for k, v in metadata if k == "grpc-status-details-bin")
            return Answer(error.code().name, error.details() or "", details)
        return Answer("OK", "", b"", response)

    def empty(self, method: str) -> Any:
        """Return an empty request."""
        input_type: Any = self._methods[method].input_type
        return input_type._concrete_class()


def _by_id(make: Callable[[], Awaitable[str]], request: Callable[[str], Any]) -> Make:
    async def made(given: str | None) -> Any:
        return request(given if given is not None else await make())

    return made


def _plain(request: Callable[[], Any]) -> Make:
    async def made(_given: str | None) -> Any:
        return request()

    return made


@asynccontextmanager
async def registry_world(folder: Path) -> AsyncIterator[World]:
    """Run a registry with an account."""
    pb = registry_service_pb2
    async with running_registry(folder) as registry:
        await registry.account(ACCOUNT)

        async def model() -> str:
            return (await registry.model(account=ACCOUNT)).id

        async def service() -> str:
            return (await registry.service(account=ACCOUNT)).id

        async def api_token() -> str:
            return (await registry.token(ACCOUNT)).partition(".")[0]

        async def around_a_model(given: str | None) -> Any:
            wanted = image_service(account=ACCOUNT, model=given or await model())
            return pb.CreateInferenceServiceRequest(inference_service=wanted)

        async def local_around_a_model(given: str | None) -> Any:
            wanted = local_service(account=ACCOUNT, model=given or await model())
            return pb.CreateLocalInferenceServiceRequest(inference_service=wanted)

        def upload(name: str) -> Any:
            offer = pb.ModelFileOffer(path="a", size=1, sha256=hashlib.sha256(b"a").hexdigest())
            return pb.UploadModelFileRequest(header=pb.UploadHeader(id=name, file=offer))

        labels = {"a": common_pb2.LabelChange(value="1")}
        edit = common_pb2.DocumentationEdit(title="T")
        names = itertools.count()
        made: dict[str, Make] = {
            "CreateAccount": _plain(lambda: pb.CreateAccountRequest(id=f"new-{next(names)}")),
            "ListAccounts": _plain(pb.ListAccountsRequest),
            "GetAccountQuota": _plain(lambda: pb.GetAccountQuotaRequest(account=ACCOUNT)),
            "SetAccountQuota": _plain(lambda: pb.SetAccountQuotaRequest(account=ACCOUNT)),
            "ListAuditRecords": _plain(pb.ListAuditRecordsRequest),
            "CreateApiToken": _plain(
                # Of a grant that the caller has, whatever else it has.
                lambda: pb.CreateApiTokenRequest(
                    account=ACCOUNT, grants=[grant("apitokens", "create", ACCOUNT)]
                )
            ),
            "ListApiTokens": _plain(pb.ListApiTokensRequest),
            "RevokeApiToken": _by_id(api_token, lambda i: pb.RevokeApiTokenRequest(id=i)),
            "CreateModel": _plain(lambda: pb.CreateModelRequest(model=mock_model(account=ACCOUNT))),
            "GetModel": _by_id(model, lambda i: pb.GetModelRequest(id=i)),
            "ListModels": _plain(pb.ListModelsRequest),
            "LabelModel": _by_id(model, lambda i: pb.LabelModelRequest(id=i, labels=labels)),
            "EditModelDocumentation": _by_id(
                model, lambda i: pb.EditModelDocumentationRequest(id=i, documentation=edit)
            ),
            "DeleteModel": _by_id(model, lambda i: pb.DeleteModelRequest(id=i)),
            "WatchModels": _plain(pb.WatchModelsRequest),
            "ListModelFiles": _by_id(model, lambda i: pb.ListModelFilesRequest(id=i)),
            "OfferModelFiles": _by_id(model, lambda i: pb.OfferModelFilesRequest(id=i)),
            "UploadModelFile": _by_id(model, upload),
            "FinalizeModel": _by_id(model, lambda i: pb.FinalizeModelRequest(id=i)),
            "DownloadModelFile": _by_id(
                model, lambda i: pb.DownloadModelFileRequest(id=i, path="a")
            ),
            "StreamModelLogs": _by_id(model, lambda i: pb.StreamModelLogsRequest(id=i)),
            "CreateInferenceService": around_a_model,
            "CreateLocalInferenceService": local_around_a_model,
            "GetInferenceService": _by_id(service, lambda i: pb.GetInferenceServiceRequest(id=i)),
            "ListInferenceServices": _plain(pb.ListInferenceServicesRequest),
            "LabelInferenceService": _by_id(
                service, lambda i: pb.LabelInferenceServiceRequest(id=i, labels=labels)
            ),
            "EditInferenceServiceDocumentation": _by_id(
                service,
                lambda i: pb.EditInferenceServiceDocumentationRequest(id=i, documentation=edit),
            ),
            "DeleteInferenceService": _by_id(
                service, lambda i: pb.DeleteInferenceServiceRequest(id=i)
            ),
            "WatchInferenceServices": _plain(pb.WatchInferenceServicesRequest),
        }

        class RegistryWorld(World):
            async def token(self, grants: list[account_pb2.Grant]) -> str:
                return await registry.token("admin", *grants)

        yield RegistryWorld(
            pb.DESCRIPTOR.services_by_name["RegistryService"],
            registry.stub,
            {Case(name, 0): make for name, make in made.items()},
            REGISTRY_SERVICE_TOKEN,
        )


@asynccontextmanager
async def session_manager_world(folder: Path) -> AsyncIterator[World]:
    """Run a session manager with a service of an account."""
    pb = session_manager_service_pb2
    async with session_manager(folder, drivers=("inprocess",)) as rig:
        service = rig.registry.add(account=ACCOUNT)

        def wanted(given: str | None) -> inference_session_pb2.InferenceSessionCreateRequest:
            return inference_session_pb2.InferenceSessionCreateRequest(
                account=ACCOUNT, inference_service=given or service
            )

        async def create(given: str | None) -> Any:
            return pb.CreateInferenceSessionRequest(inference_session=wanted(given))

        async def explain(given: str | None) -> Any:
            return pb.ExplainPlacementRequest(inference_session=wanted(given))

        async def session() -> str:
            return str((await rig.create(service)).inferencesession.id)

        labels = {"a": common_pb2.LabelChange(value="1")}
        named = {
            "GetInferenceSession": lambda i: pb.GetInferenceSessionRequest(id=i),
            "LabelInferenceSession": lambda i: pb.LabelInferenceSessionRequest(id=i, labels=labels),
            "TerminateInferenceSession": lambda i: pb.TerminateInferenceSessionRequest(id=i),
            "DeleteInferenceSession": lambda i: pb.DeleteInferenceSessionRequest(id=i),
            "CreateSessionToken": lambda i: pb.CreateSessionTokenRequest(id=i),
            "RevokeSessionTokens": lambda i: pb.RevokeSessionTokensRequest(id=i),
            "GetInferenceSessionStatus": lambda i: pb.GetInferenceSessionStatusRequest(id=i),
            "WatchInferenceSessionStatus": lambda i: pb.WatchInferenceSessionStatusRequest(id=i),
            "StreamInferenceSessionLogs": lambda i: pb.StreamInferenceSessionLogsRequest(id=i),
            "ExplainPlacement": lambda i: pb.ExplainPlacementRequest(id=i),
        }
        node = inference_session_pb2.NodeDeclaration(name="n9", engine="unix:///run/none.sock")
        plain: dict[str, Callable[[], Any]] = {
            "ListInferenceSessions": pb.ListInferenceSessionsRequest,
            "WatchInferenceSessions": pb.WatchInferenceSessionsRequest,
            "ListNodes": pb.ListNodesRequest,
            "GetNode": lambda: pb.GetNodeRequest(name="local"),
            "CordonNode": lambda: pb.CordonNodeRequest(name="local"),
            "UncordonNode": lambda: pb.UncordonNodeRequest(name="local"),
            "DrainNode": lambda: pb.DrainNodeRequest(name="local"),
            "UndrainNode": lambda: pb.UndrainNodeRequest(name="local"),
            "DeclareNode": lambda: pb.DeclareNodeRequest(node=node),
            "WithdrawNode": lambda: pb.WithdrawNodeRequest(name="n9"),
            "WatchNodes": pb.WatchNodesRequest,
            "GetAccountUsage": lambda: pb.GetAccountUsageRequest(account=ACCOUNT),
            "ListSessionAuditRecords": pb.ListSessionAuditRecordsRequest,
            "ListSigningKeys": pb.ListSigningKeysRequest,
            "RotateSigningKeys": pb.RotateSigningKeysRequest,
        }
        made: dict[Case, Make] = {
            Case("CreateInferenceSession", 0): create,
            Case("ExplainPlacement", 1): explain,
            **{Case(name, 0): _by_id(session, make) for name, make in named.items()},
            **{Case(name, 0): _plain(make) for name, make in plain.items()},
        }
        secrets = itertools.count()

        class SessionManagerWorld(World):
            async def token(self, grants: list[account_pb2.Grant]) -> str:
                name = f"token-{next(secrets)}"
                rig.registry.tokens[name] = account_pb2.ApiToken(
                    id=name, account="admin", grants=grants
                )
                return name

        yield SessionManagerWorld(
            pb.DESCRIPTOR.services_by_name["SessionManagerService"],
            rig.stub,
            made,
            SERVICE_TOKEN,
        )


def named(case: Case, service: str) -> bool:
    """Say whether a case's request names a resource by an id that belongs to an account."""
    return any(need.found is Found.RESOURCE for need in case.needs(service))
