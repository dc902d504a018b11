"""The platform's main job with containers, from a declared node to an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.docker.platform import DockerPlatform, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync


@pytest.fixture
def running(docker: Docker, tmp_path: Path) -> Iterator[DockerPlatform]:
    with docker_platform(docker, tmp_path) as made:
        yield made


def test_a_container_answers_and_leaves_nothing(running: DockerPlatform) -> None:
    session = running.session(running.service(), replicas=2)
    running.client.inferencesessions.wait_ready(session, timeout=60)
    assert running.infer(session, {"hal": 9000}) == [{"echo": {"hal": 9000}}]
    eventually_sync(lambda: running.full(session), "both replicas are ready")
    status = running.client.inferencesessions.status(session)
    assert sum(len(found) for found in running.containers().values()) == 2
    # Replicas of a session keep away from each other.
    assert len({replica.node for replica in status.replicas}) == 2
    running.client.inferencesessions.terminate(session)
    eventually_sync(lambda: running.left() == {}, "nothing is left")
