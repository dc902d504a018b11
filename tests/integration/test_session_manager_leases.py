"""The store lets nobody have a GPU that another one has, whatever was planned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from podbay.schema import platform
from podbay_kit.storage import Database, migrate
from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode, EngineTls
from podbay_session_manager.machine import ReplicaPhase
from podbay_session_manager.node_store import StoredNode
from podbay_session_manager.records import ReplicaRecord, ServiceSpec, Serving, SessionRecord
from podbay_session_manager.store import SessionStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SESSION = SessionRecord(
    id="s" * 32,
    account="acme",
    service=ServiceSpec(kind="container", name="n", image="i"),
    serving=Serving(),
    driver="docker",
    desired=2,
    created_at=1.0,
)


def replica(name: str, *gpus: str, node: str = "n1") -> ReplicaRecord:
    return ReplicaRecord(
        id=name,
        session_id=SESSION.id,
        index=0,
        attempt=1,
        driver=f"docker/{node}",
        created_at=1.0,
        transition_at=1.0,
        node=node,
        gpus=gpus,
        phase=ReplicaPhase.STARTING,
        deadline=9.0,
    )


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SessionStore]:
    migrate(database_url, "podbay_session_manager")
    database = Database(database_url)
    made = SessionStore(database)
    entity = platform.InferenceSession.model_validate(
        {
            "id": SESSION.id,
            "account": "acme",
            "status": "Created",
            "creationTime": NOW,
            "inferenceService": {
                "id": "5" * 32,
                "account": "acme",
                "name": "n",
                "interface": {"endpoint": "e", "outputSchema": {"arrowSchema": ""}},
            },
        }
    )
    await made.create(entity, SESSION, now=NOW, request=None)
    yield made
    await database.close()


async def test_a_gpu_is_not_given_twice_and_nothing_of_such_a_decision_is_stored(
    store: SessionStore,
) -> None:
    first = replica("r1", "0", "1")
    await store.apply(replicas=[first], now=NOW)
    with pytest.raises(sa.exc.IntegrityError):
        await store.apply(replicas=[replica("r2", "2"), replica("r3", "1")], now=NOW)
    assert await store.nodes.leases() == {("n1", "0"): "r1", ("n1", "1"): "r1"}
    found = await store.find_session(SESSION.id)
    assert found is not None
    assert set(found[1]) == {"r1"}
    # The same GPU of another node is another one.
    await store.apply(replicas=[replica("r4", "0", node="n2")], now=NOW)


async def test_what_is_given_back_can_be_given_out_in_the_same_step(store: SessionStore) -> None:
    first = replica("r1", "0")
    await store.apply(replicas=[first], now=NOW)
    ended = replace(first, phase=ReplicaPhase.FAILED, deadline=None)
    with pytest.raises(sa.exc.IntegrityError):
        await store.apply(replicas=[ended, replica("r2", "0")], now=NOW)
    gone = replace(ended, removed=True)
    await store.apply(replicas=[replica("r2", "0"), gone], now=NOW)
    assert await store.nodes.leases() == {("n1", "0"): "r2"}
    await store.apply(replicas=[replace(replica("r2", "0"), removed=True)], now=NOW)
    await store.apply(forgotten=["r1", "r2"], now=NOW)
    assert await store.nodes.leases() == {}


async def test_nodes_are_read_back_without_loss(store: SessionStore) -> None:
    node = StoredNode(
        "n1",
        cordoned=True,
        draining=True,
        declared=DeclaredNode(
            "n1",
            "tcp://n1:2376",
            EngineTls("/ca", "/cert", "/key"),
            "10.0.0.1",
            (DeclaredGpu("0", "nvidia.com/gpu-t4", 16 << 30),),
            1.5,
            1 << 40,
            spot=True,
            labels={"zone": "a"},
        ),
        origin="file",
    )
    await store.nodes.put(node)
    await store.nodes.put(StoredNode("local", cordoned=True))
    assert await store.nodes.load() == [StoredNode("local", cordoned=True), node]
    await store.nodes.remove("local")
    assert await store.nodes.load() == [node]
