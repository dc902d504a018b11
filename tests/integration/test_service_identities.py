"""Mutual TLS between services: who may call what, and what a stolen token is worth."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.certs import CertificateFolder, issuing
from podbay.schema.identities import INFERENCE_ROUTER, REGISTRY, SERVICES, SESSION_MANAGER, Identity
from podbay.v1 import (
    inference_router_service_pb2,
    registry_service_pb2,
    session_manager_service_pb2,
)
from podbay.v1.registry_service_pb2_grpc import RegistryServiceStub
from podbay_kit.service_link import ServiceLink
from podbay_kit.serving import GrpcServer, ServerTls, ServiceRegistration
from podbay_kit.tls_files import LiveTls
from tests.support.certificates import certificates, expired
from tests.support.registry import SERVICE_TOKEN, Registry, running_registry
from tests.support.rpc import details_of
from tests.support.session_manager import session_manager

# What each service may call, written down a second time and by hand.
ALLOWED = {
    ("RegistryService", "Authenticate", SESSION_MANAGER),
    ("RegistryService", "GetInferenceService", SESSION_MANAGER),
    ("RegistryService", "GetAccountQuota", SESSION_MANAGER),
    ("RegistryService", "WatchAccountQuotas", SESSION_MANAGER),
    ("RegistryService", "GetModel", SESSION_MANAGER),
    ("RegistryService", "ListModelFiles", SESSION_MANAGER),
    ("RegistryService", "DownloadModelFile", SESSION_MANAGER),
    ("SessionManagerService", "WatchRoutes", INFERENCE_ROUTER),
    ("SessionManagerService", "AcknowledgeRoutes", INFERENCE_ROUTER),
    ("SessionManagerService", "ShareLimits", INFERENCE_ROUTER),
    ("SessionManagerService", "ReportReplica", INFERENCE_ROUTER),
    ("SessionManagerService", "ReportUsage", INFERENCE_ROUTER),
}
# What those are told who may call, and ask for nothing.
LET_IN = {"OK", "MODEL_NOT_FOUND", "INFERENCE_SERVICE_NOT_FOUND", "INVALID_REQUEST"}


@dataclass
class Secured:
    """A service that speaks TLS, and connections to it."""

    made: CertificateFolder
    port: int
    service_port: int
    stack: AsyncExitStack

    def channel(
        self,
        who: str | None,
        *,
        port: int | None = None,
        trust: CertificateFolder | None = None,
        show: CertificateFolder | None = None,
        name: str | None = None,
    ) -> grpc.aio.Channel:
        """Connect with the certificate of somebody, or without any."""
        key = chain = None
        if who is not None:
            folder = (show or self.made).folder_of(who)
            key, chain = (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(
            (trust or self.made).ca_file.read_bytes(), key, chain
        )
        options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
        if name is not None:
            options.append(("grpc.ssl_target_name_override", name))
        channel = grpc.aio.secure_channel(
            f"127.0.0.1:{port or self.service_port}", credentials, options=options
        )
        self.stack.push_async_callback(channel.close)
        return channel


def server_tls(made: CertificateFolder, service: str) -> ServerTls:
    return ServerTls(LiveTls(made.folder_of(service), service), "127.0.0.1:0")


def with_clients(folder: Path) -> CertificateFolder:

    made = certificates(folder)
    made.issue("client/ops", (), datetime.now(UTC))
    return made


@asynccontextmanager
async def secured_registry(folder: Path) -> AsyncIterator[tuple[Secured, Registry]]:
    made = with_clients(folder / "certs")
    tls = server_tls(made, REGISTRY)
    async with (
        AsyncExitStack() as stack,
        running_registry(folder, service_token=None, tls=tls) as registry,
    ):
        assert tls.service_port
        yield Secured(made, registry.port, tls.service_port, stack), registry


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    async with secured_registry(tmp_path) as (found, _):
        yield found


def _reason(code: grpc.StatusCode, trailing: Any) -> str:
    if any(key == "grpc-status-details-bin" for key, _ in trailing or ()):
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing)
        return details_of(error)[0].reason
    return code.name


async def outcome(
    channel: grpc.aio.Channel, method: Any, token: str | None = None, *, ends: bool = False
) -> str:
    """Call a method with an empty request; returns "OK", the reason, or the bare code.

    A stream of requests stays empty, and open unless it is to end.
    """
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    kind = "stream" if method.client_streaming else "unary"
    answers = "stream" if method.server_streaming else "unary"
    call: Any = getattr(channel, f"{kind}_{answers}")(path)
    # A stream of requests stays empty: a call that ends while one is on its way is INTERNAL.
    requests = () if method.client_streaming else (b"",)
    begun = call(*requests, metadata=metadata, timeout=20)
    try:
        if ends and method.client_streaming:
            await begun.done_writing()
        if method.server_streaming:
            # The first answer, or the refusal.
            await begun.read()
            if begun.done():
                code = await begun.code()
                if code is not grpc.StatusCode.OK:
                    return _reason(code, await begun.trailing_metadata())
        else:
            await begun
    except grpc.aio.AioRpcError as error:
        return _reason(error.code(), error.trailing_metadata())
    finally:
        begun.cancel()
    return "OK"


def methods(module: Any) -> list[Any]:
    (service,) = module.DESCRIPTOR.services_by_name.values()
    return list(service.methods)


async def check_table(secured: Secured, module: Any) -> None:
    """Every RPC with every identity: the table holds, and nothing beside it."""
    token = "podbay_not.a-token-of-this-installation"
    for who in (*SERVICES, "client/ops"):
        channel = secured.channel(who)
        for method in methods(module):
            case = (method.containing_service.name, method.name, who)
            found = await outcome(channel, method, ends=case in ALLOWED)
            if case in ALLOWED:
                assert found in LET_IN, case
            elif who == "client/ops":
                # A certificate of a client opens the door; a token says who it is.
                assert found == "TOKEN_MISSING", case
                assert await outcome(channel, method, token) == "TOKEN_INVALID", case
            else:
                assert found == "SERVICE_IDENTITY_DENIED", case
                # A token does not mend that.
                assert await outcome(channel, method, token) == "SERVICE_IDENTITY_DENIED", case


async def test_the_table_of_the_registry(secured: Secured) -> None:
    await check_table(secured, registry_service_pb2)


async def test_the_table_of_the_session_manager(tmp_path: Path) -> None:
    async with secured_registry(tmp_path) as (registry, _), AsyncExitStack() as stack:
        rig = await stack.enter_async_context(session_manager(tmp_path / "data"))
        await rig.stop()
        tls = server_tls(registry.made, SESSION_MANAGER)
        await rig.start(
            tls=tls,
            service_token=None,
            registry_endpoint=f"127.0.0.1:{registry.service_port}",
        )
        assert tls.service_port
        # That it says of a token that it is none shows that it asked the registry.
        await check_table(
            Secured(registry.made, rig.port, tls.service_port, stack), session_manager_service_pb2
        )


async def test_no_service_calls_the_router(tmp_path: Path) -> None:
    made = with_clients(tmp_path / "certs")
    certificate = LiveTls(made.folder_of(INFERENCE_ROUTER), INFERENCE_ROUTER)
    server = GrpcServer(
        listen="127.0.0.1:0",
        services=[router_methods()],
        authenticator=None,
        tls=ServerTls(certificate, require_client_certificates=True),
    )
    port = await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        secured = Secured(made, port, port, stack)
        for method in methods(inference_router_service_pb2):
            for who in SERVICES:
                found = await outcome(secured.channel(who), method)
                assert found == "SERVICE_IDENTITY_DENIED", (method.name, who)
            assert await outcome(secured.channel("client/ops"), method) == "OK"
            assert await outcome(secured.channel(None), method) == "UNAVAILABLE"


def router_methods() -> Any:
    """A router that answers all."""

    name = "podbay.v1.InferenceRouterService"

    async def one(_request: Any, _context: Any) -> bytes:
        return b""

    async def many(_request: Any, context: Any) -> None:
        await context.write(b"")

    def parse(data: bytes) -> Any:
        return inference_router_service_pb2.InferRequest.FromString(data)

    handlers = {
        "Infer": grpc.unary_unary_rpc_method_handler(one, parse),
        "StreamInfer": grpc.unary_stream_rpc_method_handler(many, parse),
        "Exchange": grpc.stream_stream_rpc_method_handler(many),
    }
    return ServiceRegistration(
        name,
        lambda server: server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, handlers),)
        ),
    )


async def test_a_stolen_service_token_opens_nothing(secured: Secured) -> None:
    found = {
        port: {
            method.name: await outcome(secured.channel(who, port=port), method, SERVICE_TOKEN)
            for method in methods(registry_service_pb2)
        }
        for port, who in ((secured.port, None), (secured.service_port, "client/ops"))
    }
    assert {reason for found_on in found.values() for reason in found_on.values()} == {
        "TOKEN_INVALID"
    }


async def test_a_service_is_nobody_where_no_certificates_are_asked_for(secured: Secured) -> None:
    """gRPC takes no certificate there, so that none can be believed by mistake."""
    channel = secured.channel(SESSION_MANAGER, port=secured.port)
    for method in methods(registry_service_pb2):
        assert await outcome(channel, method) == "TOKEN_MISSING"


async def test_an_administrator_is_no_service(tmp_path: Path) -> None:
    async with secured_registry(tmp_path) as (secured, registry):
        channel = secured.channel(None, port=secured.port)
        found = {
            method.name: await outcome(channel, method, registry.admin_token)
            for method in methods(registry_service_pb2)
            if method.name in ("GetInstallation", "Authenticate")
        }
    assert found == {"GetInstallation": "OK", "Authenticate": "PERMISSION_DENIED"}


@pytest.mark.parametrize("case", ["none", "foreign", "expired", "another installation"])
async def test_the_door_for_services_is_shut(secured: Secured, tmp_path: Path, case: str) -> None:
    (method,) = [m for m in methods(registry_service_pb2) if m.name == "Authenticate"]
    assert await outcome(secured.channel(SESSION_MANAGER), method) == "OK"
    show, who = secured.made, SESSION_MANAGER
    if case == "none":
        channel = secured.channel(None)
    elif case == "expired":
        expired(secured.made, SESSION_MANAGER)
        channel = secured.channel(who)
    else:
        # Another authority that gives out the same names, or others.
        show = certificates(tmp_path / "other", "acme" if case == "foreign" else "elsewhere")
        channel = secured.channel(who, show=show)
    assert await outcome(channel, method) == "UNAVAILABLE"


async def test_another_installation_of_the_same_authority_is_denied(tmp_path: Path) -> None:
    """As where a company's authority issues for several."""

    async with secured_registry(tmp_path) as (secured, _):
        authority = issuing.Authority(
            issuing.key_of(secured.made.ca_key_file.read_bytes()),
            issuing.x509.load_pem_x509_certificate(secured.made.ca_file.read_bytes()),
        )
        issued = issuing.issue(
            authority, Identity("elsewhere", SESSION_MANAGER), [], 1, datetime.now(UTC)
        )
        folder = secured.made.folder_of(SESSION_MANAGER)
        (folder / "tls.key").write_bytes(issued.key)
        (folder / "tls.crt").write_bytes(issued.certificate)
        for method in methods(registry_service_pb2):
            found = await outcome(secured.channel(SESSION_MANAGER), method)
            assert found == "SERVICE_IDENTITY_DENIED"


async def test_a_service_speaks_to_no_other_than_it_means(tmp_path: Path) -> None:
    """The session manager's certificate is good, and at the registry's address: it is refused."""
    made = certificates(tmp_path / "certs")
    tls = server_tls(made, SESSION_MANAGER)
    server = GrpcServer(listen="127.0.0.1:0", services=[], authenticator=None, tls=tls)
    await server.start()
    certificate = LiveTls(made.folder_of(INFERENCE_ROUTER), INFERENCE_ROUTER)
    links = {
        meant: ServiceLink(
            f"127.0.0.1:{tls.service_port}", meant, RegistryServiceStub, certificate=certificate
        )
        for meant in (REGISTRY, SESSION_MANAGER)
    }
    failures = {}
    try:
        for meant, link in links.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await link.stub.Authenticate(registry_service_pb2.AuthenticateRequest(), timeout=20)
            failures[meant] = caught.value
        assert failures[REGISTRY].code() is grpc.StatusCode.UNAVAILABLE
        assert "Hostname Verification Check failed" in (failures[REGISTRY].details() or "")
        # It is the name alone: who means the session manager gets through, to what it has not.
        assert failures[SESSION_MANAGER].code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        for link in links.values():
            await link.close()
        await server.stop(0)


def shown_at(made: CertificateFolder, port: int) -> bytes:
    """Connect anew, and return the certificate that is shown."""
    context = ssl.create_default_context(cafile=made.ca_file)
    context.set_alpn_protocols(["h2"])

    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        found = secure.getpeercert(binary_form=True)
    assert found is not None
    return found


async def test_certificates_and_their_authority_are_renewed_under_traffic(tmp_path: Path) -> None:
    """No call fails: of a service, of a client that stays, and of clients that come and go."""

    async with secured_registry(tmp_path) as (secured, registry):
        made = secured.made
        calls = {"service": 0, "client": 0, "newcomer": 0}
        stop = asyncio.Event()
        link = ServiceLink(
            f"127.0.0.1:{secured.service_port}",
            REGISTRY,
            RegistryServiceStub,
            certificate=LiveTls(made.folder_of(SESSION_MANAGER), SESSION_MANAGER),
        )
        installation = registry_service_pb2.GetInstallationRequest()
        token = (("authorization", f"Bearer {registry.admin_token}"),)

        async def service() -> None:
            while not stop.is_set():
                await link.stub.Authenticate(registry_service_pb2.AuthenticateRequest(), timeout=20)
                calls["service"] += 1

        async def client() -> None:
            stub: Any = RegistryServiceStub(secured.channel(None, port=secured.port))
            while not stop.is_set():
                await stub.GetInstallation(installation, metadata=token, timeout=20)
                calls["client"] += 1

        async def newcomer() -> None:
            while not stop.is_set():
                channel = secured.channel(None, port=secured.port)
                stub: Any = RegistryServiceStub(channel)
                await stub.GetInstallation(installation, metadata=token, timeout=20)
                await channel.close()
                calls["newcomer"] += 1

        async def more() -> None:
            """Return when each has made further calls."""
            seen = dict(calls)
            async with asyncio.timeout(30):
                while any(calls[who] < seen[who] + 3 for who in calls):
                    for task in tasks:
                        if task.done():
                            task.result()
                    await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(run()) for run in (service, client, newcomer)]
        seen = [await asyncio.to_thread(shown_at, made, secured.port)]
        try:
            steps = [
                lambda: made.renew(datetime.now(UTC), everything=True),
                lambda: made.renew(datetime.now(UTC), everything=True),
                lambda: made.renew_authority(datetime.now(UTC)),
                lambda: made.renew(datetime.now(UTC)),
                made.forget_old_authorities,
                lambda: made.renew(datetime.now(UTC), everything=True),
            ]
            for step in steps:
                await more()
                await asyncio.to_thread(step)
                await more()
                seen.append(await asyncio.to_thread(shown_at, made, secured.port))
        finally:
            stop.set()
            await asyncio.gather(*tasks)
            await link.close()
        # Three renewals and the new authority's: as many certificates were shown, each at once.
        assert len(set(seen)) == 5
        assert seen[2] == seen[3]
        assert seen[4] == seen[5]
