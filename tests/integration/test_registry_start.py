"""The registry as a process: its first start, its end, and what a kill leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.v1 import registry_service_pb2 as pb
from podbay.v1 import registry_service_pb2_grpc as rpc
from podbay_kit.errors import StartError
from tests.support.eventually import eventually
from tests.support.registry import SERVICE_TOKEN, Registry, mock_model, running_registry


async def works(registry: Registry, token: str) -> bool:
    request = pb.GetInstallationRequest()
    try:
        await registry.call("GetInstallation", request, token=token)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        return False
    return True


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_first_start_makes_a_token_that_only_its_owner_can_read(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as registry:
        path = tmp_path / "admin-token"
        assert mode(path) == 0o600
        assert path.read_text().strip() == registry.admin_token
        assert await works(registry, registry.admin_token)
        assert mode(tmp_path / "registry") == 0o700
        assert mode(tmp_path / "registry" / "registry.sqlite3") == 0o600
        first = await registry.call("GetInstallation", pb.GetInstallationRequest())
    async with running_registry(tmp_path) as registry:
        assert path.read_text().strip() == registry.admin_token
        again = await registry.call("GetInstallation", pb.GetInstallationRequest())
        assert again.installation_id == first.installation_id
    database = (tmp_path / "registry" / "registry.sqlite3").read_bytes()
    assert registry.admin_token.partition(".")[2].encode() not in database


@pytest.mark.parametrize("text", [None, "", "nonsense", f"pbt_{'0' * 16}.{'A' * 43}"])
async def test_a_lost_file_is_named_with_the_way_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    path = tmp_path / "admin-token"
    async with running_registry(tmp_path) as registry:
        old = registry.admin_token
    path.unlink()
    if text is not None:
        path.write_text(text)
    with caplog.at_level(logging.WARNING):
        other = tmp_path / "elsewhere"
        other.write_text("unused")
        async with running_registry(tmp_path, admin_token_file=path if text else other) as registry:
            assert await works(registry, old)
    assert "--reset-admin-token" in caplog.text
    async with running_registry(tmp_path, reset_admin_token=True) as registry:
        assert registry.admin_token != old
        assert mode(path) == 0o600
        assert await works(registry, registry.admin_token)
        assert not await works(registry, old)


@pytest.mark.parametrize("empty", [False, True])
async def test_a_lost_database_costs_no_token(tmp_path: Path, empty: bool) -> None:
    database, aside = tmp_path / "registry/registry.sqlite3", tmp_path / "aside"
    async with running_registry(tmp_path) as registry:
        token = registry.admin_token
    database.replace(aside)
    if empty:
        database.touch(mode=0o600)
    for _ in range(2):  # what the first start has made makes the second one no wiser
        with pytest.raises(StartError, match="holds the files of another installation"):
            async with running_registry(tmp_path):
                pytest.fail("it started")
        assert (tmp_path / "admin-token").read_text().strip() == token
    for left in database.parent.glob("registry.sqlite3*"):
        left.unlink()
    aside.replace(database)
    async with running_registry(tmp_path) as registry:
        assert await works(registry, token)


async def test_a_token_file_that_cannot_be_written_leaves_no_half_start(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StartError, match="--admin-token-file"):
        async with running_registry(tmp_path, admin_token_file=blocked / "admin-token"):
            pass
    async with running_registry(tmp_path) as registry:
        assert await works(registry, registry.admin_token)


class Process:
    """A registry that runs as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start it, and return its address."""
        address_file = self.folder / "address"
        address_file.unlink(missing_ok=True)
        secret = self.folder / "service-token"
        secret.touch(mode=0o600)
        secret.write_text(SERVICE_TOKEN)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "podbay_registry", "--listen", "127.0.0.1:0"),
            *("--data-dir", str(self.folder / "data")),
            *("--service-token-file", str(secret)),
            *("--admin-token-file", str(self.folder / "admin-token")),
            *("--address-file", str(address_file), "--log-level", "warning"),
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )
        await eventually(address_file.exists, "the registry listens")
        told = json.loads(address_file.read_text())
        assert told["pid"] == self.process.pid
        address: str = told["address"]
        return address

    async def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    running = Process(tmp_path)
    yield running
    if running.process is not None:
        await running.end(signal.SIGKILL)


@asynccontextmanager
async def client(process: Process, address: str) -> AsyncIterator[Any]:
    token = (process.folder / "admin-token").read_text().strip()
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = rpc.RegistryServiceStub(channel)
        metadata = (("authorization", f"Bearer {token}"),)
        yield lambda method, request: getattr(stub, method)(request, metadata=metadata, timeout=30)


async def test_a_kill_loses_no_write_that_was_answered(process: Process) -> None:
    answered: list[str] = []
    async with client_of(process) as call:

        async def write(number: int) -> None:
            for n in range(10_000):
                name = f"{number}-{n}"
                request = pb.CreateModelRequest(model=mock_model(name=name), request_id=name)
                try:
                    answer = await call("CreateModel", request)
                except grpc.aio.AioRpcError:
                    return
                answered.append(answer.model.id)

        writers = [asyncio.create_task(write(number)) for number in range(4)]
        await eventually(lambda: len(answered) > 50, "fifty models")
        await process.end(signal.SIGKILL)
        await asyncio.gather(*writers)
    async with client_of(process) as call:
        for model_id in answered:
            assert (await call("GetModel", pb.GetModelRequest(id=model_id))).model.id == model_id
        # Revisions have no gap: every write is whole, or is not there.
        listed: list[str] = []
        request = pb.ListModelsRequest()
        while True:
            page = await call("ListModels", request)
            listed += [model.id for model in page.models]
            request.page.page_token = page.page.next_page_token
            if not request.page.page_token:
                break
        assert set(answered) <= set(listed)
        assert page.page.revision == len(listed)
        # A create that was not answered can be sent again.
        again = pb.CreateModelRequest(model=mock_model(name="0-0"), request_id="0-0")
        assert (await call("CreateModel", again)).model.id in answered


@asynccontextmanager
async def client_of(process: Process) -> AsyncIterator[Any]:
    """Start the process, and give a function that calls it."""
    address = await process.start()
    async with client(process, address) as call:
        yield call


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_under_a_watch(process: Process, number: int) -> None:
    async with client_of(process) as call:
        watch = call("WatchModels", pb.WatchModelsRequest())
        await watch.read()
        assert await process.end(number) == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await watch.read()


async def test_it_says_why_it_cannot_start(
    process: Process, capfd: pytest.CaptureFixture[str]
) -> None:
    (process.folder / "data").mkdir()
    (process.folder / "data" / "registry.sqlite3").write_bytes(b"not a database" * 1000)
    starting = asyncio.create_task(process.start())
    await eventually(lambda: process.process is not None, "the process")
    assert process.process is not None
    assert await process.process.wait() == 2
    starting.cancel()
    said = capfd.readouterr().err
    assert "is damaged, or is not a database" in said
    assert "Traceback" not in said
