"""The supervisor over real processes, which do nothing but be healthy."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from pathlib import Path

import pytest

from podbay.local.faults import LocalError
from podbay.local.installation import Installation, clear_leftovers, stop_installation
from podbay.local.plan import ServiceSpec, UpSettings
from podbay.local.ports import choose_port
from podbay.local.processes import ProcessIdentity, find_by_environment
from podbay.local.restarts import RestartPolicy
from podbay.local.state import DataDir
from podbay.local.supervisor import Event, Supervisor
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]


def spec(name: str, mode: str = "healthy", *, stop_seconds: float = 10.0) -> ServiceSpec:
    port = choose_port("127.0.0.1")
    argv = (sys.executable, "-m", "tests.support.up_fake_service", str(port), mode)
    return ServiceSpec(name, name, argv, "127.0.0.1", port, stop_seconds)


class Stage:
    """A supervisor whose events are kept."""

    def __init__(self, folder: Path, *specs: ServiceSpec, start_timeout: float = 60.0) -> None:
        self.events: list[Event] = []
        self.supervisor = Supervisor(
            specs,
            log_dir=folder,
            environment={"PYTHONPATH": str(ROOT)},
            on_event=self.events.append,
            policy=RestartPolicy(first=0.01, longest=0.05),
            start_timeout=start_timeout,
        )

    def kinds(self, name: str) -> list[str]:
        return [event.kind for event in self.events if event.service == name]

    def pid(self, index: int) -> int:
        pid = self.supervisor.records()[index].pid
        assert pid is not None
        return pid


async def test_services_start_together_and_stop_in_the_reverse_order(tmp_path: Path):
    stage = Stage(tmp_path, spec("first"), spec("second"))
    await stage.supervisor.start()
    assert [record.state for record in stage.supervisor.records()] == ["running", "running"]
    await stage.supervisor.stop()
    ends = [(e.service, e.kind) for e in stage.events if e.kind in {"stopping", "stopped"}]
    assert ends == [
        ("second", "stopping"),
        ("second", "stopped"),
        ("first", "stopping"),
        ("first", "stopped"),
    ]
    assert [record.pid for record in stage.supervisor.records()] == [None, None]


async def test_several_of_one_service_end_together(tmp_path: Path):
    several = (dataclasses.replace(spec(name), service="pair") for name in ("one", "two"))
    stage = Stage(tmp_path, spec("first"), *several)
    await stage.supervisor.start()
    await stage.supervisor.stop()
    ends = [(e.service, e.kind) for e in stage.events if e.kind in {"stopping", "stopped"}]
    assert ends[:2] == [("two", "stopping"), ("one", "stopping")]
    assert sorted(ends[2:4]) == [("one", "stopped"), ("two", "stopped")]
    assert ends[4:] == [("first", "stopping"), ("first", "stopped")]


async def test_a_service_that_comes_after_the_others_finds_them_healthy(tmp_path: Path):
    last = dataclasses.replace(spec("last"), after_others=True)
    stage = Stage(tmp_path, spec("first"), last)
    await stage.supervisor.start()
    kinds = [(event.service, event.kind) for event in stage.events]
    assert kinds.index(("first", "healthy")) < kinds.index(("last", "started"))
    await stage.supervisor.stop()


async def test_only_the_process_that_was_started_counts_as_listening(tmp_path: Path):
    file = tmp_path / "address.json"
    file.write_text('{"pid": 1, "address": "127.0.0.1:1"}')
    one = dataclasses.replace(spec("one"), address_file=file)
    stage = Stage(tmp_path, one, start_timeout=1.5)
    with pytest.raises(LocalError, match="is not healthy"):
        await stage.supervisor.start()
    assert not file.exists()
    await stage.supervisor.stop()


async def test_a_killed_service_comes_back_on_its_port_and_its_end_is_told(tmp_path: Path):
    stage = Stage(tmp_path, spec("one"))
    await stage.supervisor.start()
    try:
        endpoint = stage.supervisor.records()[0].endpoint
        os.kill(stage.pid(0), signal.SIGKILL)
        await eventually(lambda: stage.kinds("one").count("healthy") == 2, "the service is back")
        record = stage.supervisor.records()[0]
        assert (record.endpoint, record.restarts, record.state) == (endpoint, 1, "running")
        died = next(event for event in stage.events if event.kind == "died")
        assert "SIGKILL" in died.text
        assert died.lines == ("fake service in mode healthy",)
    finally:
        await stage.supervisor.stop()


async def test_what_is_asked_once_is_not_asked_again(tmp_path: Path):
    plain = spec("one")
    once = dataclasses.replace(plain, argv=plain.argv[:-1], once=("unasked",))
    stage = Stage(tmp_path, once)
    await stage.supervisor.start()
    try:
        os.kill(stage.pid(0), signal.SIGKILL)
        await eventually(lambda: stage.kinds("one").count("healthy") == 2, "the service is back")
    finally:
        await stage.supervisor.stop()
    lines = (tmp_path / "one.log").read_text().splitlines()
    asked = [line.rpartition(" ")[2] for line in lines if line.startswith("fake service")]
    assert asked == ["unasked", "healthy"]


async def test_a_service_that_ends_at_once_fails_the_start_with_code_and_log(tmp_path: Path):
    stage = Stage(tmp_path, spec("good"), spec("bad", "exits"))
    with pytest.raises(LocalError) as caught:
        await stage.supervisor.start()
    await stage.supervisor.stop()
    assert "the bad ended with exit code 7" in caught.value.message
    assert caught.value.evidence == ("fake service in mode exits",)
    assert all(record.pid is None for record in stage.supervisor.records())


async def test_a_service_that_never_gets_healthy_fails_the_start(tmp_path: Path):
    stage = Stage(tmp_path, spec("one", "unhealthy"), start_timeout=1.0)
    with pytest.raises(LocalError, match="is not healthy"):
        await stage.supervisor.start()
    await stage.supervisor.stop()


async def test_a_service_that_ignores_sigterm_is_killed_and_that_is_told(tmp_path: Path):
    stage = Stage(tmp_path, spec("one", "stubborn", stop_seconds=0.2))
    await stage.supervisor.start()
    await stage.supervisor.stop()
    assert stage.kinds("one")[-1] == "killed"


def installation(folder: Path, *specs: ServiceSpec) -> Installation:
    return Installation(
        folder,
        UpSettings(0, 0, 0),
        on_event=lambda _: None,
        plan=lambda _settings, _data: list(specs),
    )


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.usefixtures("_importable")
async def test_an_installation_writes_down_where_it_stands_and_clears_up(tmp_path: Path):
    up = installation(tmp_path, spec("registry"))
    await up.start()
    record = up.data.running()
    assert record is not None
    assert (record.state, record.pid) == ("running", os.getpid())
    assert record.service("registry").endpoint == up.endpoint
    with pytest.raises(LocalError, match="in use by another"):
        await installation(tmp_path, spec("registry")).start()
    assert not await up.stop()
    assert up.data.read_record() is None
    again = installation(tmp_path, spec("registry"))
    await again.start()
    await again.stop()


@pytest.mark.usefixtures("_importable")
async def test_what_the_services_left_behind_is_found_and_killed(tmp_path: Path):
    up = installation(tmp_path, spec("registry"))
    await up.start()
    orphan = await asyncio.create_subprocess_exec(
        "sleep", "600", env={**os.environ, **up.data.mark}, start_new_session=True
    )
    leftover = await up.stop()
    assert leftover.killed == (orphan.pid,)
    assert await orphan.wait() == -signal.SIGKILL


@pytest.mark.usefixtures("_importable")
async def test_everything_is_killed_at_once_where_that_is_asked(tmp_path: Path):
    up = installation(tmp_path, spec("registry", "stubborn", stop_seconds=600))
    await up.start()
    assert not (await asyncio.to_thread(up.kill)).remaining
    assert not list(find_by_environment(up.data.mark))


@pytest.mark.usefixtures("_importable")
async def test_a_record_of_a_supervisor_that_is_gone_is_cleared(tmp_path: Path):
    data = DataDir(tmp_path)
    data.prepare()
    up = installation(tmp_path, spec("registry"))
    await up.start()
    record = up.data.read_record()
    await up.stop()
    assert record is not None
    gone = record.model_copy(update={"create_time": record.create_time - 100})
    orphan = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    identity = ProcessIdentity.of(orphan.pid)
    assert identity is not None
    service = record.services[0].model_copy(
        update={"pid": identity.pid, "create_time": identity.create_time}
    )
    data.write_record(gone.model_copy(update={"services": [service]}))
    leftover = await asyncio.to_thread(stop_installation, data, gone, timeout=5)
    assert not leftover.remaining
    assert await orphan.wait() == -signal.SIGKILL
    assert not data.record_file.exists()
    assert not clear_leftovers(data)
