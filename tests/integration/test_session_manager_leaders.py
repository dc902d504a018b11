"""Several session managers of one database, as processes: one leads, and is stopped or killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay import AsyncClient, Client
from podbay.v1 import common_pb2, inference_session_pb2
from podbay.v1 import registry_service_pb2 as registry_pb
from podbay.v1 import session_manager_service_pb2 as pb
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from podbay_inference_router.leaders import leader_of
from podbay_session_manager.drivers.process_tree import identity
from tests.support.fake_registry import ADMIN, fake_registry
from tests.support.fake_services import FakeService
from tests.support.managers import Member, rows
from tests.support.rpc import details_of
from tests.support.session_manager import SERVICE_TOKEN, until

TAKEOVER_SECONDS = 10.0


@contextlib.asynccontextmanager
async def two(tmp_path: Path, *, lease: float = 3.0) -> AsyncIterator[tuple[Member, Member]]:
    """Run one that leads and one that stands by; at the end no replica is left."""
    folder = tmp_path / "data"
    async with fake_registry() as (registry, endpoint):
        first, second, last = (Member(name, registry, endpoint, folder) for name in "abc")
        try:
            await first.launch(lease=lease)
            await second.launch(lease=lease)
            assert await first.leads()
            assert not await second.leads()
            assert await second.leads("")  # it is well
            yield first, second
        finally:
            for member in (first, second):
                with contextlib.suppress(ProcessLookupError):
                    member.resume()
                await member.end(signal.SIGKILL)
            if any(folder.glob("replicas/*/launch.json")):
                await last.launch("--stop-replicas-on-exit")
                await last.end()


async def _replaced(
    manager: Member, session_id: str, before: set[int], killed: int
) -> set[int] | None:
    """Return the processes of ready replicas, once there is another one for a killed one."""
    status = await manager.status(session_id)
    ready = {
        replica.process_id
        for replica in status.replicas
        if replica.phase == inference_session_pb2.REPLICA_PHASE_READY
    }
    return ready if killed not in ready and before - {killed} < ready else None


def _settled(folder: Path) -> dict[str, list[tuple[Any, ...]]] | None:
    """Return what is in the database once every replica either runs or is gone for good."""
    found = rows(folder)
    records = [json.loads(record) for _, _, record in found["replicas"]]
    done = [record["removed"] or record["phase"] == "READY" for record in records]
    return found if all(done) else None


async def test_a_leader_that_was_paused_writes_nothing_when_it_comes_back(tmp_path: Path) -> None:
    async with two(tmp_path) as (old, new):
        folder = old.settings.data_dir
        made = await old.create(old.registry.add(), replicas=2)
        session_id = made.inferencesession.id
        before = {replica.process_id for replica in (await old.ready(session_id, 2)).replicas}
        await old.pause()
        loop = asyncio.get_running_loop()
        paused_at = loop.time()
        # What it will find when it goes on: an order, and a replica that is gone.
        order = asyncio.ensure_future(
            old.call(
                "TerminateInferenceSession", pb.TerminateInferenceSessionRequest(id=session_id)
            )
        )
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        await until(new.leads)
        assert loop.time() - paused_at < TAKEOVER_SECONDS
        # The one that runs is taken over as it runs, and the other one is replaced.
        running = await until(lambda: _replaced(new, session_id, before, killed))
        # Nothing is left to be done, so that nobody but the old one would write.
        written = await until(lambda: _settled(folder))
        assert written["leadership"][0][0] == 2
        old.resume()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await order
        info, *_ = details_of(failure.value)
        assert info.reason == "NOT_LEADER"

        async def stands_by() -> bool:
            return not await old.leads()

        await until(stands_by)
        assert rows(folder) == written
        assert (await new.ready(session_id, 2)).ready_replicas == 2
        assert {identity(pid) is not None for pid in running} == {True}
        # It is of use again: it takes over when the other one goes.
        await new.end()
        await until(old.leads)
        assert (await old.ready(session_id, 2)).ready_replicas == 2
        await old.terminate(session_id)
        assert not any(identity(pid) for pid in running)


async def test_a_killed_leader_is_followed_and_its_watches_go_on_without_a_gap(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (old, new):
        service = old.registry.add()
        first = (await old.create(service)).inferencesession.id
        status = await old.ready(first)
        seen: list[tuple[str, str]] = []
        revision = 0
        watch = old.stream(
            "WatchInferenceSessions", pb.WatchInferenceSessionsRequest(after_revision=0)
        )
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for change in watch:
                revision = change.revision
                if change.HasField("inference_session"):
                    seen.append((change.inference_session.id, change.inference_session.status))
                elif old.process.returncode is None:
                    await old.end(signal.SIGKILL)
        assert seen[-1] == (first, "Admitted")
        await until(new.leads)
        second = (await new.create(service)).inferencesession.id
        await new.call("TerminateInferenceSession", pb.TerminateInferenceSessionRequest(id=first))
        watch = new.stream(
            "WatchInferenceSessions", pb.WatchInferenceSessionsRequest(after_revision=revision)
        )
        later: list[tuple[str, str]] = []
        async for change in watch:
            if change.HasField("inference_session"):
                later.append((change.inference_session.id, change.inference_session.status))
            if (first, "Terminated") in later and (second, "Admitted") in later:
                break
        watch.cancel()
        assert sorted(later) == sorted(
            [(second, "Created"), (second, "Admitted"), (first, "Terminated")]
        )
        (replica,) = status.replicas
        assert (await new.status(first)).replicas[0].id == replica.id


async def test_a_leader_that_ends_hands_over_at_once(tmp_path: Path) -> None:
    # Far longer than the test waits.
    async with two(tmp_path, lease=60.0) as (old, new):
        session_id = (await old.create(old.registry.add())).inferencesession.id
        await old.ready(session_id)
        assert await old.end(signal.SIGTERM) == 0
        await until(new.leads)
        await new.ready(session_id)


async def test_one_that_stands_by_writes_no_audit_entries_until_it_leads(tmp_path: Path) -> None:
    async with two(tmp_path, lease=60.0) as (old, new):
        session_id = (await old.create(old.registry.add())).inferencesession.id
        before = rows(old.settings.data_dir)["audit_records"]
        refused = {"NOT_LEADER": ADMIN, "TOKEN_INVALID": "nobody's"}
        label = pb.LabelInferenceSessionRequest(
            id=session_id, labels={"a": common_pb2.LabelChange(value="1")}
        )
        for reason, token in refused.items():
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await new.call("LabelInferenceSession", label, token)
            info, *_ = details_of(failure.value)
            assert info.reason == reason
        assert rows(old.settings.data_dir)["audit_records"] == before
        assert await old.end(signal.SIGTERM) == 0
        await until(new.leads)

        async def told() -> list[tuple[str, int]] | None:
            page = await new.call("ListSessionAuditRecords", pb.ListSessionAuditRecordsRequest())
            codes = [(record.method, record.code) for record in page.records if record.code]
            return codes or None

        unauthenticated = grpc.StatusCode.UNAUTHENTICATED.value[0]
        assert await until(told) == [("LabelInferenceSession", unauthenticated)]


async def test_clients_find_the_one_that_leads(tmp_path: Path) -> None:
    async with two(tmp_path) as (old, new):
        installation = FakeService(registry_pb.DESCRIPTOR.services_by_name["RegistryService"])
        # The one that stands by first: they have to find the other one.
        installation.handlers["GetInstallation"] = lambda _request, _context: (
            registry_pb.GetInstallationResponse(
                installation_id="i",
                version="1",
                session_manager_endpoint=f"{new.address},{old.address}",
                account="admin",
            )
        )
        installation.start()
        made = (await old.create(old.registry.add())).inferencesession.id
        blocking = Client(installation.address, ADMIN)
        async with AsyncClient(installation.address, ADMIN) as client:
            try:
                for _ in range(2):
                    mine = await client.inferencesessions.query()
                    same = await asyncio.to_thread(blocking.inferencesessions.query)
                    assert [session.id for session in (*mine, *same)] == [made] * 2
                    if old.process.returncode is None:
                        await old.end(signal.SIGKILL)
                status = await client.inferencesessions.terminate(made)
                assert status.status == "Terminated"
            finally:
                blocking.close()
                installation.stop()


async def _refused_stream(address: str, number: int) -> str:
    """Open a stream of words, as a worker of a router does, and return why it was ended."""

    async def words() -> AsyncIterator[pb.ShareLimitsRequest]:
        yield pb.ShareLimitsRequest(router_id="r", worker_id=f"w{number}", workers=1, number=1)
        await asyncio.Event().wait()

    async with grpc.aio.insecure_channel(address) as channel:
        stub = SessionManagerServiceStub(channel)
        metadata = [("authorization", f"Bearer {SERVICE_TOKEN}")]
        answers = stub.ShareLimits(words(), metadata=metadata, timeout=30)
        try:
            await answers.read()
        except grpc.aio.AioRpcError as error:
            return leader_of(error) or error.code().name
        finally:
            answers.cancel()
    return "it was served"


async def test_whoever_streams_to_one_that_stands_by_hears_who_leads(tmp_path: Path) -> None:
    async with two(tmp_path) as (old, new):
        for first in range(0, 100, 10):
            numbers = range(first, first + 10)
            found = await asyncio.gather(*(_refused_stream(new.address, i) for i in numbers))
            assert set(found) == {old.address}
        # One that says nothing is told, too.
        metadata = [("authorization", f"Bearer {SERVICE_TOKEN}")]
        silent = new.stub.ShareLimits(metadata=metadata, timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await silent.read()
        assert leader_of(failure.value) == old.address
