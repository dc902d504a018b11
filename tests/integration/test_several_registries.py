"""Several registries on one PostgreSQL: one set of resources, one of them with the files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.v1 import registry_service_pb2 as pb
from podbay_kit.clock import SystemClock
from podbay_kit.storage import Database, migrate
from podbay_kit.storage_urls import postgresql_url
from podbay_registry.bootstrap import bootstrap
from podbay_registry.file_keeper import MARKER
from podbay_registry.store import RegistryStore
from tests.support.eventually import eventually
from tests.support.model_files import download, offer, upload_all, uploaded_model
from tests.support.registry import Registry, mock_model, running_registry
from tests.support.registry_process import RegistryProcess
from tests.support.rpc import details_of

pytestmark = pytest.mark.needs_postgresql

WRITERS = 8
EACH = 10
FILES = {"config.json": b'{"hal": 9000}', "weights.bin": bytes(100_000)}


@pytest.fixture
def url(postgresql_database: str) -> str:
    return postgresql_url(postgresql_database, "registry")


async def reason(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return details_of(caught.value)[0].reason


@asynccontextmanager
async def client(process: RegistryProcess, token: str) -> AsyncIterator[Registry]:
    async with grpc.aio.insecure_channel(process.address) as channel:
        yield Registry(int(process.address.rpartition(":")[2]), channel, token)


async def test_two_processes_serve_one_set_of_resources(
    postgresql_database: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PODBAY_DATABASE": postgresql_database}
    first, second = (RegistryProcess(tmp_path / name) for name in ("first", "second"))
    for process in (first, second):
        process.folder.mkdir()
    try:
        first.start(env=environment)
        second.start(env=environment)
        token = first.token
        assert not (second.folder / "registry/admin-token").exists()
        async with client(first, token) as one, client(second, token) as other:
            await check_watches(one, other)
            await check_tokens(one, other)
            # What was made here is changed there, and requests are repeated anywhere.
            request = pb.CreateModelRequest(model=mock_model(name="once"), request_id="r1")
            made = (await one.call("CreateModel", request)).model
            assert (await other.call("CreateModel", request)).model == made
    finally:
        first.stop()
        second.stop()
    for process in (first, second):
        log = (process.folder / "registry.log").read_text()
        assert postgresql_database.split(":")[2].partition("@")[0] not in log


async def check_watches(one: Registry, other: Registry) -> None:
    seen: dict[int, list[tuple[int, str]]] = {0: [], 1: []}

    async def watch(number: int, registry: Registry) -> None:
        call = registry.stub.WatchModels(
            pb.WatchModelsRequest(after_revision=0), metadata=registry.metadata()
        )
        async for answer in call:
            if answer.HasField("model"):
                seen[number].append((answer.revision, answer.model.name))

    async def write(number: int) -> None:
        registry = (one, other)[number % 2]
        for n in range(EACH):
            await registry.model(name=f"{number}-{n}")

    watching = [asyncio.create_task(watch(n, r)) for n, r in enumerate((one, other))]
    await asyncio.gather(*(write(number) for number in range(WRITERS)))
    total = WRITERS * EACH
    await eventually(lambda: all(len(each) >= total for each in seen.values()), "all changes")
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    assert seen[0] == seen[1]
    assert [revision for revision, _ in seen[0]] == list(range(1, total + 1))


async def check_tokens(one: Registry, other: Registry) -> None:
    made = await one.call("CreateApiToken", pb.CreateApiTokenRequest(account="admin"))
    request = pb.GetInstallationRequest()
    here, there = [
        await registry.call("GetInstallation", request, token=made.secret)
        for registry in (one, other)
    ]
    assert here.installation_id == there.installation_id
    await one.call("RevokeApiToken", pb.RevokeApiTokenRequest(id=made.api_token.id))

    async def refused() -> bool:
        try:
            await other.call("GetInstallation", request, token=made.secret)
        except grpc.aio.AioRpcError as error:
            assert details_of(error)[0].reason == "TOKEN_REVOKED"
            return True
        return False

    await eventually(refused, "the other registry refuses the token")


async def test_one_of_them_keeps_the_files(url: str, tmp_path: Path) -> None:
    async with (
        running_registry(tmp_path / "a", database=url) as keeper,
        running_registry(
            tmp_path / "b",
            database=url,
            admin_token_file=tmp_path / "a/admin-token",
        ) as other,
    ):
        model = await uploaded_model(other, FILES)
        elsewhere = "MODEL_FILES_ELSEWHERE"
        assert await reason(offer(other, model.id, FILES)) == elsewhere
        await upload_all(keeper, model.id, FILES)
        finalize = pb.FinalizeModelRequest(id=model.id)
        assert await reason(other.call("FinalizeModel", finalize)) == elsewhere
        await keeper.call("FinalizeModel", finalize)
        # What the database knows, both know.
        ready = await other.call("GetModel", pb.GetModelRequest(id=model.id))
        assert ready.model.status == "Ready"
        files = await other.call("ListModelFiles", pb.ListModelFilesRequest(id=model.id))
        assert [file.path for file in files.files] == sorted(FILES)
        assert await reason(download(other, model.id, "config.json")) == elsewhere
        assert await download(keeper, model.id, "config.json") == FILES["config.json"]
    assert not (tmp_path / "b/registry/models" / MARKER).exists()
    # The other one cannot harm them, and can be told to keep files from now on.
    async with running_registry(
        tmp_path / "b",
        database=url,
        admin_token_file=tmp_path / "a/admin-token",
        keep_model_files=True,
    ) as other:
        await upload_again(other, model.id)


async def upload_again(registry: Registry, model: str) -> None:
    assert await reason(download(registry, model, "config.json")) == "MODEL_FILE_DAMAGED"
    await upload_all(registry, model, FILES)
    assert await download(registry, model, "config.json") == FILES["config.json"]


async def test_with_one_folder_another_takes_over(url: str, tmp_path: Path) -> None:
    async with running_registry(tmp_path, database=url) as first:
        model = await uploaded_model(first, FILES)
        second = running_registry(tmp_path, database=url)
        other = await second.__aenter__()
        try:
            await upload_all(first, model.id, FILES)
            await first.call("FinalizeModel", pb.FinalizeModelRequest(id=model.id))
            call = download(other, model.id, "weights.bin")
            assert await reason(call) == "MODEL_FILES_ELSEWHERE"
            await first.channel.close()
        except BaseException:
            await second.__aexit__(None, None, None)
            raise
    try:

        async def served() -> bool:
            try:
                got = await download(other, model.id, "weights.bin")
            except grpc.aio.AioRpcError as error:
                assert details_of(error)[0].reason == "MODEL_FILES_ELSEWHERE"
                return False
            return bool(got == FILES["weights.bin"])

        await eventually(served, "the other registry takes over")
    finally:
        await second.__aexit__(None, None, None)


async def test_of_those_that_start_first_at_once_one_makes_the_installation(
    url: str, tmp_path: Path
) -> None:
    migrate(url, "podbay_registry")
    databases = [Database(url) for _ in range(4)]
    clock = SystemClock()
    try:
        made = await asyncio.gather(
            *(
                bootstrap(RegistryStore(each), clock, tmp_path / str(number), reset=False)
                for number, each in enumerate(databases)
            )
        )
    finally:
        for each in databases:
            await each.close()
    assert len({each.installation.id for each in made}) == 1
    assert [each.is_new for each in made].count(True) == 1
    assert [(tmp_path / str(n)).exists() for n in range(4)] == [each.is_new for each in made]
