"""Sessions that fail for real, told alike to Python, to grpcurl and by `podbay session explain`.

The failures of calls are in ../test_explained_calls.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from podbay import PodbayError
from podbay.schema.platform import InferenceService
from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.faulty_socket import FaultySocket
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync
from tests.support.told import assert_alike, assert_in_catalogue
from tests.support.told import infer_with_grpcurl as by_grpcurl
from tests.support.up_command import Podbay

T4 = "nvidia.com/gpu-t4"
A100 = "nvidia.com/gpu-a100"
NOWHERE = "@sha256:" + "0" * 64
SERVING = {"readiness_path": "/ready", "stop_grace": 0}
HASTY = {"start_timeout": 2, "stop_grace": 0}

pytestmark = [pytest.mark.needs_grpcurl, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cut(shared_docker: Docker) -> Iterator[FaultySocket]:
    engine = shared_docker.machine.engines[1]
    path = shared_docker.machine.slot.folder / f"{uuid.uuid4().hex[:8]}.sock"
    made = FaultySocket(path, engine.socket)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(
    shared_docker: Docker, cut: FaultySocket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerPlatform]:
    nodes = {
        0: NodeOptions(gpus=[("0", T4)]),
        1: NodeOptions(gpus=[("0", A100)], engine=cut.url),
    }
    folder = tmp_path_factory.mktemp("explained")
    with docker_platform(
        shared_docker, folder, nodes=nodes, count=0, arguments=("--node-grace=2s",)
    ) as made:
        yield made
        cut.mend()
        made.docker.engine.ensure_up()
        made.end_all()
        eventually_sync(lambda: made.left() == {}, "nothing is left")
        eventually_sync(lambda: made.leases() == set(), "no GPU is taken")


@dataclass(frozen=True)
class Watched:
    """A session, and who looks at it."""

    running: DockerPlatform
    id: str
    token: str

    def reasons(self) -> set[str]:
        """The reasons of its replicas."""
        status = self.running.client.inferencesessions.status(self.id)
        return {replica.reason for replica in status.replicas if replica.reason}

    def tells(self, reason: str, *parts: str, ended: bool = True) -> None:
        """Check that everybody is told a reason, with evidence and way out.

        Args:
            reason: The reason of the catalogue.
            *parts: What every text says: evidence, and the way out.
            ended: Whether the session has failed for good, or waits.
        """
        eventually_sync(lambda: reason in self.reasons(), f"a replica has {reason}", timeout=90)
        sessions = self.running.client.inferencesessions
        if ended:
            status = "Error"
            eventually_sync(lambda: sessions.status(self.id).status == status, "it has failed")
        router = self.running.platform.endpoint("inference-router")

        def routed() -> bool:
            # The router learns of it a moment later.
            refusal = by_grpcurl(router, self.token, self.id)
            return refusal.metadata.get("reason") == reason

        eventually_sync(routed, f"the router tells {reason}")
        with (
            sessions.client(self.id, self.token, endpoint="echo") as calls,
            pytest.raises(PodbayError) as called,
        ):
            calls.infer({})
        refusal = by_grpcurl(router, self.token, self.id)
        with pytest.raises(PodbayError) as waited:
            sessions.wait_ready(self.id, timeout=60 if ended else 0.5)
        expected = ("SESSION_FAILED",) * 2 if ended else ("SESSION_NOT_READY", "DEADLINE_EXCEEDED")
        assert (called.value.reason, waited.value.reason) == expected
        assert called.value.metadata["reason"] == waited.value.metadata["reason"] == reason
        assert_alike(called.value, refusal)
        assert_in_catalogue(reason, called.value.metadata)
        explained = Podbay(self.running.platform.data_dir).ok("session", "explain", self.id)
        assert f"  {reason}\n" in explained
        texts = {
            "infer": str(called.value),
            "wait_ready": str(waited.value),
            "grpcurl": f"{refusal.message}\n{refusal.metadata.get('log', '')}",
            "explain": explained,
        }
        for where, text in texts.items():
            for part in parts:
                assert part in text, f"{part!r} is not in {where}: {text}"


def start(running: DockerPlatform, service: InferenceService, gpu: str | None = None) -> Watched:
    session = running.session(service, gpu=gpu)
    return Watched(running, session, running.client.inferencesessions.token(session))


def test_failures_of_images_and_of_what_runs_in_them(running: DockerPlatform) -> None:
    """Six at once: they fail beside each other."""
    host = running.docker.registry.host

    def python(what: str, **serving: object) -> Watched:
        command = ("python3", "/opt/replica.py", what)
        return start(running, running.service(*command, serving={**HASTY, **serving}))

    missing = start(running, running.service(image=f"{host}/test/no-such-image{NOWHERE}"))
    wrong = start(running, running.service(image=f"{host}/test/replica{NOWHERE}"))
    broken = start(running, running.service("python3", "/opt/replica.py", "broken"))
    hungry = start(running, running.service("python3", "/opt/replica.py", "hog"))
    sick, deaf = python("sick", readiness_path="/ready"), python("deaf")
    missing.tells("IMAGE_NOT_FOUND", "test/no-such-image", "Push it, or mend")
    wrong.tells("IMAGE_DIGEST_NOT_FOUND", NOWHERE[1:])
    broken.tells("REPLICA_EXITED", "No module named 'no_such_module_here'")
    hungry.tells("OUT_OF_MEMORY", "64 MiB", "runner.resources.memory")
    sick.tells("NEVER_READY", "500", "/ready", "start_timeout")
    deaf.tells("PORT_NOT_OPENED", "0.0.0.0", "start_timeout")


def test_a_model_that_cannot_be_fetched(running: DockerPlatform) -> None:
    model = running.client.models.create(
        {
            "account": running.account,
            "name": "nowhere",
            "artifact": {"kind": "Volume", "volume": {"files": []}},
            "source": {"kind": "GitLFS", "gitLFS": {"url": "http://127.0.0.1:9/x.git"}},
            "resources": {},
        }
    )
    mount = {
        "kind": "Data",
        "name": "model",
        "mountPath": "/data",
        "data": {"source": {"kind": "Model", "id": model.id}},
    }
    service = running.service(mounts=[mount], serving=SERVING)
    start(running, service).tells("FETCH_FAILED", f"podbay model logs {model.id}")


def test_gpus_that_are_busy_or_of_another_type(running: DockerPlatform) -> None:
    service = running.service(serving=SERVING)
    holder = start(running, service, T4)
    eventually_sync(lambda: running.full(holder.id), "it has the GPU", timeout=60)
    start(running, service, T4).tells(
        "INSUFFICIENT_CAPACITY", "n0: 0 of 1 such GPU free, 1 needed", ended=False
    )
    start(running, service, "nvidia.com/gpu-none").tells(
        "NO_SUCH_GPU_TYPE", "nvidia.com/gpu-none", T4, ended=False
    )
    running.end_all()


def test_a_node_that_is_lost_and_an_engine_that_is_down(
    running: DockerPlatform, cut: FaultySocket
) -> None:
    service = running.service(serving=SERVING)
    there = start(running, service, A100)
    eventually_sync(lambda: running.full(there.id), "it runs", timeout=60)
    docker = running.docker.engine.client()
    (container,) = running.containers()["n1"]
    cut.cut()
    docker.kill(container["Id"])
    docker.close()
    there.tells("NODE_LOST", "n1 could not be reached for 2 s", ended=False)
    # Another one asks for what only the engine that is down could give.
    running.docker.engine.kill()
    cut.mend()
    start(running, service, A100).tells(
        "INSUFFICIENT_CAPACITY", "n1: cannot be reached", ended=False
    )
