"""The registry's audit log: every change and every refusal, whole after any crash, no secrets."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.v1 import account_pb2, audit_pb2, common_pb2, errors_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay.v1.registry_service_pb2_grpc import RegistryServiceStub
from podbay_registry.audited import CHANGING
from tests.support.model_files import upload_all, uploaded_model
from tests.support.registry import Registry, grant, mock_model, running_registry
from tests.support.registry_process import RegistryProcess

KILLS = 4
R = errors_pb2


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path) as running:
        yield running


async def records(
    registry: Registry, token: str | None = None, **selected: Any
) -> list[audit_pb2.AuditRecord]:
    """Return the entries that a token may see, oldest first."""
    found: list[audit_pb2.AuditRecord] = []
    page = ""
    while True:
        request = pb.ListAuditRecordsRequest(
            filter=audit_pb2.AuditFilter(**selected), page_token=page, page_size=50
        )
        answer = await registry.call("ListAuditRecords", request, token=token)
        found += answer.records
        page = answer.next_page_token
        if not page:
            return found[::-1]


async def fails(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def label(model: str, value: str = "x") -> pb.LabelModelRequest:
    return pb.LabelModelRequest(id=model, labels={"k": common_pb2.LabelChange(value=value)})


async def test_every_kind_of_change_is_there_with_who_what_where_and_when(
    registry: Registry,
) -> None:
    token = await registry.account("acme")
    model = await uploaded_model(registry, {"a": b"abc"}, token=token, account="acme")
    await upload_all(registry, model.id, {"a": b"abc"})
    await registry.call("LabelModel", label(model.id), token=token)
    await registry.call(
        "EditModelDocumentation",
        pb.EditModelDocumentationRequest(id=model.id),
        token=token,
    )
    await registry.call("GetModel", pb.GetModelRequest(id=model.id), token=token)
    await registry.call("ListModels", pb.ListModelsRequest(), token=token)
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id), token=token)
    found = await records(registry, account="acme")
    assert [each.method for each in found] == [
        "CreateAccount",
        "CreateApiToken",
        "CreateModel",
        "OfferModelFiles",
        "UploadModelFile",
        "FinalizeModel",
        "LabelModel",
        "EditModelDocumentation",
        "DeleteModel",
    ]
    assert {each.resource for each in found[2:]} == {"models"}
    assert {each.resource_id for each in found[2:]} == {model.id}
    assert {(each.code, each.reason, each.count) for each in found} == {(0, 0, 1)}
    assert all(each.peer.startswith(("127.0.0.1:", "[::1]:")) for each in found)
    assert len({each.call_id for each in found}) == len(found)
    token_id = token.partition(".")[0]
    assert found[1].resource_id == token_id
    assert {(each.actor_account, each.actor_token) for each in found[6:]} == {("acme", token_id)}
    assert {each.actor_account for each in found[:2]} == {"admin"}
    times = [each.time.ToNanoseconds() for each in found]
    assert times == sorted(times)


async def test_a_call_that_changes_nothing_is_there_too(registry: Registry) -> None:
    model = await registry.model()
    await registry.call("LabelModel", label(model.id))
    await registry.call("LabelModel", label(model.id))
    same = pb.CreateModelRequest(model=mock_model(), request_id="once")
    made = [(await registry.call("CreateModel", same)).model.id for _ in range(2)]
    found = await records(registry, resource_id=model.id)
    assert [each.method for each in found] == ["CreateModel", "LabelModel", "LabelModel"]
    again = await records(registry, resource_id=made[0])
    assert [each.method for each in again] == ["CreateModel", "CreateModel"]
    assert made[0] == made[1]


async def test_refusals_are_there(registry: Registry) -> None:
    model = await registry.model()
    stranger = await registry.account("stranger")
    before = len(await records(registry))
    await fails(registry.call("GetModel", pb.GetModelRequest(id=model.id), token=stranger))
    await fails(registry.call("LabelModel", label(model.id), token=stranger))
    await fails(registry.call("LabelModel", label("nothing")))
    await fails(registry.call("GetModel", pb.GetModelRequest(id="nothing")))
    await fails(registry.call("ListModels", pb.ListModelsRequest(), token="wrong"))
    await fails(registry.stub.ListModels(pb.ListModelsRequest()))
    found = (await records(registry))[before:]
    assert [(each.method, each.reason, each.account, each.resource_id) for each in found] == [
        # It is told that there is no such thing, and the log knows better.
        ("GetModel", R.ERROR_REASON_MODEL_NOT_FOUND, "admin", model.id),
        ("LabelModel", R.ERROR_REASON_MODEL_NOT_FOUND, "admin", model.id),
        ("LabelModel", R.ERROR_REASON_MODEL_NOT_FOUND, "", "nothing"),
        ("ListModels", R.ERROR_REASON_TOKEN_INVALID, "", ""),
        ("ListModels", R.ERROR_REASON_TOKEN_MISSING, "", ""),
    ]
    assert [each.code for each in found] == [5, 5, 5, 16, 16]
    assert found[0].actor_account == "stranger"
    assert found[3].actor_account == found[3].actor_token == ""
    assert len(await records(registry, failed=True)) == 5


async def test_who_may_read_it(registry: Registry) -> None:
    token = await registry.account("acme")
    await registry.account("other")
    await registry.model(token, account="acme")
    await fails(registry.call("ListModels", pb.ListModelsRequest(), token="wrong"))
    mine = await records(registry, token)
    assert {each.account for each in mine} == {"acme"}
    assert [each.method for each in mine][-1] == "CreateModel"
    blind = await registry.token("acme", grant("models", "get", accounts="acme"))
    assert await fails(records(registry, blind)) is grpc.StatusCode.PERMISSION_DENIED
    auditor = await registry.token("acme", grant("audit", "query", accounts="*"))
    assert {each.account for each in await records(registry, auditor)} >= {"acme", "other", ""}


async def test_no_token_and_no_body_is_in_it(registry: Registry, tmp_path: Path) -> None:
    token = await registry.account("acme")
    secret_text = "the body of a document that nobody else shall read"
    model = await registry.model(token, account="acme", name="a-name-in-a-body")
    request = pb.EditModelDocumentationRequest(
        id=model.id, documentation=common_pb2.DocumentationEdit(summary=secret_text)
    )
    await registry.call("EditModelDocumentation", request, token=token)
    # Somebody pastes the secret where the id belongs.
    await fails(registry.call("RevokeApiToken", pb.RevokeApiTokenRequest(id=token)))
    await fails(registry.call("GetModel", pb.GetModelRequest(id=token), token=token + "x"))
    # Or where the account belongs, whether they may name another or not.
    await fails(registry.call("CreateApiToken", pb.CreateApiTokenRequest(account=token)))
    await fails(
        registry.call(
            "CreateApiToken",
            pb.CreateApiTokenRequest(account=registry.admin_token),
            token=token,
        )
    )
    with closing(sqlite3.connect(tmp_path / "registry/registry.sqlite3")) as database:
        text = repr(database.execute("select * from audit_records").fetchall())
    for hidden in (token, token.partition(".")[2], registry.admin_token, secret_text, "a-name-in"):
        assert hidden not in text
    assert "(withheld)" in text


async def test_an_account_of_megabytes_does_not_fill_the_disk_nor_the_answer(
    registry: Registry, tmp_path: Path
) -> None:
    token = await registry.account("acme")
    for _ in range(3):
        request = pb.CreateApiTokenRequest(account="x" * 3_000_000)
        assert await fails(registry.call("CreateApiToken", request, token=token)) is (
            grpc.StatusCode.PERMISSION_DENIED
        )
    with closing(sqlite3.connect(tmp_path / "registry/registry.sqlite3")) as database:
        (longest,) = database.execute("select max(length(account)) from audit_records").fetchone()
    assert longest <= 128
    refused = await records(registry, failed=True)
    assert [each.method for each in refused] == ["CreateApiToken"] * 3


async def test_a_flood_does_not_fill_the_disk(registry: Registry) -> None:
    before = len(await records(registry))

    async def one() -> None:
        await fails(registry.call("ListModels", pb.ListModelsRequest(), token="wrong"))

    for _ in range(20):
        await asyncio.gather(*(one() for _ in range(20)))
    written = (await records(registry))[before:]
    assert sum(each.count for each in written) < 400
    assert 100 <= len(written) < 300


async def test_no_change_without_its_entry(registry: Registry, tmp_path: Path) -> None:
    model = await registry.model()
    with closing(sqlite3.connect(tmp_path / "registry/registry.sqlite3")) as database:
        database.execute("alter table audit_records rename to gone")
        database.commit()
        assert await fails(registry.call("LabelModel", label(model.id)))
        read = await registry.call("GetModel", pb.GetModelRequest(id=model.id))
        assert dict(read.model.labels) == {}
        database.execute("alter table gone rename to audit_records")
        database.commit()
    await registry.call("LabelModel", label(model.id))
    assert [each.method for each in await records(registry, method="LabelModel")]


async def _change(stub: Any, metadata: Any, models: list[str], chance: random.Random) -> None:
    """Change something or other, until the registry dies."""
    number = 0
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        while True:
            number += 1
            kind = chance.randrange(4)
            if kind == 0 or not models:
                request = pb.CreateModelRequest(model=mock_model(name=f"m{number}"))
                models.append((await stub.CreateModel(request, metadata=metadata)).model.id)
            elif kind == 1:
                quota = account_pb2.AccountQuota(sessions=chance.randrange(1000))
                request = pb.SetAccountQuotaRequest(account="admin", quota=quota)
                await stub.SetAccountQuota(request, metadata=metadata)
            else:
                request = label(chance.choice(models), f"v{chance.random()}")
                await stub.LabelModel(request, metadata=metadata)


@pytest.mark.timeout(300)
async def test_killed_at_random_points_every_change_has_its_entry(tmp_path: Path) -> None:
    chance = random.Random(7)
    models: list[str] = []
    with RegistryProcess(tmp_path) as process:
        for _ in range(KILLS):
            metadata = (("authorization", f"Bearer {process.token}"),)
            async with grpc.aio.insecure_channel(process.address) as channel:
                stub: Any = RegistryServiceStub(channel)
                await stub.ListModels(pb.ListModelsRequest(), metadata=metadata)
                working = [
                    asyncio.create_task(_change(stub, metadata, models, chance)) for _ in range(4)
                ]
                await asyncio.sleep(chance.uniform(0.05, 0.4))
                process.kill()
                await asyncio.gather(*working)
            process.start()
    with closing(sqlite3.connect(tmp_path / "registry/registry.sqlite3")) as database:
        changes = Counter(
            kind for (kind,) in database.execute("select type from resource_changes").fetchall()
        )
        written = Counter(
            method
            for (method,) in database.execute(
                "select method from audit_records where code = 0"
            ).fetchall()
        )
    assert changes[common_pb2.CHANGE_TYPE_CREATED] == written["CreateModel"] > 0
    assert changes[common_pb2.CHANGE_TYPE_UPDATED] == written["LabelModel"] > 0
    assert written["SetAccountQuota"] > 0
    assert set(written) <= CHANGING | {"Install", "PurgeAuditRecords"}
