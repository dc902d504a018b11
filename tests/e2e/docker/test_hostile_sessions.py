"""Sessions that mean harm, beside one that serves: its calls go on, and the platform answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.docker.platform import DockerPlatform, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.docker.paced import PacedCalls
from tests.support.eventually import eventually

_SERVING = {"readiness_path": "/ready", "stop_grace": 0.5, "start_timeout": 600}
_ALL = ("bomb", "hog", "fill", "flood", "ignore-term")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def running(docker: Docker, tmp_path: Path) -> Iterator[DockerPlatform]:
    # One node: the hostile ones are beside the other on the same engine.
    with docker_platform(docker, tmp_path, count=1) as made:
        yield made


async def test_hostile_sessions_hurt_nobody_and_go_in_time(running: DockerPlatform) -> None:
    good = running.session(running.service(serving=_SERVING))
    await eventually(lambda: running.full(good), "it is ready", timeout=60)
    async with (
        running.platform.async_client() as client,
        client.inferencesessions.client(
            good, await client.inferencesessions.token(good), endpoint="echo"
        ) as calls,
        PacedCalls(calls, rate=20) as traffic,
    ):
        sessions = client.inferencesessions
        hostile = [
            running.session(
                running.service(
                    "python3", "/opt/replica.py", what, cpu="250m", memory="96Mi", serving=_SERVING
                )
            )
            for what in _ALL
        ]

        async def began(session: str) -> bool:
            # The one that takes memory may have been killed for it by now.
            return any(one.address for one in (await sessions.status(session)).replicas)

        for session in hostile:
            await eventually(lambda session=session: began(session), "it runs", timeout=60)
        await traffic.more(100)
        for session in hostile:
            await sessions.terminate(session)

        async def gone() -> bool:
            left = running.containers()["n0"]
            return {one["Config"]["Labels"]["dev.podbay.session"] for one in left} == {good}

        await eventually(gone, "they are gone", timeout=30)
        await traffic.more(20)
        status = await sessions.status(good)
        assert [(one.attempt, one.phase) for one in status.replicas] == [(1, "Ready")]
    assert traffic.failures == [], traffic.reasons()
    await eventually(lambda: len(running.left()["n0"]["networks"]) == 1, "so are their networks")
