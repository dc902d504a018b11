"""Logs of containers: bounded, with positions, and there when the container is not."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.docker.conftest import MakeDriver
from tests.support.docker.fixtures import Docker
from tests.support.docker.runs import ended, launch, log
from tests.support.eventually import eventually

COUNT = "i=0; while [ $i -lt {n} ]; do i=$((i+1)); echo line $i; done"


async def test_no_line_is_lost_or_repeated_however_often_one_looks(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver()
    spec = launch(docker.service("/bin/sh", "-c", COUNT.format(n=5000) + "; echo oops >&2"))
    await driver.start(spec)
    position, data = 0, b""
    over = False
    while True:
        chunk = await driver.read_log(spec.replica_id, position, 1 << 16)
        assert chunk.offset == position
        data += chunk.data
        position += len(chunk.data)
        if over and position == chunk.end:
            break
        over = not any(s.running for s in await driver.list())
    lines = data.decode().splitlines()
    lines.remove("oops")
    assert lines == [f"line {n}" for n in range(1, 5001)]
    await driver.remove(spec.replica_id)
    assert (await driver.read_log(spec.replica_id, 0, 1 << 20)).data == data


async def test_another_driver_goes_on_where_the_first_one_read(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver()
    script = "echo one; trap 'echo two; exit 0' TERM; while true; do sleep 0.02; done"
    spec = launch(docker.service("/bin/sh", "-c", script))
    await driver.start(spec)

    async def has_one() -> bool:
        return "one" in await log(driver, spec)

    await eventually(has_one, "it wrote")
    later = make_driver()
    await later.stop(spec.replica_id, 10)
    await ended(later, spec)
    await later.remove(spec.replica_id)
    assert await log(later, spec) == "one\ntwo\n"


async def test_a_flood_is_bounded_here_and_on_the_node(
    docker: Docker, make_driver: MakeDriver, tmp_path: Path
) -> None:
    driver = make_driver(log_bytes=1 << 20)
    python = (
        "import sys\nfor i in range(8000): sys.stdout.write('x' * 999 + '\\n')\nprint('the-end')"
    )
    spec = launch(docker.service("python3", "-c", python))
    await driver.start(spec)
    await ended(driver, spec)
    client = docker.engine.client()
    details = client.inspect_container(docker.left()["containers"][0].lstrip("/"))
    client.close()
    folder = docker.engine.folder / "data" / "containers" / details["Id"] / "local-logs"
    on_node = sum(path.stat().st_size for path in folder.iterdir())
    assert on_node <= 3 << 19
    chunk = await driver.read_log(spec.replica_id, -8, 100)
    assert chunk.data == b"the-end\n"
    kept = sum(p.stat().st_size for p in (tmp_path / "logs").rglob("log/*"))
    assert 256 << 10 <= kept <= 1 << 20


async def test_the_log_of_what_wrote_nothing_is_empty(
    docker: Docker, make_driver: MakeDriver
) -> None:
    driver = make_driver()
    spec = launch(docker.service("/bin/sh", "-c", "exit 4"))
    await driver.start(spec)
    await ended(driver, spec)
    await driver.remove(spec.replica_id)
    chunk = await driver.read_log(spec.replica_id, 0, 100)
    assert (chunk.offset, chunk.data, chunk.end) == (0, b"", 0)
