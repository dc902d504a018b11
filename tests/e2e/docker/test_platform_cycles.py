"""Sessions in great number, while everything below them fails: nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import docker.errors
import psutil
import pytest

from podbay import AsyncClient, PodbayError
from podbay._core.retries import is_transient
from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.engines import Engine
from tests.support.docker.faulty_socket import FaultySocket
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually, eventually_nothing
from tests.support.leavings import left_files, left_rows, left_usage

T = TypeVar("T")

CYCLES = int(os.environ.get("PODBAY_DOCKER_CYCLES", "20"))
AT_ONCE = 8
T4 = "nvidia.com/gpu-t4"
NODES = 3
# Shorter than some of the faults: nodes are lost, and come back.
_GRACE_SECONDS = 2
# Between two faults, and how long one of them lasts.
_PAUSE = (0.5, 2.5)
_LASTS = (0.0, 3.5)
# On a busy machine a session manager takes long to start, and may be killed meanwhile.
_PATIENCE_SECONDS = 240.0
_AWAY = {"SERVICE_UNREACHABLE", "DEADLINE_EXCEEDED"}

pytestmark = pytest.mark.timeout(180 + 15 * CYCLES)


@pytest.fixture
def sockets(docker: Docker) -> Iterator[dict[str, FaultySocket]]:
    folder = docker.machine.slot.folder
    made = {
        f"n{index}": FaultySocket(folder / f"{uuid.uuid4().hex[:8]}.sock", engine.socket)
        for index, engine in enumerate(docker.machine.engines[:NODES])
    }
    yield made
    for one in made.values():
        one.close()


@pytest.fixture
def running(
    docker: Docker, sockets: dict[str, FaultySocket], tmp_path: Path
) -> Iterator[DockerPlatform]:
    nodes = {
        index: NodeOptions(gpus=[(str(n), T4) for n in range(4)], engine=sockets[f"n{index}"].url)
        for index in range(NODES)
    }
    arguments = (f"--node-grace={_GRACE_SECONDS}s",)
    with docker_platform(docker, tmp_path, nodes=nodes, arguments=arguments) as made:
        yield made


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call again until the session manager that was killed is back."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except PodbayError as error:
            away = is_transient(error) or error.reason in _AWAY
            if not away or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)


class Cycles:
    """Creates and terminates sessions, a few at once.

    Args:
        client: A client of the administrator.
        requests: What sessions are asked for, any of them.
        luck: Chooses.
    """

    def __init__(
        self, client: AsyncClient, requests: list[dict[str, Any]], luck: random.Random
    ) -> None:
        self._sessions = client.inferencesessions
        self._requests = requests
        self._luck = luck
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._over = 0
        self.outcomes: Counter[str] = Counter()

    async def one(self) -> None:
        async with self._slots:
            wanted, request_id = self._luck.choice(self._requests), uuid.uuid4().hex
            made = await persist(lambda: self._sessions.create(wanted, request_id=request_id))
            session = made.inferencesession.id
            if self._luck.random() < 0.3:
                await asyncio.sleep(self._luck.random())
                self.outcomes["terminated early"] += 1
            else:
                self.outcomes[await self._came_to(session)] += 1
            await persist(lambda: self._sessions.terminate(session))
            # What a lost node has of it is waited for at the end.
            with contextlib.suppress(AssertionError):
                await eventually(lambda: self._is_over(session), "it is over", timeout=5)
            self._over += 1
            if self._over % 100 == 0:
                print(f"{self._over} sessions: {dict(self.outcomes)}", flush=True)

    async def _came_to(self, session: str) -> str:
        deadline = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < deadline:
            status = await persist(lambda: self._sessions.status(session))
            if status.ready or status.status == "Error":
                return "ready" if status.ready else f"failed: {status.reason}"
            await asyncio.sleep(0.1)
        return "waited"

    async def _is_over(self, session: str) -> bool:
        status = await persist(lambda: self._sessions.status(session))
        return all(replica.phase in {"Stopped", "Failed"} for replica in status.replicas)


class Faults:
    """Breaks something now and then, and mends it.

    Args:
        running: The platform.
        client: A client of the administrator.
        sockets: The ways to its engines, by node.
        luck: Chooses.
    """

    def __init__(
        self,
        running: DockerPlatform,
        client: AsyncClient,
        sockets: dict[str, FaultySocket],
        luck: random.Random,
    ) -> None:
        self._running = running
        self._client = client
        self._killed = 0
        self._sockets = sockets
        self._luck = luck
        self.done: Counter[str] = Counter()
        self._going: asyncio.Future[bool] | None = None

    async def run(self) -> None:
        """Break things for ever."""
        kinds = {
            self._cut: 2,
            self._cut_answer: 2,
            self._pause: 2,
            self._kill: 2,
            self._kill_manager: 1,
            self._kill_container: 2,
            self._remove_container: 2,
            self._remove_image: 2,
        }
        while True:
            await asyncio.sleep(self._luck.uniform(*_PAUSE))
            node = self._luck.choice(sorted(self._sockets))
            (kind,) = self._luck.choices(list(kinds), list(kinds.values()))
            self._going = asyncio.ensure_future(
                kind(self._running.engines[node], self._sockets[node])
            )
            if await asyncio.shield(self._going):
                self.done[kind.__name__.strip("_")] += 1

    async def mended(self) -> None:
        """Return when what was broken last is whole again: an engine must not be started twice."""
        if self._going is not None:
            await self._going

    async def _lasts(self) -> None:
        await asyncio.sleep(self._luck.uniform(*_LASTS))

    async def _cut(self, engine: Engine, socket: FaultySocket) -> bool:
        socket.cut()
        await self._lasts()
        socket.mend()
        return True

    async def _cut_answer(self, engine: Engine, socket: FaultySocket) -> bool:
        socket.cut_answers = 1
        return True

    async def _pause(self, engine: Engine, socket: FaultySocket) -> bool:
        engine.pause()
        await self._lasts()
        engine.resume()
        return True

    async def _kill(self, engine: Engine, socket: FaultySocket) -> bool:
        def kill() -> None:
            with socket.no_removals():
                engine.kill()

        await asyncio.to_thread(kill)
        await self._lasts()
        await asyncio.to_thread(engine.start)
        return True

    async def _kill_manager(self, engine: Engine, socket: FaultySocket) -> bool:
        """Kill the session manager, also while it starts; not so often that none ever serves."""
        try:
            await self._client.nodes.list(timeout=0.5)
            self._killed = 0
        except PodbayError:
            if self._killed:
                return False
        try:
            self._running.platform.service("session-manager").kill()
        except (AssertionError, psutil.NoSuchProcess):
            # The last one that was killed is not back yet.
            return False
        self._killed += 1
        return True

    async def _kill_container(self, engine: Engine, socket: FaultySocket) -> bool:
        return await asyncio.to_thread(self._with_container, engine, "kill")

    async def _remove_container(self, engine: Engine, socket: FaultySocket) -> bool:
        return await asyncio.to_thread(self._with_container, engine, "remove")

    async def _remove_image(self, engine: Engine, socket: FaultySocket) -> bool:
        return await asyncio.to_thread(self._without_image, engine)

    def _with_container(self, engine: Engine, what: str) -> bool:
        """Do something to a container of the platform behind its back."""
        client = engine.client()
        mine = {"label": [f"dev.podbay.installation={self._running.docker.installation}"]}
        try:
            found = client.containers(filters=mine)
            if not found:
                return False
            chosen = self._luck.choice(found)["Id"]
            if what == "kill":
                client.kill(chosen)
            else:
                client.remove_container(chosen, force=True)
        except docker.errors.APIError:
            # It ended by itself meanwhile.
            return False
        finally:
            client.close()
        return True

    def _without_image(self, engine: Engine) -> bool:
        client = engine.client()
        try:
            client.remove_image(self._luck.choice(self.images), force=True)
        except docker.errors.APIError:
            # It is not there, or is used by a container.
            return False
        finally:
            client.close()
        return True

    @property
    def images(self) -> list[str]:
        """The images that replicas use."""
        return [self._running.docker.images.replica, self._running.docker.images.user]


def requests_for(running: DockerPlatform) -> list[dict[str, Any]]:
    """Return sessions of all kinds: with GPUs, without, several, that fail, that will not end."""
    serving = {"readiness_path": "/ready", "stop_grace": 0}
    stubborn = ("/bin/sh", "-c", "trap '' TERM; while true; do sleep 0.05; done")
    user = running.docker.images.user
    scratch = [{"kind": "Scratch", "mountPath": "/scratch", "name": "s",
                "scratch": {"capacity": "1Mi"}}]  # fmt: skip
    plain = running.service(serving=serving)
    of_user = running.service(image=user, serving=serving)
    with_scratch = running.service(serving=serving, mounts=scratch)
    failing = running.service("/bin/sh", "-c", "exit 3", serving=serving)
    unwilling = running.service(*stubborn, serving={"readiness_path": "/ready", "stop_grace": 0.3})

    def wanted(service: Any, gpus: int = 0, replicas: int = 1) -> dict[str, Any]:
        request = {
            "account": running.account,
            "inferenceService": service.id,
            "replicas": replicas,
        }
        gpu = {"kind": "GPU", "gpu": {"hardwareTypes": [T4], "count": gpus}}
        return {**request, "accelerator": gpu} if gpus else request

    return [
        wanted(plain),
        wanted(plain, gpus=1),
        wanted(plain, gpus=1, replicas=2),
        wanted(of_user, gpus=2),
        wanted(with_scratch, gpus=1),
        wanted(failing, gpus=1),
        wanted(unwilling),
    ]


async def test_sessions_with_faults_leave_nothing(
    running: DockerPlatform, sockets: dict[str, FaultySocket]
) -> None:
    """Engines are killed, frozen and cut off; so is the session manager; containers vanish."""
    seed = int(os.environ.get("PODBAY_DOCKER_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    luck = random.Random(seed)
    wanted = await asyncio.to_thread(requests_for, running)
    async with running.platform.async_client() as client:
        faults = Faults(running, client, sockets, luck)
        cycles = Cycles(client, wanted, luck)
        breaking = asyncio.ensure_future(faults.run())
        tasks = [asyncio.ensure_future(cycles.one()) for _ in range(CYCLES)]
        try:
            both = asyncio.gather(*tasks)
            await asyncio.wait([breaking, both], return_when=asyncio.FIRST_COMPLETED)
            assert not breaking.done(), breaking.exception()
            await both
        except BaseException:
            print(running.platform.output())
            raise
        finally:
            for task in (breaking, *tasks):
                task.cancel()
            await asyncio.wait([breaking, *tasks])
            await faults.mended()
            for node, engine in running.engines.items():
                sockets[node].mend()
                sockets[node].cut_answers = 0
                await asyncio.to_thread(engine.ensure_up)
    print(f"{CYCLES} sessions: {dict(cycles.outcomes)}; faults: {dict(faults.done)}")
    looks: dict[str, Callable[[], object]] = {
        "no engine has anything": running.left,
        "no GPU is taken": running.leases,
        "no row speaks of what is no more": lambda: left_rows(running.stored),
        "the account has nothing": lambda: left_usage(running.client, running.account),
        "no file is left": lambda: left_files(running.platform.data_dir),
    }
    try:
        for what, look in looks.items():
            eventually_nothing(look, what, timeout=60)
    except AssertionError:
        print(running.platform.output())
        raise
    for session in running.client.inferencesessions.query():
        assert session.status in {"Terminated", "Error"}, session
