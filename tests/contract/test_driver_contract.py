"""One suite over all drivers."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from podbay.schema.mock_keys import MOCK_KEY_VARIABLE
from podbay_kit.mock_host import MockHost
from podbay_session_manager.drivers import process
from podbay_session_manager.drivers.attached import AttachedDriver
from podbay_session_manager.drivers.contract import (
    DriverUnreachableError,
    LaunchSpec,
    NotPermittedError,
    ObservedReplica,
    ReplicaDriver,
    ReplicaStillRunningError,
    StartFailedError,
    UnknownReplicaError,
)
from podbay_session_manager.drivers.fake import Behaviour, FakeDriver
from podbay_session_manager.drivers.inprocess import InProcessDriver
from podbay_session_manager.drivers.process import ProcessDriver
from podbay_session_manager.drivers.process_files import LaunchRecord, ReplicaFolder
from podbay_session_manager.drivers.process_tree import find_marked, identity
from podbay_session_manager.records import Reason, ServiceSpec, Serving
from tests.support.docker.fixtures import Docker
from tests.support.replica_mocks import Sample
from tests.support.session_manager import sh, until

# Unlike those of other runs on this machine: processes of a replica are found by its id.
R1, R2 = f"r1-{uuid.uuid4().hex[:8]}", f"r2-{uuid.uuid4().hex[:8]}"
GOOD_MOCK = ServiceSpec(kind="mock", name="tests.support.replica_mocks.Sample")


@dataclass
class Harness:
    """A driver, and services that behave in known ways with it."""

    make: Callable[[], ReplicaDriver]
    runs: ServiceSpec
    ends: ServiceSpec
    """Ends by itself, at once."""
    ends_reason: Reason
    ends_code: int
    cannot_start: ServiceSpec
    cannot_start_reason: Reason
    stubborn: ServiceSpec | None
    """Ignores being asked to end."""
    log_text: bytes
    """What `ends` leaves in its log."""
    survives: bool
    """Whether replicas outlive the driver."""
    close: Callable[[], None] = lambda: None
    """Ends what stands behind the drivers."""
    notes_times: bool = True
    """Whether logs tell when they were written."""


def process_harness(folder: Path) -> Harness:
    return Harness(
        make=lambda: ProcessDriver(folder),
        runs=sh("echo up; exec sleep 1000"),
        ends=sh("echo bye; exit 3"),
        ends_reason=Reason.NONE,
        ends_code=3,
        cannot_start=ServiceSpec(kind="mock", name="x", command=("no-such-command-here",)),
        cannot_start_reason=Reason.COMMAND_NOT_FOUND,
        stubborn=sh("trap '' TERM; while true; do sleep 0.05; done"),
        log_text=b"bye\n",
        survives=True,
    )


def inprocess_harness(folder: Path) -> Harness:
    return Harness(
        make=lambda: InProcessDriver(folder),
        runs=GOOD_MOCK,
        ends=ServiceSpec(kind="mock", name="tests.no_such_module.Mock"),
        ends_reason=Reason.MOCK_NOT_IMPORTABLE,
        ends_code=78,
        cannot_start=replace(GOOD_MOCK, env=(("PORT", "BUSY"),)),
        cannot_start_reason=Reason.PORT_TAKEN,
        stubborn=None,
        log_text=b"ended\n",
        survives=False,
    )


class Unmakeable(Sample):
    def __init__(self) -> None:
        raise RuntimeError("no such weights")


def attached_harness(folder: Path) -> Harness:
    host = MockHost(folder / "hosts")

    def offered(mock_type: type) -> ServiceSpec:
        env = ((MOCK_KEY_VARIABLE, host.offer(mock_type)),)
        return ServiceSpec(kind="mock", name=mock_type.__qualname__, env=env)

    return Harness(
        make=lambda: AttachedDriver(folder / "replicas", folder / "hosts"),
        runs=offered(Sample),
        ends=offered(Unmakeable),
        ends_reason=Reason.REPLICA_EXITED,
        ends_code=70,
        cannot_start=ServiceSpec(kind="mock", name="x", env=((MOCK_KEY_VARIABLE, "unknown"),)),
        cannot_start_reason=Reason.MOCK_PROCESS_ENDED,
        stubborn=None,
        log_text=b"RuntimeError: no such weights\n",
        survives=True,
        notes_times=False,
        close=host.stop,
    )


def fake_harness(folder: Path) -> Harness:
    engines: list[FakeDriver] = []
    behaviours = {
        "ends": Behaviour(exit_code=3, log="bye\n"),
        "cannot": Behaviour(start_reason=Reason.COMMAND_NOT_FOUND),
        "stubborn": Behaviour(ignores_stop=True),
    }

    def make() -> ReplicaDriver:
        engine = engines[0].engine if engines else None
        engines.append(FakeDriver(time.monotonic, engine=engine, behaviours=behaviours))
        return engines[-1]

    return Harness(
        make=make,
        runs=ServiceSpec(kind="mock", name="runs"),
        ends=ServiceSpec(kind="mock", name="ends"),
        ends_reason=Reason.NONE,
        ends_code=3,
        cannot_start=ServiceSpec(kind="mock", name="cannot"),
        cannot_start_reason=Reason.COMMAND_NOT_FOUND,
        stubborn=ServiceSpec(kind="mock", name="stubborn"),
        log_text=b"bye\n",
        survives=True,
        notes_times=False,
    )


def docker_harness(folder: Path, docker: Docker) -> Harness:
    def shell(script: str) -> ServiceSpec:
        return docker.service("/bin/sh", "-c", script)

    return Harness(
        # Reached at published ports; tests/e2e/docker does it by the containers' own addresses.
        make=lambda: docker.driver(name="local", address="127.0.0.1", folder=folder),
        runs=shell("trap 'exit 0' TERM; echo up; sleep 1000 & wait"),
        ends=shell("echo bye; exit 3"),
        ends_reason=Reason.NONE,
        ends_code=3,
        cannot_start=docker.service("no-such-command-here"),
        cannot_start_reason=Reason.COMMAND_NOT_FOUND,
        stubborn=shell("trap '' TERM; while true; do sleep 0.05; done"),
        log_text=b"bye\n",
        survives=True,
    )


HARNESSES = {
    "attached": attached_harness,
    "fake": fake_harness,
    "inprocess": inprocess_harness,
    "process": process_harness,
}
DOCKER = pytest.param("docker", marks=pytest.mark.needs_docker)


@pytest.fixture(params=[*sorted(HARNESSES), DOCKER])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    folder = tmp_path / "replicas"
    if request.param == "docker":
        made = docker_harness(folder, request.getfixturevalue("docker"))
    else:
        made = HARNESSES[request.param](folder)
    yield made
    made.close()


@pytest.fixture
async def driver(harness: Harness) -> AsyncIterator[ReplicaDriver]:
    driver = harness.make()
    yield driver
    for seen in await driver.list():
        await driver.stop(seen.replica_id, 0)
    await until(lambda: none_runs(driver))
    await driver.close()


async def none_runs(driver: ReplicaDriver) -> bool:
    return not any(seen.running for seen in await driver.list())


def launch(service: ServiceSpec, replica_id: str = R1) -> LaunchSpec:
    return LaunchSpec(replica_id, "s1", service, Serving(), "local")


async def seen(driver: ReplicaDriver, replica_id: str = R1) -> ObservedReplica | None:
    listed = [s for s in await driver.list() if s.replica_id == replica_id]
    assert len(listed) <= 1
    return listed[0] if listed else None


async def ended(driver: ReplicaDriver, replica_id: str = R1) -> ObservedReplica:
    async def look() -> ObservedReplica | None:
        found = await seen(driver, replica_id)
        return found if found is not None and not found.running else None

    return await until(look)


async def test_what_is_started_is_listed_with_its_address(
    driver: ReplicaDriver, harness: Harness
) -> None:
    assert await driver.list() == []
    await driver.start(launch(harness.runs))
    found = await seen(driver)
    assert found is not None
    assert found.running
    assert (found.session_id, found.host, found.node) == ("s1", "127.0.0.1", "local")
    assert found.port > 0
    assert found.exit_code is None


async def test_start_is_idempotent(driver: ReplicaDriver, harness: Harness) -> None:
    await driver.start(launch(harness.runs))
    first = await until(lambda: with_pid(driver))
    await asyncio.gather(*(driver.start(launch(harness.runs)) for _ in range(3)))
    assert await with_pid(driver) == first


async def with_pid(driver: ReplicaDriver) -> tuple[int, int] | None:
    found = await seen(driver)
    return (found.pid, found.port) if found is not None and found.pid is not None else None


async def test_starts_at_the_same_time_make_one_replica(
    driver: ReplicaDriver, harness: Harness
) -> None:
    await asyncio.gather(*(driver.start(launch(harness.runs)) for _ in range(5)))
    assert len(await driver.list()) == 1


async def test_start_does_not_revive_what_has_ended(
    driver: ReplicaDriver, harness: Harness
) -> None:
    await driver.start(launch(harness.ends))
    before = await ended(driver)
    await driver.start(launch(harness.runs))
    assert await seen(driver) == before


async def test_an_end_is_seen_with_its_exit_code(driver: ReplicaDriver, harness: Harness) -> None:
    await driver.start(launch(harness.ends))
    found = await ended(driver)
    assert found.exit_code == harness.ends_code
    assert found.reason == harness.ends_reason


async def test_an_end_is_hinted(driver: ReplicaDriver, harness: Harness) -> None:
    await driver.start(launch(harness.ends))
    while not await none_runs(driver):
        driver.changed.clear()
        if not await none_runs(driver):
            await asyncio.wait_for(driver.changed.wait(), 10)


async def test_a_start_that_fails_says_why_and_leaves_nothing(
    driver: ReplicaDriver, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    service = harness.cannot_start
    if ("PORT", "BUSY") in service.env:
        await driver.start(launch(harness.runs, "other"))
        other = await seen(driver, "other")
        assert other is not None
        service = replace(service, env=(("PORT", str(other.port)),))
    with pytest.raises(StartFailedError) as failure:
        await driver.start(launch(service))
    assert failure.value.reason == harness.cannot_start_reason
    assert failure.value.message
    assert await seen(driver) is None
    # It is no defect of the driver's.
    await asyncio.sleep(0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_stop_ends_it_and_is_idempotent(driver: ReplicaDriver, harness: Harness) -> None:
    await driver.start(launch(harness.runs))
    await driver.stop(R1, 5)
    await driver.stop(R1, 5)
    await ended(driver)
    await driver.stop(R1, 5)
    await driver.stop("not-known", 5)


# Nothing within one process can ignore its end: an in-process server is stopped by its own loop.
@pytest.mark.parametrize("harness", ["fake", "process", DOCKER], indirect=True)
async def test_what_ignores_being_asked_is_forced(driver: ReplicaDriver, harness: Harness) -> None:
    assert harness.stubborn is not None
    await driver.start(launch(harness.stubborn))
    await until(lambda: with_pid(driver))
    await driver.stop(R1, 1000)
    found = await seen(driver)
    assert found is not None
    assert found.running
    await driver.stop(R1, 0.1)
    assert (await ended(driver)).exit_code == 137


async def test_remove_waits_for_the_end(driver: ReplicaDriver, harness: Harness) -> None:
    await driver.start(launch(harness.runs))
    with pytest.raises(ReplicaStillRunningError):
        await driver.remove(R1)
    await driver.stop(R1, 5)
    await ended(driver)
    await driver.remove(R1)
    assert await seen(driver) is None
    await driver.remove(R1)


async def test_the_log_outlives_the_replica(driver: ReplicaDriver, harness: Harness) -> None:
    await driver.start(launch(harness.ends))
    await ended(driver)
    await driver.remove(R1)
    chunk = await driver.read_log(R1, 0, 65536)
    assert harness.log_text in chunk.data
    assert chunk.offset == 0
    assert chunk.end == len(chunk.data)
    assert (await driver.read_log(R1, -4, 65536)).data == chunk.data[-4:]
    assert (await driver.read_log(R1, 2, 3)).data == chunk.data[2:5]
    assert (await driver.read_log(R1, chunk.end + 10, 10)).data == b""
    with pytest.raises(UnknownReplicaError):
        await driver.read_log("never", 0, 10)


async def test_a_log_tells_when_it_was_written_where_the_driver_notes_it(
    driver: ReplicaDriver, harness: Harness
) -> None:
    before = time.time()
    await driver.start(launch(harness.ends))
    await ended(driver)
    chunk = await driver.read_log(R1, 0, 65536)
    positions = [position for position, _ in chunk.times]
    assert positions == sorted(positions)
    if harness.notes_times:
        assert positions[0] == 0
    for _, written in chunk.times:
        assert (written is not None) == harness.notes_times
        assert written is None or before - 0.001 <= written <= time.time()


async def test_logs_are_dropped_when_nobody_keeps_them(
    driver: ReplicaDriver, harness: Harness
) -> None:
    await driver.start(launch(harness.ends))
    await driver.start(launch(harness.runs, R2))
    await ended(driver)
    await driver.remove(R1)
    await driver.drop_logs(frozenset({R1}))
    assert (await driver.read_log(R1, 0, 10)).data
    await driver.drop_logs(frozenset())
    with pytest.raises(UnknownReplicaError):
        await driver.read_log(R1, 0, 10)
    found = await seen(driver, R2)
    assert found is not None
    assert found.running


async def test_another_driver_goes_on(harness: Harness) -> None:
    driver = harness.make()
    await driver.start(launch(harness.runs))
    await driver.start(launch(harness.ends, R2))
    before = await until(lambda: with_pid(driver))
    await ended(driver, R2)
    await driver.close()
    later = harness.make()
    try:
        if not harness.survives:
            assert await later.list() == []
            return
        assert await with_pid(later) == before
        assert (await ended(later, R2)).exit_code == harness.ends_code
        await later.stop(R1, 5)
        await ended(later)
    finally:
        await later.close()


async def test_nodes_are_told(driver: ReplicaDriver) -> None:
    (node,) = await driver.nodes()
    assert (node.name, node.address) == ("local", "127.0.0.1")
    assert node.cpus >= 1
    assert node.memory_bytes > 0


def test_other_kinds_are_refused_with_their_name(harness: Harness) -> None:
    async def refusal() -> str | None:
        return harness.make().supports(ServiceSpec(kind="vllm", name="x"))

    said = asyncio.run(refusal())
    assert said is not None
    assert "vllm" in said


async def test_unreachable_is_unknown() -> None:
    fake = FakeDriver(time.monotonic)
    await fake.start(launch(ServiceSpec(kind="mock", name="runs")))
    fake.unreachable = True
    calls: list[Awaitable[object]] = [fake.list(), fake.stop(R1, 0), fake.remove(R1)]
    for call in calls:
        with pytest.raises(DriverUnreachableError):
            await call
    fake.unreachable = False
    assert len(await fake.list()) == 1


async def test_a_killed_process_is_noticed_at_once(tmp_path: Path) -> None:
    driver = ProcessDriver(tmp_path)
    try:
        await driver.start(launch(sh("exec sleep 1000")))
        pid, _port = await until(lambda: with_pid(driver))
        driver.changed.clear()
        os.kill(pid, 9)
        await asyncio.wait_for(driver.changed.wait(), 10)
        found = await ended(driver)
        assert found.exit_code == 137
        assert identity(pid) is None
    finally:
        await driver.close()


async def test_a_start_that_was_not_written_down_is_found(tmp_path: Path) -> None:
    driver = ProcessDriver(tmp_path)
    await driver.start(launch(sh("exec sleep 1000")))
    before = await until(lambda: with_pid(driver))
    await driver.close()
    (tmp_path / R1 / "keeper.json").unlink()
    later = ProcessDriver(tmp_path)
    try:
        assert await with_pid(later) == before
        await later.stop(R1, 5)
        await ended(later)
    finally:
        await later.close()


async def test_a_start_that_never_happened_is_forgotten(tmp_path: Path) -> None:
    folder = ReplicaFolder(tmp_path / R1)
    folder.begin(LaunchRecord("s1", 20000, mock=False))
    driver = ProcessDriver(tmp_path)
    try:
        assert await driver.list() == []
        await driver.start(launch(sh("exec sleep 1000")))
        await until(lambda: with_pid(driver))
        await driver.stop(R1, 0)
        await ended(driver)
    finally:
        await driver.close()


async def test_a_start_that_cannot_be_written_down_leaves_no_process(tmp_path: Path) -> None:
    # As with a disk that is full by then.
    (tmp_path / R1 / "keeper.json.new").mkdir(parents=True)
    driver = ProcessDriver(tmp_path)
    try:
        with pytest.raises(StartFailedError):
            await driver.start(launch(sh("exec sleep 1000")))
        assert find_marked([R1]) == {}
        assert await driver.list() == []
    finally:
        await driver.close()


async def test_a_start_that_is_not_permitted_any_more_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def noted(pid: int) -> str | None:
        made.append(pid)
        return identity(pid)

    monkeypatch.setattr(process, "identity", noted)
    driver = ProcessDriver(tmp_path)
    answers = [True, False]  # it led when the process was made, and does not when it was
    driver.permitted = lambda: answers.pop(0)
    try:
        with pytest.raises(NotPermittedError):
            await driver.start(launch(sh("exec sleep 1000")))
        assert answers == []
        assert [identity(pid) for pid in made] == [None]
        assert await driver.list() == []
    finally:
        await driver.close()


async def test_a_start_goes_on_and_is_told_where_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    begin = ReplicaFolder.begin

    def held_up(folder: ReplicaFolder, record: LaunchRecord) -> None:
        assert go.wait(30)
        begin(folder, record)

    monkeypatch.setattr(ReplicaFolder, "begin", held_up)
    driver = ProcessDriver(tmp_path)
    try:
        waiting = asyncio.create_task(driver.start(launch(sh("exec sleep 1000"))))
        await until(lambda: list(driver.starting) == [R1])
        waiting.cancel()
        await asyncio.wait({waiting})
        assert await driver.list() == []
        assert list(driver.starting) == [R1]
        go.set()
        await until(lambda: with_pid(driver))
        assert list(driver.starting) == []
        await driver.stop(R1, 0)
        await ended(driver)
    finally:
        go.set()
        await driver.close()


async def test_a_closed_driver_does_not_go_on_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, go = threading.Event(), threading.Event()
    look = process._find_replicas

    def held_up(root: Path) -> Any:
        looks.set()
        assert go.wait(30)
        return look(root)

    monkeypatch.setattr(process, "_find_replicas", held_up)
    driver = ProcessDriver(tmp_path)
    listing = asyncio.create_task(driver.list())
    await until(looks.is_set)
    listing.cancel()
    closing = asyncio.create_task(driver.close())
    # Forgets what seems never to have been started, as what the next driver is about to.
    await asyncio.wait({closing}, timeout=0.1)
    assert not closing.done()
    go.set()
    await closing


async def test_a_killed_keeper_takes_its_replica_along(tmp_path: Path) -> None:
    driver = ProcessDriver(tmp_path)
    try:
        await driver.start(launch(sh("exec sleep 1000")))
        pid, _port = await until(lambda: with_pid(driver))
        os.kill(os.getpgid(pid), 9)
        assert (await ended(driver)).exit_code == 137
        assert identity(pid) is None
    finally:
        await driver.close()


async def test_what_left_the_group_ends_too(tmp_path: Path) -> None:
    driver = ProcessDriver(tmp_path)
    stray = tmp_path / "stray"
    try:
        script = f"setsid sh -c 'echo $$ > {stray}; exec sleep 1000' & sleep 1000"
        await driver.start(launch(sh(script)))
        await until(lambda: stray.exists() and stray.read_text().strip() != "")
        await driver.stop(R1, 5)
        await ended(driver)
        assert identity(int(stray.read_text())) is None
    finally:
        await driver.close()


async def test_the_log_is_bounded_and_keeps_what_is_new(tmp_path: Path) -> None:
    driver = ProcessDriver(tmp_path)
    try:
        script = "head -c 17000000 /dev/zero | tr '\\0' x; echo; echo the-end"
        await driver.start(launch(sh(script)))
        await ended(driver)
        size = sum(path.stat().st_size for path in (tmp_path / R1 / "log").iterdir())
        assert 5 << 20 <= size <= 11 << 20
        assert (await driver.read_log(R1, -8, 100)).data == b"the-end\n"
        first = await driver.read_log(R1, 0, 10)
        assert first.offset > 0
        assert first.end == 17000000 + 1 + 8
    finally:
        await driver.close()


async def test_secrets_of_the_manager_do_not_reach_replicas(tmp_path: Path) -> None:
    own = {**os.environ, "PODBAY_API_TOKEN": "hunter2-42", "PODBAY_MOCK_SEED": "1"}
    driver = ProcessDriver(tmp_path, environment=own)
    try:
        spec = replace(sh("env"), env=(("MINE", "yes"),))
        await driver.start(launch(spec))
        await ended(driver)
        log = (await driver.read_log(R1, 0, 65536)).data.decode()
        lines = set(log.splitlines())
        assert {"MINE=yes", "PODBAY_MOCK_SEED=1", "PODBAY_SESSION_ID=s1"} <= lines
        assert f"PODBAY_REPLICA_ID={R1}" in lines
        assert "hunter2-42" not in log
    finally:
        await driver.close()


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (ServiceSpec(kind="mock", name="x", command=("/etc/passwd",)), "COMMAND_NOT_EXECUTABLE"),
        (ServiceSpec(kind="mock", name="x", command=("/no/such",)), "COMMAND_NOT_FOUND"),
        (replace(sh("true"), working_dir="/no/such"), "WORKING_DIRECTORY_NOT_FOUND"),
    ],
)
async def test_reasons_of_the_process_driver(
    tmp_path: Path, service: ServiceSpec, reason: str
) -> None:
    driver = ProcessDriver(tmp_path)
    try:
        with pytest.raises(StartFailedError) as failure:
            await driver.start(launch(service))
        assert failure.value.reason == reason
    finally:
        await driver.close()


async def test_a_script_without_interpreter_cannot_be_executed(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo hi\n")
    script.chmod(0o755)
    driver = ProcessDriver(tmp_path / "replicas")
    try:
        await driver.start(launch(ServiceSpec(kind="mock", name="x", command=(str(script),))))
        found = await ended(driver)
        assert found.reason is Reason.COMMAND_NOT_EXECUTABLE
        assert found.exit_code == 126
    finally:
        await driver.close()


async def test_a_taken_port_names_who_has_it(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    driver = ProcessDriver(tmp_path)
    try:
        spec = replace(sh("true"), env=(("PORT", str(port)),))
        with pytest.raises(StartFailedError) as failure:
            await driver.start(launch(spec))
        assert failure.value.reason is Reason.PORT_TAKEN
        assert str(os.getpid()) in failure.value.message
    finally:
        server.close()
        await server.wait_closed()
        await driver.close()
