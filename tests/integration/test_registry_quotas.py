"""Quotas at the registry: who sets and reads them, and that models keep to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.v1 import account_pb2
from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.quotas import Quota
from tests.support.eventually import eventually
from tests.support.model_files import (
    header_of,
    offer,
    upload,
    upload_all,
    uploaded_model,
)
from tests.support.registry import SERVICE_TOKEN, Registry, grant, running_registry
from tests.support.rpc import details_of

CODE = grpc.StatusCode


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path) as running:
        yield running


async def set_quota(
    registry: Registry,
    account: str,
    *,
    unlimited: tuple[str, ...] = (),
    token: str | None = None,
    **limits: Any,
) -> pb.SetAccountQuotaResponse:
    request = pb.SetAccountQuotaRequest(
        account=account, quota=account_pb2.AccountQuota(**limits), unlimited=unlimited
    )
    answer: pb.SetAccountQuotaResponse = await registry.call(
        "SetAccountQuota", request, token=token
    )
    return answer


async def get_quota(
    registry: Registry, account: str, token: str | None = None
) -> pb.GetAccountQuotaResponse:
    answer: pb.GetAccountQuotaResponse = await registry.call(
        "GetAccountQuota", pb.GetAccountQuotaRequest(account=account), token=token
    )
    return answer


async def refused(call: Any) -> tuple[str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, _ = details_of(caught.value)
    return info.reason, dict(info.metadata)


async def test_unlimited_unless_said_and_changed_by_parts(registry: Registry) -> None:
    await registry.account("acme")
    assert (await get_quota(registry, "acme")).quota == account_pb2.AccountQuota()
    await set_quota(registry, "acme", sessions=2, gpus={"t4": 1, "a100": 2})
    changed = await set_quota(registry, "acme", sessions=0, unlimited=("gpus.t4",))
    assert changed.quota == account_pb2.AccountQuota(sessions=0, gpus={"a100": 2})
    read = await get_quota(registry, "acme")
    assert (read.quota, read.revision) == (changed.quota, changed.revision)
    again = await set_quota(registry, "acme", sessions=0)
    assert again.revision == changed.revision, "nothing has changed"


async def test_an_account_cannot_raise_its_own_quota(registry: Registry) -> None:
    token = await registry.account("acme")
    await registry.account("other")
    await set_quota(registry, "acme", sessions=1)
    assert (await get_quota(registry, "acme", token)).quota.sessions == 1
    reason, _ = await refused(set_quota(registry, "acme", sessions=9, token=token))
    assert reason == "PERMISSION_DENIED"
    reason, _ = await refused(get_quota(registry, "other", token))
    assert reason == "PERMISSION_DENIED"
    # Whoever is named for it may.
    keeper = await registry.token("other", grant("quotas", "edit", entities="acme"))
    assert (await set_quota(registry, "acme", sessions=9, token=keeper)).quota.sessions == 9
    assert (await refused(set_quota(registry, "other", sessions=9, token=keeper)))[0] == (
        "PERMISSION_DENIED"
    )


async def test_what_is_not_there_or_not_valid(registry: Registry) -> None:
    assert (await refused(get_quota(registry, "nobody")))[0] == "ACCOUNT_NOT_FOUND"
    assert (await refused(set_quota(registry, "nobody", sessions=1)))[0] == "ACCOUNT_NOT_FOUND"
    assert (await refused(get_quota(registry, "")))[0] == "INVALID_REQUEST"
    await registry.account("acme")
    assert (await refused(set_quota(registry, "acme", sessions=-1)))[0] == "INVALID_REQUEST"
    bad = set_quota(registry, "acme", unlimited=("everything",))
    assert (await refused(bad))[0] == "INVALID_REQUEST"


async def test_new_accounts_begin_with_the_quota_of_the_setting(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as registry:
        await registry.account("old")
    quota = Quota(sessions=3, model_bytes=100)
    async with running_registry(tmp_path, default_quota=quota) as registry:
        await registry.account("new")
        assert (await get_quota(registry, "new")).quota == quota.to_message()
        assert (await get_quota(registry, "old")).quota == account_pb2.AccountQuota()
        assert (await get_quota(registry, "admin")).quota == account_pb2.AccountQuota()


async def test_services_are_told_of_every_change(registry: Registry) -> None:
    await registry.account("acme")
    await set_quota(registry, "acme", sessions=1)
    call = registry.stub.WatchAccountQuotas(
        pb.WatchAccountQuotasRequest(), metadata=registry.metadata(SERVICE_TOKEN)
    )
    first = await call.read()
    assert first.snapshot
    assert [(each.account, each.quota.sessions) for each in first.quotas] == [("acme", 1)]
    await set_quota(registry, "acme", sessions=2)
    await registry.model()  # changes of other things are no news
    await set_quota(registry, "acme", unlimited=("sessions",))
    told: list[Any] = []
    while not told or told[-1].quota.HasField("sessions"):
        news = await asyncio.wait_for(call.read(), 30)
        assert not news.snapshot
        told += news.quotas
    revisions = [each.revision for each in told]
    assert revisions == sorted(set(revisions))
    call.cancel()
    stranger = registry.stub.WatchAccountQuotas(
        pb.WatchAccountQuotasRequest(), metadata=registry.metadata()
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stranger.read()
    assert caught.value.code() is CODE.PERMISSION_DENIED


async def used(registry: Registry, account: str = "admin") -> int:
    return (await get_quota(registry, account)).model_bytes_used


async def test_model_bytes_are_counted_once_and_released_with_the_model(
    registry: Registry,
) -> None:
    await set_quota(registry, "admin", model_bytes=10_000)
    files = {"a": b"a" * 6000, "b": b"b" * 1000}
    first = await uploaded_model(registry, files)
    await upload_all(registry, first.id, files)
    assert await used(registry) == 7000
    # The same content in another model needs no further room.
    same = await uploaded_model(registry, {"copy": b"a" * 6000})
    assert await offer(registry, same.id, {"copy": b"a" * 6000}) == {}
    assert await used(registry) == 7000
    more = await uploaded_model(registry, {"c": b"c" * 3001})
    reason, evidence = await refused(offer(registry, more.id, {"c": b"c" * 3001}))
    assert reason == "ACCOUNT_STORAGE_FULL"
    assert evidence == {"account": "admin", "needed": "3001", "used": "7000", "limit": "10000"}
    reason, _ = await refused(upload(registry, more.id, "c", b"c" * 3001))
    assert reason == "ACCOUNT_STORAGE_FULL"
    # One of two models that have a content is deleted, then the other.
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=first.id))
    assert await used(registry) == 6000
    await upload_all(registry, more.id, {"c": b"c" * 3001})
    assert await used(registry) == 9001
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=same.id))
    assert await used(registry) == 3001


async def test_what_is_on_its_way_counts_in_its_announced_size(registry: Registry) -> None:
    await set_quota(registry, "admin", model_bytes=10_000)
    data, other = b"a" * 8000, b"b" * 3000
    model = await uploaded_model(registry, {"a": data, "b": other})
    call = registry.stub.UploadModelFile(metadata=registry.metadata())
    await call.write(header_of(model.id, "a", data))

    async def claimed() -> bool:
        return await used(registry) == 8000

    await eventually(claimed, "the claim")
    assert (await refused(upload(registry, model.id, "b", other)))[0] == "ACCOUNT_STORAGE_FULL"
    call.cancel()

    async def released() -> bool:
        return await used(registry) == 0

    await eventually(released, "the room after the cancel")
    await upload(registry, model.id, "b", other)
    # Its model is deleted while a part lies there.
    await registry.call("DeleteModel", pb.DeleteModelRequest(id=model.id))
    assert await used(registry) == 0


async def test_many_uploads_at_once_never_pass_the_quota(registry: Registry) -> None:
    await set_quota(registry, "admin", model_bytes=5000)
    files = {str(number): bytes([number]) * 1000 for number in range(12)}
    model = await uploaded_model(registry, files)

    async def one(path: str) -> bool:
        try:
            await upload(registry, model.id, path, files[path])
        except grpc.aio.AioRpcError as error:
            assert details_of(error)[0].reason == "ACCOUNT_STORAGE_FULL"
            return False
        return True

    done = await asyncio.gather(*(one(path) for path in files))
    assert sum(done) == 5
    assert await used(registry) == 5000


async def test_others_have_their_own_room(registry: Registry) -> None:
    await registry.account("acme")
    await set_quota(registry, "acme", model_bytes=10)
    data = {"a": b"a" * 11}
    model = await uploaded_model(registry, data, account="acme")
    assert (await refused(upload(registry, model.id, "a", data["a"])))[0] == "ACCOUNT_STORAGE_FULL"
    mine = await uploaded_model(registry, data)
    await upload_all(registry, mine.id, data)
    # That the content is there by now makes no room for the other account.
    assert (await refused(upload(registry, model.id, "a", data["a"])))[0] == "ACCOUNT_STORAGE_FULL"
    assert (await used(registry, "acme"), await used(registry)) == (0, 11)


async def test_a_quota_below_what_is_used_takes_nothing_away(registry: Registry) -> None:
    model = await uploaded_model(registry, {"a": b"a" * 100})
    await upload_all(registry, model.id, {"a": b"a" * 100})
    lowered = await set_quota(registry, "admin", model_bytes=50)
    assert (lowered.quota.model_bytes, lowered.model_bytes_used) == (50, 100)
    got = await registry.call("GetModel", pb.GetModelRequest(id=model.id))
    assert got.model.status == "Ready"


async def test_usage_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as registry:
        model = await uploaded_model(registry, {"a": b"a" * 100, "b": b"b" * 50})
        await upload(registry, model.id, "a", b"a" * 100)
        call = registry.stub.UploadModelFile(metadata=registry.metadata())
        await call.write(header_of(model.id, "b", b"b" * 50))
        await eventually(_claimed(registry, 150), "the claim")
        call.cancel()
    async with running_registry(tmp_path) as registry:
        assert await used(registry) == 100


def _claimed(registry: Registry, size: int) -> Any:
    async def look() -> bool:
        return await used(registry) == size

    return look
