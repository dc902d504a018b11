"""Names of services stop to resolve: what runs goes on, errors name them, and all come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from tests.support.eventually import eventually
from tests.support.fake_registry import fake_registry
from tests.support.own_names import OwnNames
from tests.support.router_fakes import FakeReplica, FakeSessionManager, route
from tests.support.router_process import RouterProcess
from tests.support.rpc import details_of
from tests.support.session_manager import SERVICE_TOKEN, Rig, until

pytestmark = pytest.mark.needs_own_names

_OPTIONS = ("--allow-plain-text-off-loopback",)


class NamedManager(FakeSessionManager):
    """A session manager that is reached by its name."""

    name = "manager.podbay.test"

    @property
    def address(self) -> str:
        return f"{self.name}:{self.port}"


async def test_a_router_goes_on_without_the_name_of_the_session_manager(tmp_path: Path) -> None:
    names = OwnNames(tmp_path)
    manager = NamedManager()
    await manager.start()
    replica = await FakeReplica().start()
    manager.set_route(route("s", [replica.port]))
    router = RouterProcess(tmp_path, manager)
    try:
        # It starts without, and says whom it cannot find.
        await router.start("--workers", "1", *_OPTIONS, launcher=names.launcher)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.infer(router.stub())
        assert details_of(caught.value)[0].reason == "ROUTER_NOT_SYNCED"
        why = f"the name {manager.name} does not resolve"
        assert why in (caught.value.details() or "")
        names.set(manager.name)
        await router.served()

        # Calls go on while the name and the session manager are gone.
        names.set()
        await manager.stop()
        for _ in range(5):
            await router.infer(router.stub())
        await manager.start()
        for _ in range(5):
            await router.infer(router.stub())
        assert manager.watches == 1
        names.set(manager.name)
        await eventually(lambda: manager.watches == 2, "the router watches the routes again")
        await router.served()
    finally:
        await router.stop()
        await replica.stop()
        await manager.stop()


@contextlib.asynccontextmanager
async def named_session_manager(folder: Path, names: OwnNames, registry: str) -> AsyncIterator[Rig]:
    """Run a session manager that reaches the registry by a name."""
    async with fake_registry() as (fake, endpoint):
        port = endpoint.rpartition(":")[2]
        rig = Rig(fake, f"{registry}:{port}", folder)
        token, address = folder / "token", folder / "address.json"
        token.write_text(SERVICE_TOKEN)
        token.chmod(0o600)
        process = await asyncio.create_subprocess_exec(
            *names.launcher,
            *(sys.executable, "-m", "podbay_session_manager"),
            *("--listen", "127.0.0.1:0", "--data-dir", str(folder / "data")),
            *("--service-token-file", str(token), "--address-file", str(address)),
            *("--registry-endpoint", rig.settings.registry_endpoint),
            *("--drivers", "process", "--drain-seconds", "1", "--stop-replicas-on-exit"),
            *_OPTIONS,
        )
        try:
            await until(lambda: address.exists() or process.returncode is not None)
            channel = grpc.aio.insecure_channel(json.loads(address.read_text())["address"])
            rig.stub = SessionManagerServiceStub(channel)
            yield rig
            await channel.close()
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_a_session_manager_names_the_registry_that_it_cannot_find(tmp_path: Path) -> None:
    name = "registry.podbay.test"
    names = OwnNames(tmp_path)
    async with named_session_manager(tmp_path, names, name) as rig:
        service = rig.registry.add()

        async def unresolved() -> None:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rig.create(service)
            assert details_of(caught.value)[0].reason == "DEPENDENCY_UNAVAILABLE"
            assert f"the name {name} does not resolve" in (caught.value.details() or "")

        async def created() -> str | None:
            try:
                return str((await rig.create(service)).inferencesession.id)
            except grpc.aio.AioRpcError as error:
                assert details_of(error)[0].reason == "DEPENDENCY_UNAVAILABLE", error
                return None

        await unresolved()
        names.set(name)
        session = await until(created)
        await rig.ready(session)
        # Nothing that runs asks for a name that was found.
        names.set()
        await rig.ready(session)
        await rig.ready(str(await created()))
