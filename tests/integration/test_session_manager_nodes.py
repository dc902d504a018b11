"""Declared nodes, GPUs and placement on a real session manager with engines in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from podbay.schema import convert
from podbay.schema.nodes import NodeDeclaration
from podbay.v1 import common_pb2, errors_pb2, inference_session_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.process import SettingsError
from podbay_kit.storage import Database, sqlite_url
from podbay_session_manager.drivers.fake import Behaviour, FakeDriver
from podbay_session_manager.node_rules import declared_node
from podbay_session_manager.node_store import NodeStore
from podbay_session_manager.policy import Policy
from tests.support.clock import JumpingClock
from tests.support.fake_node_rig import FakeNodeRig, fake_node_rig
from tests.support.fake_nodes import A100, T4, declaration
from tests.support.fake_registry import OTHER
from tests.support.rpc import details_of
from tests.support.session_manager import until

TOP = inference_session_pb2
IMAGE = {"host": "h.example", "name": "n", "digest": f"sha256:{'0' * 64}"}


class NodeRig(FakeNodeRig):
    """A session manager with nodes, and what they have leased."""

    async def declare(self, name: str, *types: str, **more: Any) -> Any:
        return await self.declare_as(declaration(name, *types, **more))

    async def declare_as(self, given: dict[str, Any]) -> Any:
        message = convert.to_proto(NodeDeclaration.model_validate(given))
        return (await self.call("DeclareNode", pb.DeclareNodeRequest(node=message))).node

    async def node(self, name: str) -> Any:
        return (await self.call("GetNode", pb.GetNodeRequest(name=name))).node

    async def has_ready(self, session_id: str, count: int) -> bool:
        return bool((await self.status(session_id)).ready_replicas == count)

    async def is_up(self, name: str) -> bool:
        return bool((await self.node(name)).state == TOP.NODE_STATE_READY)

    def service(self, **runner: Any) -> str:
        return self.registry.add(kind="container", image=IMAGE, **runner)

    async def session(self, count: int = 0, *types: str, replicas: int = 1, **more: Any) -> str:
        service = more.pop("service", None) or self.service()
        fields: dict[str, Any] = {"replicas": replicas, **more}
        if count:
            fields["accelerator"] = accelerator(count, *types)
        return str((await self.create(service, **fields)).inferencesession.id)

    async def explain(self, session_id: str) -> Any:
        request = pb.ExplainPlacementRequest(id=session_id)
        return (await self.call("ExplainPlacement", request)).placement

    async def leases(self) -> dict[tuple[str, str], str]:
        database = Database(sqlite_url(self.settings.data_dir / "session-manager.sqlite3"))
        try:
            return await NodeStore(database).leases()
        finally:
            await database.close()

    async def check_leases(self) -> None:
        """See that every GPU is leased once, and to what runs with it."""
        assert await self.leases_match()

    async def leases_match(self) -> bool:
        running = {
            (address.removeprefix("unix:///run/").removesuffix(".sock"), gpu): replica_id
            for address, replica_id, gpus in self.nodes.running()
            for gpu in gpus
        }
        assert len(running) == sum(len(gpus) for _, _, gpus in self.nodes.running())
        return await self.leases() == running


def accelerator(count: int, *types: str) -> Any:
    gpu = common_pb2.AcceleratorGPU(hardware_types=types or (T4,), count=count)
    return common_pb2.Accelerator(kind="GPU", gpu=gpu)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[NodeRig]:
    policy = Policy(node_grace=0.5, drain=0.1)
    async with fake_node_rig(NodeRig, tmp_path, policy) as rig:
        await rig.start()
        try:
            yield rig
        finally:
            await rig.stop()


def refusal(failure: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> tuple[str, str]:
    return details_of(failure.value)[0].reason, failure.value.details() or ""


async def test_a_session_is_given_a_gpu_and_gives_it_back(rig: NodeRig) -> None:
    made = await rig.declare("n1", T4, T4, labels={"zone": "a"}, spot=True, memory="32Gi")
    assert (made.state, made.engine, made.spot) == (
        TOP.NODE_STATE_READY,
        "unix:///run/n1.sock",
        True,
    )
    assert (dict(made.labels), made.memory_bytes, made.cpus) == ({"zone": "a"}, 32 << 30, 8)
    session_id = await rig.session(1, service=rig.service(resources={"cpu": "2", "memory": "4Gi"}))
    (replica,) = (await rig.ready(session_id)).replicas
    assert (replica.node, replica.driver, list(replica.gpus)) == ("n1", "docker/n1", ["0"])
    node = await rig.node("n1")
    assert [gpu.replica_id for gpu in node.gpus] == [replica.id, ""]
    assert (node.free_cpus, node.free_memory_bytes, node.replicas) == (6, 28 << 30, 1)
    await rig.check_leases()
    await rig.terminate(session_id)
    assert await rig.leases() == {}
    assert (await rig.node("n1")).free_cpus == 8


async def test_what_does_not_fit_waits_says_why_and_starts_when_there_is_room(
    rig: NodeRig,
) -> None:
    await rig.declare("n1", T4)
    first = await rig.session(1)
    await rig.ready(first)
    second = await rig.session(1)
    wrong = await rig.session(1, A100)

    async def waiting(session_id: str) -> Any:
        replicas = (await rig.status(session_id)).replicas
        return next((r for r in replicas if r.reason), None)

    replica = await until(lambda: waiting(second))
    assert replica.reason == errors_pb2.ERROR_REASON_INSUFFICIENT_CAPACITY
    assert "n1: 0 of 1 such GPU free, 1 needed" in replica.message
    replica = await until(lambda: waiting(wrong))
    assert replica.reason == errors_pb2.ERROR_REASON_NO_SUCH_GPU_TYPE
    placement = await rig.explain(second)
    assert (placement.desired, placement.placed, placement.fitting) == (1, 0, 0)
    assert placement.reason == errors_pb2.ERROR_REASON_INSUFFICIENT_CAPACITY
    assert [(v.node, v.fits) for v in placement.nodes] == [("n1", False)]
    assert list(placement.needs.hardware_types) == [T4]
    assert (await rig.explain(first)).placed == 1
    await rig.terminate(first)
    await rig.ready(second)
    await rig.declare("n2", A100)
    await rig.ready(wrong)
    await rig.check_leases()


async def test_a_dry_run_creates_nothing(rig: NodeRig) -> None:
    await rig.declare("n1", T4, T4)
    wanted = TOP.InferenceSessionCreateRequest(
        account="acme",
        inference_service=rig.service(),
        replicas=3,
        accelerator=accelerator(1),
    )
    request = pb.ExplainPlacementRequest(inference_session=wanted)
    placement = (await rig.call("ExplainPlacement", request)).placement
    assert (placement.desired, placement.placed, placement.fitting) == (3, 0, 2)
    assert "1 replica of 3 would wait" in placement.summary
    listed = await rig.call("ListInferenceSessions", pb.ListInferenceSessionsRequest())
    assert not listed.inference_sessions
    for bad in (pb.ExplainPlacementRequest(), pb.ExplainPlacementRequest(id="unknown")):
        with pytest.raises(grpc.aio.AioRpcError):
            await rig.call("ExplainPlacement", bad)


async def test_nodes_are_for_whoever_may(rig: NodeRig) -> None:
    for method, request in (
        ("DeclareNode", pb.DeclareNodeRequest()),
        ("DrainNode", pb.DrainNodeRequest(name="n1")),
        ("WithdrawNode", pb.WithdrawNodeRequest(name="n1")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rig.call(method, request, OTHER)
        assert refusal(failure)[0] == "PERMISSION_DENIED"


async def test_a_bad_declaration_is_refused_with_its_fields(rig: NodeRig) -> None:
    message = TOP.NodeDeclaration(name="n1", engine="http://x")
    message.gpus.add(id="0", hardware_type="x", memory="-1")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.call("DeclareNode", pb.DeclareNodeRequest(node=message))
    assert refusal(failure)[0] == "INVALID_REQUEST"
    assert "node.engine" in refusal(failure)[1]
    assert "node.gpus.0.memory" in refusal(failure)[1]


async def test_a_node_in_use_is_not_withdrawn_and_keeps_its_engine_and_gpus(rig: NodeRig) -> None:
    await rig.declare("n1", T4, T4)
    session_id = await rig.session(1)
    await rig.ready(session_id)
    for change in (
        declaration("n1", T4, T4, engine="unix:///run/other.sock"),
        {**declaration("n1"), "gpus": [{"id": "1", "hardwareType": T4}]},
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rig.declare_as(change)
        assert refusal(failure)[0] == "NODE_IN_USE"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.call("WithdrawNode", pb.WithdrawNodeRequest(name="n1"))
    assert refusal(failure)[0] == "NODE_IN_USE"
    # More may be declared at any time, and what runs goes on.
    assert len((await rig.declare("n1", T4, T4, T4)).gpus) == 3
    before = rig.nodes.running()
    assert (await rig.ready(session_id)).ready
    assert rig.nodes.running() == before
    await rig.terminate(session_id)
    await rig.call("WithdrawNode", pb.WithdrawNodeRequest(name="n1"))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.node("n1")
    assert refusal(failure)[0] == "NODE_NOT_FOUND"


async def test_a_session_that_ends_while_it_starts_gives_its_gpu_back(rig: NodeRig) -> None:
    """A start may take as long as a pull does, and nobody shall wait for that."""
    rig.nodes.behaviours["huge"] = Behaviour(pulls=True)
    await rig.declare("n1", T4)
    session_id = await rig.session(1, service=rig.service(name="huge"))
    driver = rig.nodes.drivers["n1"]
    await until(lambda: len(driver.starting) == 1)
    assert list((await rig.leases()).keys()) == [("n1", "0")]
    await rig.terminate(session_id)
    assert not driver.starting
    await rig.ready(await rig.session(1))


async def test_a_start_that_was_given_up_has_its_gpu_until_it_has_ended(rig: NodeRig) -> None:
    rig.nodes.behaviours["huge"] = Behaviour(pulls=True, ignores_stop=True)
    await rig.stop()
    await rig.start(policy=Policy(start_limit=0.3, attempts=1, drain=0.1))
    await rig.declare("n1", T4)
    session_id = await rig.session(1, service=rig.service(name="huge"))
    status = await rig.failed(session_id)
    assert status.status.reason == "StartFailed"
    driver = rig.nodes.drivers["n1"]
    second = await rig.session(1)

    async def waits() -> bool:
        replicas = (await rig.status(second)).replicas
        return any(r.reason == errors_pb2.ERROR_REASON_INSUFFICIENT_CAPACITY for r in replicas)

    await until(waits)
    assert list((await rig.leases()).keys()) == [("n1", "0")]
    driver.end_pulls()
    await rig.ready(second)


async def test_slow_starts_on_one_node_hold_up_no_other(rig: NodeRig) -> None:
    rig.nodes.behaviours["huge"] = Behaviour(pulls=True)
    many = FakeDriver.starts_at_once + 1
    await rig.declare("n1", *[T4] * many)
    huge = rig.service(name="huge")
    for _ in range(many):
        await rig.session(1, service=huge)
    driver = rig.nodes.drivers["n1"]
    await until(lambda: len(driver.starting) == FakeDriver.starts_at_once)
    await rig.declare("n2", A100)
    await rig.ready(await rig.session(1, A100))


async def test_replicas_are_spread_over_nodes_that_answer_late(rig: NodeRig) -> None:
    """A busy engine may take longer to tell what it holds than a pass waits."""
    for name in ("n1", "n2", "n3"):
        await rig.declare(name, T4, T4)
        await until(lambda name=name: rig.is_up(name))
    rig.nodes.silence("n1", silent=True)
    session_id = await rig.session(1, replicas=3)
    await until(lambda: rig.has_ready(session_id, 2))
    rig.nodes.silence("n1", silent=False)
    await until(lambda: rig.has_ready(session_id, 3))
    assert sorted(node for node, _ in await rig.leases()) == ["n1", "n2", "n3"]


async def test_replicas_are_spread_over_nodes_that_tell_late_what_they_have(
    rig: NodeRig,
) -> None:
    """As right after a start, when the way to one is longer than to the others."""
    for name in ("n1", "n2", "n3"):
        await rig.declare(name, T4, T4)
        await until(lambda name=name: rig.is_up(name))
    await rig.stop()
    rig.nodes.silent.add("n1")
    await rig.start()
    session_id = await rig.session(1, replicas=3)
    await until(lambda: rig.has_ready(session_id, 2))
    assert not await rig.is_up("n1")
    rig.nodes.silence("n1", silent=False)
    await until(lambda: rig.has_ready(session_id, 3))
    assert sorted(node for node, _ in await rig.leases()) == ["n1", "n2", "n3"]


async def test_a_lost_node_can_be_given_up_for_good(rig: NodeRig) -> None:
    await rig.declare("n1", T4)
    session_id = await rig.session(1)
    await rig.ready(session_id)
    rig.nodes.cut("n1", off=True)

    async def lost() -> object:
        replicas = (await rig.status(session_id)).replicas
        return any(r.reason == errors_pb2.ERROR_REASON_NODE_LOST for r in replicas)

    await until(lost)
    node = await rig.node("n1")
    assert node.state == TOP.NODE_STATE_UNREACHABLE
    assert list((await rig.leases()).keys()) == [("n1", "0")]
    await rig.call("TerminateInferenceSession", pb.TerminateInferenceSessionRequest(id=session_id))
    await rig.call("WithdrawNode", pb.WithdrawNodeRequest(name="n1", lost=True))
    await rig.terminate(session_id)
    assert await rig.leases() == {}


async def set_time_while_n1_is_cut_off(rig: NodeRig, hours: int, grace: float) -> str:
    """Have a session on n1 with n2 beside it, cut n1 off, and set the time of day."""
    clock = JumpingClock()
    await rig.stop()
    await rig.start(clock=clock, policy=Policy(node_grace=grace, drain=0.1))
    await rig.declare("n1", T4)
    session_id = await rig.session(1)
    await rig.ready(session_id)
    await rig.declare("n2", T4)
    rig.nodes.cut("n1", off=True)

    async def out_of_reach() -> bool:
        return bool((await rig.node("n1")).state == TOP.NODE_STATE_UNREACHABLE)

    await until(out_of_reach)
    clock.ahead = timedelta(hours=hours)
    return session_id


@pytest.mark.parametrize("hours", [3, -3])
async def test_a_node_is_not_lost_because_the_time_was_set(rig: NodeRig, hours: int) -> None:
    session_id = await set_time_while_n1_is_cut_off(rig, hours, grace=60)
    # It has looked at everything since: another session has come up.
    await rig.ready(await rig.session(1))
    (replica,) = (await rig.status(session_id)).replicas
    assert (replica.node, replica.phase) == ("n1", TOP.REPLICA_PHASE_READY)


async def test_a_node_is_lost_in_its_time_though_the_time_was_set_back(rig: NodeRig) -> None:
    session_id = await set_time_while_n1_is_cut_off(rig, -3, grace=1)

    async def moved() -> bool:
        return any(replica.node == "n2" for replica in (await rig.ready(session_id)).replicas)

    await until(moved)


async def test_a_lost_node_is_left_and_cleared_when_it_comes_back(rig: NodeRig) -> None:
    await rig.declare("n1", T4)
    session_id = await rig.session(1)
    await rig.ready(session_id)
    await rig.declare("n2", T4)
    rig.nodes.cut("n1", off=True)

    async def moved() -> object:
        status = await rig.status(session_id)
        return status.ready and {r.node for r in status.replicas if r.address} == {"n1", "n2"}

    await until(moved)
    assert len(rig.nodes.running()) == 2
    rig.nodes.cut("n1", off=False)
    await until(lambda: len(rig.nodes.running()) == 1)
    await rig.ready(session_id)
    await until(rig.leases_match)


async def test_draining_moves_a_session_without_a_gap(rig: NodeRig) -> None:
    await rig.declare("n1", T4, T4)
    session_id = await rig.session(1, replicas=2)
    await rig.ready(session_id, 2)
    await rig.declare("n2", T4, T4)
    statuses: list[Any] = []

    async def watch() -> None:
        request = pb.WatchInferenceSessionStatusRequest(id=session_id)
        async for response in rig.stream("WatchInferenceSessionStatus", request):
            statuses.append(response.status)  # noqa: PERF401 # one by one, as they come

    watching = asyncio.create_task(watch())
    await until(lambda: statuses)
    node = (await rig.call("DrainNode", pb.DrainNodeRequest(name="n1"))).node
    assert node.state == TOP.NODE_STATE_DRAINING

    async def moved() -> object:
        node = await rig.node("n1")
        return not node.replicas and not any(gpu.replica_id for gpu in node.gpus)

    await until(moved)
    watching.cancel()
    assert all(status.ready_replicas >= 2 for status in statuses)
    status = await rig.ready(session_id, 2)
    assert {r.node for r in status.replicas if r.phase == TOP.REPLICA_PHASE_READY} == {"n2"}
    await rig.call("UndrainNode", pb.UndrainNodeRequest(name="n1"))
    assert (await rig.node("n1")).state == TOP.NODE_STATE_READY


async def test_a_watch_shows_nodes_as_they_come_change_and_go(rig: NodeRig) -> None:
    await rig.declare("n1", T4)
    stream = rig.stream("WatchNodes", pb.WatchNodesRequest())
    seen: list[Any] = []

    async def read() -> None:
        async for response in stream:
            seen.append(response)  # noqa: PERF401 # one by one, as they come

    reading = asyncio.create_task(read())
    await until(lambda: seen)
    assert seen[0].snapshot
    assert [node.name for node in seen[0].nodes] == ["n1"]
    await rig.declare("n2")
    await rig.call("CordonNode", pb.CordonNodeRequest(name="n1"))

    def told() -> object:
        nodes = {node.name: node.state for response in seen for node in response.nodes}
        return nodes == {"n1": TOP.NODE_STATE_CORDONED, "n2": TOP.NODE_STATE_READY}

    await until(told)
    await rig.call("WithdrawNode", pb.WithdrawNodeRequest(name="n2"))
    await until(lambda: ["n2"] in [list(response.removed) for response in seen])
    reading.cancel()


async def test_a_gpu_that_fails_its_probe_is_set_aside(rig: NodeRig) -> None:
    rig.nodes.failed_gpus = ("0",)
    rig.nodes.warnings = ("it has 1 GPU, 2 are declared",)
    node = await rig.declare("n1", T4, T4)
    assert [bool(gpu.set_aside) for gpu in node.gpus] == [True, False]
    assert list(node.differences) == ["it has 1 GPU, 2 are declared"]
    session_id = await rig.session(1)
    (replica,) = (await rig.ready(session_id)).replicas
    assert list(replica.gpus) == ["1"]


async def test_a_file_of_nodes_is_what_counts_at_a_start(rig: NodeRig) -> None:
    def nodes(*given: dict[str, Any]) -> list[Any]:
        return [declared_node(NodeDeclaration.model_validate(one)) for one in given]

    await rig.declare("mine")
    await rig.stop()
    await rig.start(nodes=nodes(declaration("n1", T4), declaration("n2", T4)))
    session_id = await rig.session(1)
    (replica,) = (await rig.ready(session_id)).replicas
    other = "n2" if replica.node == "n1" else "n1"
    await rig.stop()
    # What is free goes at once, what is not is emptied first.
    await rig.start(nodes=[])
    listed = (await rig.call("ListNodes", pb.ListNodesRequest())).nodes
    assert {node.name for node in listed} == {"mine", replica.node}
    assert (await rig.node(replica.node)).state == TOP.NODE_STATE_DRAINING
    await rig.stop()
    broken = declaration(replica.node, T4, engine="unix:///run/other.sock")
    if (await rig.leases()).get((replica.node, "0")):
        with pytest.raises(SettingsError, match="engine cannot change"):
            await rig.start(nodes=nodes(broken))
    await rig.start(nodes=nodes(declaration(other, T4)))
    await rig.ready(session_id)


async def test_without_nodes_and_without_their_driver_it_says_so(rig: NodeRig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.session()
    assert "no node is declared" in refusal(failure)[1]
    await rig.stop()
    declared = declared_node(NodeDeclaration.model_validate(declaration("n1", T4)))
    with pytest.raises(SettingsError, match="add docker to --drivers"):
        await rig.start(drivers=("process",), nodes=[declared])
    await rig.start(node_drivers=None, drivers=("process",))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.declare("n1")
    assert refusal(failure)[0] == "UNSUPPORTED_SERVICE"
    for method, name in (("WithdrawNode", "local"), ("WithdrawNode", "unknown")):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rig.call(method, pb.WithdrawNodeRequest(name=name))
        assert (
            refusal(failure)[0]
            == {
                "local": "NODE_NOT_DECLARED",
                "unknown": "NODE_NOT_FOUND",
            }[name]
        )


async def test_one_node_that_hangs_does_not_hold_up_the_others(rig: NodeRig) -> None:
    await rig.declare("n1", T4)
    await rig.declare("n2", T4)
    stuck = asyncio.Event()

    async def hang() -> Any:
        await stuck.wait()
        return []

    rig.nodes.drivers["n1"].list = hang  # type: ignore[method-assign]
    session_id = await rig.session(1)
    (replica,) = (await rig.ready(session_id)).replicas
    assert replica.node == "n2"
    stuck.set()


async def test_twelve_sessions_share_eight_gpus_of_two_types(rig: NodeRig) -> None:
    await rig.declare("n1", T4, T4, T4)
    await rig.declare("n2", T4, A100)
    await rig.declare("n3", A100, A100, A100)
    needs = [
        (1, T4), (2, A100), (1, T4), (3, A100), (2, T4), (1, A100),
        (3, T4), (1, A100), (1, T4), (2, T4), (1, A100), (1, T4),
    ]  # fmt: skip
    waiting = [await rig.session(count, kind) for count, kind in needs]
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    room_since = loop.time()
    while waiting:

        async def ready_ones() -> list[str]:
            return [one for one in waiting if (await rig.status(one)).ready]

        up = await until(ready_ones)
        waits.append(loop.time() - room_since)
        for one in waiting:
            status = await rig.status(one)
            for replica in status.replicas:
                if replica.phase == TOP.REPLICA_PHASE_PENDING and replica.reason:
                    assert replica.reason == errors_pb2.ERROR_REASON_INSUFFICIENT_CAPACITY
                    assert "needed" in replica.message
        leased = await rig.leases()
        assert len(leased) == len(set(leased))
        await rig.terminate(up[0])
        waiting.remove(up[0])
        room_since = loop.time()
    print(f"waits for the next ready session, in seconds: {max(waits):.3f} at most")
    await rig.check_leases()


async def test_an_engine_is_one_node(rig: NodeRig) -> None:
    await rig.declare("n1", T4)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await rig.declare("n2", T4, engine="unix:///run/n1.sock")
    assert refusal(failure)[0] == "INVALID_REQUEST"
    assert "node.engine: is that of node 'n1'" in refusal(failure)[1]
    # The same node may be declared again.
    await rig.declare("n1", T4, T4)


async def test_two_nodes_that_are_one_engine_share_neither_gpus_nor_replicas(rig: NodeRig) -> None:
    await rig.declare("n1", T4)
    session_id = await rig.session(1)
    (replica,) = (await rig.ready(session_id)).replicas
    rig.nodes.same["unix:///run/n2.sock"] = "unix:///run/n1.sock"
    twin = await rig.declare("n2", T4)
    assert twin.state == TOP.NODE_STATE_CORDONED
    assert "same container engine as node n1" in twin.message
    # What one has started the other sees and leaves alone.
    second = await rig.session(1)

    async def waits() -> Any:
        found = await rig.explain(second)
        return found if found.nodes else None

    verdicts = {one.node: list(one.reasons) for one in (await until(waits)).nodes}
    assert "is the same container engine as node n1" in verdicts["n2"]
    assert "0 of 1 such GPU free" in verdicts["n1"][0]
    assert [one.id for one in (await rig.ready(session_id)).replicas] == [replica.id]
    # Emptied, the first gives way to the other, which does not give the GPU out before it is free.
    await rig.call("DrainNode", pb.DrainNodeRequest(name="n1"))

    async def moved() -> Any:
        return [r.node for r in (await rig.status(session_id)).replicas if r.phase == 4] == ["n2"]

    assert (await rig.node("n2")).state == TOP.NODE_STATE_READY
    await until(moved)
    assert len(rig.nodes.running()) == 1


async def test_a_node_that_is_back_in_the_file_takes_replicas_again(rig: NodeRig) -> None:
    node = declared_node(NodeDeclaration.model_validate(declaration("n1")))
    await rig.stop()
    await rig.start(nodes=[node])
    session_id = await rig.session()
    await rig.ready(session_id)
    await rig.stop()
    await rig.start(nodes=[])
    assert (await rig.node("n1")).state == TOP.NODE_STATE_DRAINING
    await rig.stop()
    await rig.start(nodes=[node])
    assert (await rig.node("n1")).state == TOP.NODE_STATE_READY
    await rig.ready(session_id)
    # Whom people empty stays so, whether it was in the file in between or not.
    await rig.call("DrainNode", pb.DrainNodeRequest(name="n1"))
    await rig.stop()
    await rig.start(nodes=[node])
    assert (await rig.node("n1")).state == TOP.NODE_STATE_DRAINING
