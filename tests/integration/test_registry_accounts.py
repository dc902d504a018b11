"""Accounts, API tokens, and who may do what, over a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from podbay.v1 import account_pb2, common_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.storage import Database, sqlite_url
from podbay_registry.token_store import TokenStore
from tests.support.clock import FakeClock
from tests.support.registry import (
    SERVICE_TOKEN,
    Registry,
    grant,
    local_service,
    mock_model,
    running_registry,
)
from tests.support.rpc import details_of

CODE = grpc.StatusCode


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def registry(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path, clock=clock) as running:
        yield running


async def failure(call: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    """Return the code, the reason and the paths of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, bad = details_of(caught.value)
    paths = [violation.field for violation in bad.field_violations] if bad else []
    return caught.value.code(), info.reason, paths


def whoami() -> pb.GetInstallationRequest:
    return pb.GetInstallationRequest()


async def test_the_installation_tells_where_the_others_are(registry: Registry) -> None:
    answer = await registry.call("GetInstallation", whoami())
    assert len(answer.installation_id) == 32
    assert answer.version
    assert answer.session_manager_endpoint == "127.0.0.1:7102"
    assert answer.inference_router_endpoint == "127.0.0.1:7103"
    assert answer.account == "admin"
    token = await registry.account("acme")
    assert (await registry.call("GetInstallation", whoami(), token=token)).account == "acme"


async def test_health_and_reflection_need_no_token(registry: Registry) -> None:
    health = health_pb2_grpc.HealthStub(registry.channel)
    for name in ("", "podbay.v1.RegistryService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    call = reflection_pb2_grpc.ServerReflectionStub(registry.channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    listed = (await call.read()).list_services_response.service
    assert "podbay.v1.RegistryService" in {service.name for service in listed}


async def test_no_call_without_a_token(registry: Registry) -> None:
    assert await failure(registry.stub.GetInstallation(whoami())) == (
        CODE.UNAUTHENTICATED,
        "TOKEN_MISSING",
        [],
    )
    watch = registry.stub.WatchModels(pb.WatchModelsRequest())
    assert (await failure(watch.read()))[1] == "TOKEN_MISSING"


@pytest.mark.parametrize("token", ["x", "pbt_0.0", SERVICE_TOKEN + "x", "a.b.c", "x" * 4000])
async def test_other_tokens_are_invalid(registry: Registry, token: str) -> None:
    assert (await failure(registry.call("GetInstallation", whoami(), token=token)))[:2] == (
        CODE.UNAUTHENTICATED,
        "TOKEN_INVALID",
    )
    # The right id with another secret is no better.
    made = registry.admin_token
    other = made[:-1] + ("A" if made[-1] != "A" else "B")
    call = registry.call("GetInstallation", whoami(), token=other)
    assert (await failure(call))[1] == "TOKEN_INVALID"


async def test_a_token_ends_when_it_expires(registry: Registry, clock: FakeClock) -> None:
    request = pb.CreateApiTokenRequest(account="admin", name="short")
    request.expires.FromDatetime(clock.now() + timedelta(seconds=60))
    made = await registry.call("CreateApiToken", request)
    assert made.api_token.expires == request.expires
    await registry.call("GetInstallation", whoami(), token=made.secret)
    clock.advance(59)
    await registry.call("GetInstallation", whoami(), token=made.secret)
    clock.advance(1)
    call = registry.call("GetInstallation", whoami(), token=made.secret)
    assert (await failure(call))[:2] == (CODE.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_a_revoked_token_ends_at_once(registry: Registry) -> None:
    made = await registry.call("CreateApiToken", pb.CreateApiTokenRequest(account="admin"))
    await registry.call("GetInstallation", whoami(), token=made.secret)
    request = pb.RevokeApiTokenRequest(id=made.api_token.id)
    first = await registry.call("RevokeApiToken", request)
    assert first.api_token.HasField("revoked")
    call = registry.call("GetInstallation", whoami(), token=made.secret)
    assert (await failure(call))[:2] == (CODE.UNAUTHENTICATED, "TOKEN_REVOKED")
    assert await registry.call("RevokeApiToken", request) == first


async def test_an_unknown_token_cannot_be_revoked(registry: Registry) -> None:
    for token_id in ("", "pbt_0", "\0", registry.admin_token):
        call = registry.call("RevokeApiToken", pb.RevokeApiTokenRequest(id=token_id))
        assert (await failure(call))[:2] == (CODE.NOT_FOUND, "API_TOKEN_NOT_FOUND")


async def test_services_ask_whom_a_token_acts_for(registry: Registry) -> None:
    secret = await registry.account("acme")
    answer = await registry.call(
        "Authenticate", pb.AuthenticateRequest(secret=secret), token=SERVICE_TOKEN
    )
    assert answer.valid
    assert answer.api_token.account == "acme"
    assert list(answer.api_token.grants[0].accounts) == ["acme"]

    async def reason(given: str) -> str:
        request = pb.AuthenticateRequest(secret=given)
        got = await registry.call("Authenticate", request, token=SERVICE_TOKEN)
        assert not got.valid
        assert not got.HasField("api_token")
        return str(got.reason)

    assert await reason("") == "TOKEN_INVALID"
    assert await reason("nonsense") == "TOKEN_INVALID"
    await registry.call("RevokeApiToken", pb.RevokeApiTokenRequest(id=answer.api_token.id))
    assert await reason(secret) == "TOKEN_REVOKED"
    # Not even the administrator may ask.
    call = registry.call("Authenticate", pb.AuthenticateRequest(secret=secret))
    assert (await failure(call))[:2] == (CODE.PERMISSION_DENIED, "PERMISSION_DENIED")


@pytest.mark.parametrize("account_id", ["", "-x", "x\n", "a b", "*", "ä", "x" * 64, "a/b", "\0"])
async def test_accounts_have_ids_of_a_form(registry: Registry, account_id: str) -> None:
    call = registry.call("CreateAccount", pb.CreateAccountRequest(id=account_id))
    assert await failure(call) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST", ["id"])


async def test_accounts_are_made_once_and_listed(registry: Registry) -> None:
    for account in ("acme", "Other.1", "z" * 63):
        await registry.call("CreateAccount", pb.CreateAccountRequest(id=account))
    call = registry.call("CreateAccount", pb.CreateAccountRequest(id="acme"))
    assert (await failure(call))[:2] == (CODE.ALREADY_EXISTS, "ALREADY_EXISTS")
    found: list[str] = []
    page = common_pb2.PageRequest(page_size=1, order_by="id")
    while True:
        got = await registry.call("ListAccounts", pb.ListAccountsRequest(page=page))
        found += [account.id for account in got.accounts]
        page.page_token = got.page.next_page_token
        if not page.page_token:
            break
    assert found == ["Other.1", "acme", "admin", "z" * 63]


async def test_a_token_sees_only_its_account(registry: Registry) -> None:
    token = await registry.account("acme")
    await registry.account("other")
    accounts = await registry.call("ListAccounts", pb.ListAccountsRequest(), token=token)
    assert [account.id for account in accounts.accounts] == ["acme"]
    tokens = await registry.call("ListApiTokens", pb.ListApiTokensRequest(), token=token)
    assert {each.account for each in tokens.api_tokens} == {"acme"}
    every = await registry.call("ListApiTokens", pb.ListApiTokensRequest())
    assert {each.account for each in every.api_tokens} == {"admin", "acme", "other"}
    one = await registry.call("ListApiTokens", pb.ListApiTokensRequest(account="other"))
    assert {each.account for each in one.api_tokens} == {"other"}


async def test_tokens_are_listed_by_page_without_secrets(registry: Registry) -> None:
    for name in ("b", "a", "c"):
        request = pb.CreateApiTokenRequest(account="admin", name=name)
        await registry.call("CreateApiToken", request)
    page = common_pb2.PageRequest(
        page_size=3, order_by="name", order=common_pb2.SORT_ORDER_DESCENDING
    )
    first = await registry.call("ListApiTokens", pb.ListApiTokensRequest(page=page))
    page.page_token = first.page.next_page_token
    second = await registry.call("ListApiTokens", pb.ListApiTokensRequest(page=page))
    names = [token.name for token in (*first.api_tokens, *second.api_tokens)]
    assert names == ["c", "b", "administrator", "a"]
    assert not second.page.next_page_token
    assert registry.admin_token.partition(".")[2] not in str(first) + str(second)
    # A page token of this list is none of another.
    call = registry.call("ListApiTokens", pb.ListApiTokensRequest(page=page, account="admin"))
    assert (await failure(call))[:2] == (CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_a_token_can_be_made_only_for_an_account_that_exists(registry: Registry) -> None:
    call = registry.call("CreateApiToken", pb.CreateApiTokenRequest(account="nobody"))
    assert (await failure(call))[:2] == (CODE.NOT_FOUND, "ACCOUNT_NOT_FOUND")


async def test_bad_token_requests_name_the_field(registry: Registry, clock: FakeClock) -> None:
    def request(**fields: Any) -> pb.CreateApiTokenRequest:
        return pb.CreateApiTokenRequest(**{"account": "admin", **fields})

    past = request()
    past.expires.FromDatetime(clock.now())
    beyond = request()
    beyond.expires.seconds = 2**62
    cases = {
        "account": request(account=""),
        "name": request(name="x" * 201),
        "expires": past,
        "grants.0.resources.0": request(grants=[grant("sessions", "*", "*")]),
    }
    for path, bad in cases.items():
        assert (await failure(registry.call("CreateApiToken", bad)))[2] == [path]
    assert (await failure(registry.call("CreateApiToken", beyond)))[2] == ["expires"]


async def test_a_token_gets_only_what_its_maker_has(registry: Registry) -> None:
    token = await registry.account("acme")
    await registry.call("CreateAccount", pb.CreateAccountRequest(id="other"))

    def make(*grants: account_pb2.Grant, account: str = "acme") -> Any:
        request = pb.CreateApiTokenRequest(account=account, grants=grants)
        return registry.call("CreateApiToken", request, token=token)

    denied = (CODE.PERMISSION_DENIED, "PERMISSION_DENIED", [])
    assert await failure(make(grant("*", "*", "*"))) == denied
    assert await failure(make(grant("models", "get", "acme other"))) == denied
    assert await failure(make(account="other")) == denied
    reader = (await make(grant("models", "get query", "acme"))).secret
    model = await registry.model(token, account="acme")
    got = await registry.call("GetModel", pb.GetModelRequest(id=model.id), token=reader)
    assert got.model == model
    request = pb.CreateModelRequest(model=mock_model(account="acme"))
    assert await failure(registry.call("CreateModel", request, token=reader)) == denied
    request = pb.CreateApiTokenRequest(account="acme")
    assert await failure(registry.call("CreateApiToken", request, token=reader)) == denied
    # Revoking needs the grant on the other's account.
    admin_id = registry.admin_token.partition(".")[0]
    revoke = pb.RevokeApiTokenRequest(id=admin_id)
    hidden = (CODE.NOT_FOUND, "API_TOKEN_NOT_FOUND", [])
    assert await failure(registry.call("RevokeApiToken", revoke, token=token)) == hidden


async def test_a_token_that_ends_makes_none_that_lasts_longer(
    registry: Registry, clock: FakeClock
) -> None:
    await registry.account("acme")
    end = clock.now().replace(microsecond=0) + timedelta(hours=1)

    def make(expires: datetime | None, token: str | None = None) -> Any:
        request = pb.CreateApiTokenRequest(account="acme", expires=expires)
        return registry.call("CreateApiToken", request, token=token)

    short = (await make(end)).secret
    for longer in (None, end + timedelta(seconds=1)):
        refused = await failure(make(longer, short))
        assert refused == (CODE.PERMISSION_DENIED, "PERMISSION_DENIED", [])
    for within in (end, end - timedelta(minutes=1)):
        made = await make(within, short)
        assert made.api_token.expires.ToDatetime(tzinfo=UTC) == within
    # One without an end makes what it wants.
    assert not (await make(None)).api_token.HasField("expires")


async def test_every_rpc_needs_its_grant(registry: Registry) -> None:
    model = await registry.model()
    service = await registry.service()
    token = await registry.account("stranger")
    denied = (CODE.PERMISSION_DENIED, "PERMISSION_DENIED", [])
    hidden = {
        "Model": (CODE.NOT_FOUND, "MODEL_NOT_FOUND", []),
        "Service": (CODE.NOT_FOUND, "INFERENCE_SERVICE_NOT_FOUND", []),
    }
    labels = {"a": common_pb2.LabelChange(value="1")}
    edit = common_pb2.DocumentationEdit(title="Mine now")
    calls: dict[str, Any] = {
        "CreateAccount": pb.CreateAccountRequest(id="new"),
        "CreateApiToken": pb.CreateApiTokenRequest(account="admin"),
        "CreateModel": pb.CreateModelRequest(model=mock_model()),
        "GetModel": pb.GetModelRequest(id=model.id),
        "LabelModel": pb.LabelModelRequest(id=model.id, labels=labels),
        "EditModelDocumentation": pb.EditModelDocumentationRequest(id=model.id, documentation=edit),
        "DeleteModel": pb.DeleteModelRequest(id=model.id),
        "CreateLocalInferenceService": pb.CreateLocalInferenceServiceRequest(
            inference_service=local_service()
        ),
        "GetInferenceService": pb.GetInferenceServiceRequest(id=service.id),
        "LabelInferenceService": pb.LabelInferenceServiceRequest(id=service.id, labels=labels),
        "EditInferenceServiceDocumentation": pb.EditInferenceServiceDocumentationRequest(
            id=service.id, documentation=edit
        ),
        "DeleteInferenceService": pb.DeleteInferenceServiceRequest(id=service.id),
    }
    for method, request in calls.items():
        expected = denied
        if not method.startswith("Create"):
            # What belongs to others is answered as what does not exist.
            expected = hidden["Model" if "Model" in method else "Service"]
        assert await failure(registry.call(method, request, token=token)) == expected, method
    # What is not covered is not shown, and is no error.
    models = await registry.call("ListModels", pb.ListModelsRequest(), token=token)
    assert list(models.models) == []
    services = pb.ListInferenceServicesRequest()
    listed = await registry.call("ListInferenceServices", services, token=token)
    assert list(listed.inference_services) == []
    # And nothing of the above happened.
    assert (await registry.call("GetModel", pb.GetModelRequest(id=model.id))).model == model


async def test_a_service_does_not_reveal_a_model_of_others(registry: Registry) -> None:
    model = await registry.model()
    token = await registry.account("acme")
    request = pb.CreateLocalInferenceServiceRequest(
        inference_service=local_service(account="acme", model=model.id)
    )
    call = registry.call("CreateLocalInferenceService", request, token=token)
    assert (await failure(call))[1] == "MODEL_NOT_FOUND"


async def test_grants_on_single_resources(registry: Registry) -> None:
    mine, hidden = await registry.model(name="mine"), await registry.model(name="hidden")
    await registry.call("CreateAccount", pb.CreateAccountRequest(id="guest"))
    token = await registry.token("guest", grant("models", "get query", "", mine.id))
    listed = await registry.call("ListModels", pb.ListModelsRequest(), token=token)
    assert [model.name for model in listed.models] == ["mine"]
    call = registry.call("GetModel", pb.GetModelRequest(id=hidden.id), token=token)
    assert (await failure(call))[1] == "MODEL_NOT_FOUND"


async def test_a_revocation_by_another_process_is_seen_within_seconds(
    registry: Registry, clock: FakeClock, tmp_path: Path
) -> None:
    made = await registry.call("CreateApiToken", pb.CreateApiTokenRequest(account="admin"))
    await registry.call("GetInstallation", whoami(), token=made.secret)
    database = Database(sqlite_url(tmp_path / "registry" / "registry.sqlite3"))
    try:
        await database.write(lambda conn: TokenStore().revoke(conn, made.api_token.id, clock.now()))
    finally:
        await database.close()
    clock.advance(5)
    call = registry.call("GetInstallation", whoami(), token=made.secret)
    assert (await failure(call))[1] == "TOKEN_REVOKED"
