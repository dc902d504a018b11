"""The session manager is killed while containers are made and removed: all comes right again."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from podbay.errors import PodbayError
from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync

T4 = "nvidia.com/gpu-t4"
_KILLS = int(os.environ.get("PODBAY_DOCKER_KILLS", "5"))
# Longer than a start or a stop takes: the kill falls before, into and after them.
_LATEST_SECONDS = 1.2

pytestmark = pytest.mark.timeout(60 + 30 * _KILLS)


@pytest.fixture
def running(docker: Docker, tmp_path: Path) -> Iterator[DockerPlatform]:
    nodes = {index: NodeOptions(gpus=[("0", T4), ("1", T4)]) for index in range(3)}
    with docker_platform(docker, tmp_path, nodes=nodes) as made:
        yield made


def kill(running: DockerPlatform, chance: random.Random) -> None:
    """Kill the session manager at some point from now, and return when another one runs."""
    time.sleep(chance.uniform(0, _LATEST_SECONDS))
    killed = running.platform.service("session-manager")
    killed.kill()

    def again() -> bool:
        try:
            return running.platform.service("session-manager").pid != killed.pid
        except (AssertionError, psutil.NoSuchProcess):
            return False

    eventually_sync(again, "another session manager runs")


def settled(running: DockerPlatform, wanted: dict[str, int]) -> bool:
    """Whether exactly the wanted replicas run, and every lease is of one of them."""
    prefix = "dev.podbay."
    try:
        if not all(running.full(session) for session in wanted):
            return False
        leases = running.leases()
    except PodbayError:
        # The session manager that was killed is not back yet.
        return False
    found = running.containers()
    by_session: Counter[str] = Counter()
    given: set[tuple[str, str, str]] = set()
    for node, containers in found.items():
        for container in containers:
            labels = container["Config"]["Labels"]
            by_session[labels[f"{prefix}session"]] += container["State"]["Running"]
            for request in container["HostConfig"]["DeviceRequests"] or []:
                given |= {(node, id_, labels[f"{prefix}replica"]) for id_ in request["DeviceIDs"]}
    count = sum(len(containers) for containers in found.values())
    return by_session == wanted and count == sum(wanted.values()) and given == leases


def test_a_session_manager_is_killed_at_any_point(running: DockerPlatform) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    service = running.service(serving={"readiness_path": "/ready", "stop_grace": 0})
    sessions = running.client.inferencesessions
    wanted: dict[str, int] = {}
    for _ in range(_KILLS):
        # Some end and some begin at once; what is answered is decided, and survives.
        for session in [one for one in wanted if chance.random() < 0.5]:
            sessions.terminate(session)
            del wanted[session]
        while sum(wanted.values()) < 4:
            replicas = chance.randint(1, 2)
            wanted[running.session(service, gpu=T4, replicas=replicas)] = replicas
        kill(running, chance)
        eventually_sync(lambda: settled(running, wanted), "what is wanted runs", timeout=30)
    for session in wanted:
        sessions.terminate(session)
    kill(running, chance)
    eventually_sync(lambda: settled(running, {}) and running.left() == {}, "nothing is left")
    assert running.stored("SELECT node, gpu FROM gpu_leases") == []
