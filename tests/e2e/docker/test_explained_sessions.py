"""Sessions that fail for real, told alike to Python, to grpcurl and by `podbay session explain`.

Each entry of `SCENARIOS` lets a session fail, or wait, in one way, and returns what all three were
told. The failures of calls are in ../test_explained_calls.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import pytest

from podbay import PodbayError
from podbay.schema.platform import InferenceService
from tests.e2e.docker.platform import DockerPlatform, NodeOptions, docker_platform
from tests.support.docker.faulty_socket import FaultySocket
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync
from tests.support.told import CATALOGUE, Refusal, assert_alike, assert_in_catalogue
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
class Told:
    """What each of the three was told of one failure, with the same evidence and way out.

    Attributes:
        reason: The reason of the failure.
        python: The exception of a call.
        grpcurl: What grpcurl printed of a call.
        explained: What `podbay session explain` printed.
    """

    reason: str
    python: PodbayError
    grpcurl: Refusal
    explained: str


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

    def tells(self, reason: str, *parts: str, ended: bool = True) -> Told:
        """Check that everybody is told a reason, with evidence and way out, and return what.

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
        self.shows(called.value)
        return Told(reason, called.value, refusal, explained)

    def shows(self, error: PodbayError) -> None:
        """Check that the session tells of its calls that failed, too."""
        podbay = Podbay(self.running.platform.data_dir)
        # Of a long message routers tell the beginning.
        lines = [line.strip() for line in error.message[:500].splitlines()]

        def of_calls() -> str:
            explained = podbay.ok("session", "explain", self.id)
            return explained.partition("calls that failed lately:\n")[2]

        # Routers tell once a second.
        eventually_sync(lambda: f"  {error.reason}\n" in of_calls(), f"it tells of {error.reason}")
        told = of_calls()
        for line in lines:
            assert line in told, f"{line!r} is not in {told}"


def start(running: DockerPlatform, service: InferenceService, gpu: str | None = None) -> Watched:
    session = running.session(service, gpu=gpu)
    return Watched(running, session, running.client.inferencesessions.token(session))


@dataclass
class Stage:
    """Where the scenarios play.

    Attributes:
        running: The platform.
        cut: What is between the session manager and the engine of the node n1.
        begun: Sessions that fail beside each other, by scenario; started together.
    """

    running: DockerPlatform
    cut: FaultySocket
    begun: dict[str, Watched] = field(default_factory=dict)

    def failing(self, scenario: str) -> Watched:
        """Return the session that fails by itself in this way."""
        if not self.begun:
            running, host = self.running, self.running.docker.registry.host

            def python(what: str, **serving: object) -> InferenceService:
                command = ("python3", "/opt/replica.py", what)
                return running.service(*command, serving={**HASTY, **serving})

            services = {
                "missing image": running.service(image=f"{host}/test/no-such-image{NOWHERE}"),
                "wrong digest": running.service(image=f"{host}/test/replica{NOWHERE}"),
                "crash at import": running.service("python3", "/opt/replica.py", "broken"),
                "out of memory": running.service("python3", "/opt/replica.py", "hog"),
                "never ready": python("sick", readiness_path="/ready", start_timeout=10),
                "port closed": python("deaf"),
            }
            self.begun = {name: start(running, service) for name, service in services.items()}
        return self.begun[scenario]


@pytest.fixture(scope="module")
def stage(running: DockerPlatform, cut: FaultySocket) -> Stage:
    return Stage(running, cut)


def missing_image(stage: Stage) -> Told:
    return stage.failing("missing image").tells(
        "IMAGE_NOT_FOUND", "test/no-such-image", "Push it, or mend"
    )


def wrong_digest(stage: Stage) -> Told:
    return stage.failing("wrong digest").tells("IMAGE_DIGEST_NOT_FOUND", NOWHERE[1:])


def crash_at_import(stage: Stage) -> Told:
    return stage.failing("crash at import").tells(
        "REPLICA_EXITED", "No module named 'no_such_module_here'"
    )


def out_of_memory(stage: Stage) -> Told:
    return stage.failing("out of memory").tells(
        "OUT_OF_MEMORY", "64 MiB", "runner.resources.memory"
    )


def never_ready(stage: Stage) -> Told:
    return stage.failing("never ready").tells("NEVER_READY", "500", "/ready", "start_timeout")


def port_closed(stage: Stage) -> Told:
    return stage.failing("port closed").tells("PORT_NOT_OPENED", "0.0.0.0", "start_timeout")


def model_fetch_failed(stage: Stage) -> Told:
    running = stage.running
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
    return start(running, service).tells("FETCH_FAILED", f"podbay model logs {model.id}")


def gpus_busy(stage: Stage) -> Told:
    running = stage.running
    service = running.service(serving=SERVING)
    holder = start(running, service, T4)
    eventually_sync(lambda: running.full(holder.id), "it has the GPU", timeout=60)
    told = start(running, service, T4).tells(
        "INSUFFICIENT_CAPACITY", "n0: 0 of 1 such GPU free, 1 needed", ended=False
    )
    running.end_all()
    return told


def no_gpu_of_the_type(stage: Stage) -> Told:
    service = stage.running.service(serving=SERVING)
    told = start(stage.running, service, "nvidia.com/gpu-none").tells(
        "NO_SUCH_GPU_TYPE", "nvidia.com/gpu-none", T4, ended=False
    )
    stage.running.end_all()
    return told


def node_lost(stage: Stage) -> Told:
    running = stage.running
    there = start(running, running.service(serving=SERVING), A100)
    eventually_sync(lambda: running.full(there.id), "it runs", timeout=60)
    docker = running.docker.engine.client()
    (container,) = running.containers()["n1"]
    stage.cut.cut()
    docker.kill(container["Id"])
    docker.close()
    told = there.tells("NODE_LOST", "n1 could not be reached for 2 s", ended=False)
    stage.cut.mend()
    return told


def engine_down(stage: Stage) -> Told:
    """It asks for what only the engine that is down could give."""
    running = stage.running
    running.docker.engine.kill()
    service = running.service(serving=SERVING)
    told = start(running, service, A100).tells(
        "INSUFFICIENT_CAPACITY", "n1: cannot be reached", ended=False
    )
    running.docker.engine.ensure_up()
    return told


SCENARIOS: Final[Mapping[str, Callable[[Stage], Told]]] = {
    "missing image": missing_image,
    "wrong digest": wrong_digest,
    "crash at import": crash_at_import,
    "out of memory": out_of_memory,
    "never ready": never_ready,
    "port closed": port_closed,
    "model fetch failed": model_fetch_failed,
    "GPUs busy": gpus_busy,
    "no GPU of the type": no_gpu_of_the_type,
    "node lost": node_lost,
    "engine down": engine_down,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_session_that_fails_is_told_alike(name: str, stage: Stage) -> None:
    told = SCENARIOS[name](stage)
    assert told.python.metadata["reason"] == told.grpcurl.metadata["reason"] == told.reason
    assert told.python.message == told.grpcurl.message
    assert f"  {told.reason}\n" in told.explained
    row = CATALOGUE[told.reason]
    assert row.meaning
    assert row.evidence
    assert row.way_out
