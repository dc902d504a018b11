"""Sessions whose models' files are not there yet: they wait, and say for what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from podbay.schema import convert
from podbay.schema.nodes import NodeDeclaration
from podbay.v1 import common_pb2, errors_pb2, inference_session_pb2, model_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.drivers.fake import Behaviour
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import Reason
from tests.support.fake_node_rig import FakeNodeRig, fake_node_rig
from tests.support.fake_nodes import T4, declaration
from tests.support.session_manager import until

IMAGE = {"host": "h.example", "name": "n", "digest": f"sha256:{'0' * 64}"}
PENDING = inference_session_pb2.REPLICA_PHASE_PENDING
UPLOAD = "podbay model upload DIRECTORY"


class ModelRig(FakeNodeRig):
    """A session manager with a node that has one GPU, and a model m1."""

    def stands(self, status: str, *, reason: str = "", message: str = "") -> None:
        """Let the model stand somewhere."""
        self.registry.models["m1"] = model_pb2.Model(
            id="m1", status=status, reason=reason, message=message
        )

    async def session(self, *, model: str = "") -> str:
        """Create a session that needs the GPU, and mounts a model where one is named."""
        data = {"source": {"kind": "Model", "id": model}}
        mount = {"kind": "Data", "name": "weights", "mountPath": "/data", "data": data}
        service = self.registry.add(
            kind="container", image=IMAGE, volumeMounts=[mount] if model else None
        )
        gpu = common_pb2.AcceleratorGPU(hardware_types=[T4], count=1)
        made = await self.create(service, accelerator=common_pb2.Accelerator(kind="GPU", gpu=gpu))
        return str(made.inferencesession.id)

    async def waits(self, session: str, text: str) -> Any:
        """Return the only replica of a session once it waits, and says so with these words."""

        async def look() -> Any:
            status = await self.status(session)
            assert status.status.status == "Created", status
            return next((r for r in status.replicas if text in r.message), None)

        replica = await until(look)
        assert (replica.phase, replica.attempt, replica.node) == (PENDING, 1, "")
        assert replica.reason == errors_pb2.ERROR_REASON_MODEL_NOT_READY
        return replica


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ModelRig]:
    async with fake_node_rig(ModelRig, tmp_path, Policy(drain=0.1)) as rig:
        await rig.start()
        declared = convert.to_proto(NodeDeclaration.model_validate(declaration("n1", T4)))
        await rig.call("DeclareNode", pb.DeclareNodeRequest(node=declared))
        try:
            yield rig
        finally:
            await rig.stop()


async def test_a_session_waits_for_an_upload_and_starts_after_it(rig: ModelRig) -> None:
    rig.stands("WaitingForUpload", message=f"Waiting for its files: {UPLOAD}.")
    session = await rig.session(model="m1")
    replica = await rig.waits(session, UPLOAD)
    assert "m1" in replica.message
    assert UPLOAD in (await rig.status(session)).explanation
    placement = (
        await rig.call("ExplainPlacement", pb.ExplainPlacementRequest(id=session))
    ).placement
    assert placement.reason == errors_pb2.ERROR_REASON_MODEL_NOT_READY
    assert UPLOAD in placement.summary
    # It holds no place: the GPU is another one's, also one's that came later.
    other = await rig.session()
    await rig.ready(other)
    await rig.terminate(other)
    # How far it is is told.
    rig.stands("Admitted", message="2 of 3 files are there.")
    await rig.waits(session, "2 of 3 files")
    rig.stands("Ready")
    status = await rig.ready(session)
    assert [(r.attempt, r.reason, r.message) for r in status.replicas] == [(1, 0, "")]


async def test_what_waits_outlives_the_session_manager(rig: ModelRig) -> None:
    rig.stands("Created", message="Waiting to be fetched.")
    session = await rig.session(model="m1")
    await rig.waits(session, "to be fetched")
    await rig.stop()
    await rig.start()
    await rig.waits(session, "to be fetched")
    rig.stands("Ready")
    await until(rig.nodes.running)


async def test_a_session_fails_with_its_model_and_its_cause(rig: ModelRig) -> None:
    rig.stands("Admitted", message="1 of 3 files are there.")
    session = await rig.session(model="m1")
    await rig.waits(session, "1 of 3 files")
    cause = "The hub says that there is no repository acme/hal."
    rig.stands("Error", reason="FetchFailed", message=cause)
    status = (await rig.failed(session)).status
    assert status.reason == "FetchFailed"
    assert cause in status.message
    assert "podbay model logs m1" in status.message
    assert rig.nodes.running() == []
    # The next one fails at once.
    assert (await rig.failed(await rig.session(model="m1"))).status.reason == "FetchFailed"


async def test_a_session_that_waits_can_be_terminated(rig: ModelRig) -> None:
    rig.stands("WaitingForUpload")
    session = await rig.session(model="m1")
    await rig.waits(session, "WaitingForUpload")
    await rig.terminate(session)
    assert (await rig.status(session)).status.status == "Terminated"


async def test_a_registry_that_is_away_keeps_nothing_back(rig: ModelRig) -> None:
    """The files may be on the node already."""
    rig.stands("Ready")
    rig.registry.away = True
    await rig.ready(await rig.session(model="m1"))


async def test_a_node_that_finds_the_files_missing_uses_up_no_attempt(rig: ModelRig) -> None:
    """As where the registry was away when it was asked, and not when the node asked."""
    name = "tests.support.replica_mocks.Sample"
    rig.nodes.drivers["n1"].behaviours[name] = Behaviour(start_reason=Reason.MODEL_NOT_READY)
    rig.registry.away = True
    rig.stands("WaitingForUpload", message=UPLOAD)
    session = await rig.session(model="m1")

    async def several() -> bool:
        status = await rig.status(session)
        assert status.status.status != "Error", status
        return max((r.attempt for r in status.replicas), default=0) > 4

    await until(several)
    rig.registry.away = False

    async def waits() -> bool:
        return any(UPLOAD in r.message for r in (await rig.status(session)).replicas)

    await until(waits)
    del rig.nodes.drivers["n1"].behaviours[name]
    rig.stands("Ready")
    await rig.ready(session)
