"""What replicas mount: scratch space, and the files of resources."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from podbay_session_manager.drivers.containers.settings import Moved, ResolveMount
from podbay_session_manager.drivers.contract import StartFailedError
from podbay_session_manager.records import DataMount, Reason, ScratchMount
from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.fixtures import Docker
from tests.support.docker.runs import answer, gone, launch

DATA = DataMount("weights", "/data", "Model", "model-1")


def always(folder: Path) -> ResolveMount:
    async def resolve(mount: DataMount, moved: Moved) -> Path:
        return folder

    return resolve


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with files, as a fetched model."""
    folder = tmp_path / "model"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "er" / "weights.bin").write_bytes(b"w" * 3_000_001)
    (folder / "out").symlink_to("/etc/hostname")
    (folder / "in").symlink_to("config.json")
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


async def test_scratch_in_memory(docker: Docker, make_driver: MakeDriver) -> None:
    driver = make_driver()
    spec = launch(docker.service(mounts=(ScratchMount("s", "/scratch", 5 << 20),)))
    await driver.start(spec)
    facts = await answer(driver, spec, "/facts")
    assert "/scratch" in facts["writable"]
    (mount,) = [m for m in facts["mounts"] if m[1] == "/scratch"]
    assert mount[2] == "tmpfs"
    assert "size=5120k" in mount[3]
    await gone(driver, spec)
    assert docker.left() == {}


async def test_scratch_that_cannot_be_bounded_is_refused(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver()
    large = docker.service(mounts=(ScratchMount("s", "/scratch", 1 << 40),))
    with pytest.raises(StartFailedError) as failure:
        await driver.start(launch(large))
    assert failure.value.reason is Reason.DATA_UNAVAILABLE
    assert "quota" in failure.value.message
    assert docker.left() == {}


async def test_scratch_on_disk_where_the_operator_allows_it(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver(unbounded_scratch=True)
    spec = launch(docker.service(mounts=(ScratchMount("s", "/scratch", 1 << 40),)))
    await driver.start(spec)
    facts = await answer(driver, spec, "/facts")
    assert "/scratch" in facts["writable"]
    assert len(docker.left()["volumes"]) == 1
    await gone(driver, spec)
    assert docker.left() == {}


async def test_data_lies_where_it_is_on_a_local_node(
    docker: Docker, make_driver: MakeDriver, model: Path
) -> None:
    driver = make_driver(resolve_mount=always(model))
    spec = launch(docker.service(mounts=(DATA,)))
    await driver.start(spec)
    facts = await answer(driver, spec, "/facts")
    assert facts["files"]["/data"]["config.json"] == "{}"
    assert facts["files"]["/data"]["deep/er/weights.bin"] == "w" * 100
    assert "/data" not in facts["writable"]
    assert "volumes" not in docker.left()


async def test_data_is_copied_to_a_remote_node_once(
    docker: Docker, make_driver: MakeDriver, model: Path
) -> None:
    asked: list[DataMount] = []

    async def resolve(mount: DataMount, moved: Moved) -> Path:
        asked.append(mount)
        return model

    driver = make_driver(resolve_mount=resolve, remote=True)
    specs = [launch(docker.service(mounts=(DATA,))) for _ in range(3)]
    await asyncio.gather(*(driver.start(spec) for spec in specs))
    for spec in specs:
        facts = await answer(driver, spec, "/facts")
        files = facts["files"]["/data"]
        assert files["deep/er/weights.bin"] == "w" * 100
        assert files["in"] == "{}"
        # Nothing from outside the folder comes along.
        assert "out" not in files
        assert "/data" not in facts["writable"]
    (volume,) = docker.left()["volumes"]
    assert len(docker.left()["containers"]) == 3
    # Another driver finds the copy, also where the files are not what they were.
    (model / "config.json").write_text("changed")
    later = make_driver(resolve_mount=resolve, remote=True)
    again = launch(docker.service(mounts=(DATA,)))
    await later.start(again)
    facts = await answer(later, again, "/facts")
    assert facts["files"]["/data"]["config.json"] == "{}"
    assert docker.left()["volumes"] == [volume]
    # In use, wanted, and then neither.
    await later.drop_data(frozenset())
    assert docker.left()["volumes"] == [volume]
    for spec in [*specs, again]:
        await gone(later, spec)
    await later.drop_data(frozenset({"model-1"}))
    assert docker.left() == {"volumes": [volume]}
    await later.drop_data(frozenset())
    assert docker.left() == {}


async def test_a_copy_that_broke_off_is_made_again(
    docker: Docker, make_driver: MakeDriver, model: Path
) -> None:
    driver = make_driver(resolve_mount=always(model), remote=True)
    spec = launch(docker.service(mounts=(DATA,)))
    await driver.start(spec)
    (volume,) = docker.left()["volumes"]
    await gone(driver, spec)
    # As if the session manager had ended in the middle.
    (docker.engine.folder / "data/volumes" / volume / "_data/.podbay-complete").unlink()
    (docker.engine.folder / "data/volumes" / volume / "_data/config.json").write_text("hal")
    later = make_driver(resolve_mount=always(model), remote=True)
    again = launch(docker.service(mounts=(DATA,)))
    await later.start(again)
    facts = await answer(later, again, "/facts")
    assert facts["files"]["/data"]["config.json"] == "{}"


async def test_data_that_is_not_there(docker: Docker, make_driver: MakeDriver) -> None:
    async def resolve(mount: DataMount, moved: Moved) -> Path:
        raise LookupError("it was not fetched yet")

    driver = make_driver(resolve_mount=resolve)
    with pytest.raises(StartFailedError) as failure:
        await driver.start(launch(docker.service(mounts=(DATA,))))
    assert failure.value.reason is Reason.DATA_UNAVAILABLE
    assert "it was not fetched yet" in failure.value.message
    assert docker.left() == {}
    without = make_driver()
    refusal = without.supports(docker.service(mounts=(DATA,)))
    assert refusal is not None


async def test_a_copy_that_does_not_fit(
    docker: Docker, make_driver: MakeDriver, model: Path
) -> None:
    small = docker.machine.add(disk_bytes=160 << 20)
    (model / "large").write_bytes(b"l" * (150 << 20))
    driver = make_driver(engine=small, resolve_mount=always(model), remote=True)
    with pytest.raises(StartFailedError) as failure:
        await driver.start(launch(docker.service(mounts=(DATA,))))
    assert failure.value.reason is Reason.DISK_FULL
    assert docker.left(small) == {}
