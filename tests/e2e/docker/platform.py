"""A whole platform whose nodes are real engines."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from podbay import Client
from podbay.schema.platform import InferenceService
from tests.support.docker.engines import Engine
from tests.support.docker.fixtures import Docker
from tests.support.eventually import eventually_sync
from tests.support.platform import Platform

__all__ = ["NODES", "DockerPlatform", "NodeOptions", "docker_platform"]

NODES = 3
"""How many of the machine's engines are nodes unless said: other tests add engines to it."""


@dataclass(frozen=True)
class NodeOptions:
    """What is declared of a node beside its engine.

    Attributes:
        gpus: Pairs of id and hardware type.
        cpu: Its processors; what the engine tells where empty.
        memory: Its memory; likewise.
        engine: An address that stands in for the engine's own.
    """

    gpus: Sequence[tuple[str, str]] = ()
    cpu: str = ""
    memory: str = ""
    engine: str = ""


class DockerPlatform:
    """A platform, a client, and what tests say often.

    Args:
        platform: The platform, which runs.
        client: A client of the administrator.
        docker: The engines; the platform's installation becomes its own.
        engines: The engines that are nodes, by name.
    """

    def __init__(
        self, platform: Platform, client: Client, docker: Docker, engines: Mapping[str, Engine]
    ) -> None:
        self.platform = platform
        self.client = client
        self.docker = docker
        self.engines = dict(engines)
        self.account = client.installation().account
        # The labels of containers name the session manager's own id.
        ((docker.installation,),) = self.stored("SELECT id FROM installation")

    def stored(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the session manager's database."""
        path = self.platform.data_dir / "session-manager" / "session-manager.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return list(database.execute(query))

    def service(
        self,
        *command: str,
        image: str | None = None,
        cpu: str | None = None,
        memory: str = "64Mi",
        mounts: Sequence[Mapping[str, Any]] | None = None,
        serving: Mapping[str, Any] | None = None,
        **request: Any,
    ) -> InferenceService:
        """Register a service of the test image, or of another by its digest; returns it."""
        host, _, rest = (image or self.docker.images.replica).partition("/")
        name, _, digest = rest.partition("@")
        runner: dict[str, Any] = {
            "kind": "container",
            "image": {"host": host, "name": name, "digest": digest},
            "resources": {"memory": memory, **({"cpu": cpu} if cpu else {})},
        }
        if command:
            runner["command"] = list(command)
        if mounts:
            runner["volumeMounts"] = list(mounts)
        return self.client.inferenceservices.create(
            {
                "account": self.account,
                "name": "test",
                "interface": {"endpoint": "echo", "outputSchema": {"arrowSchema": ""}},
                "runner": runner,
                **request,
            },
            serving=serving,
        )

    def session(
        self, service: InferenceService, *, gpu: str | None = None, gpus: int = 1, replicas: int = 1
    ) -> str:
        """Create a session; returns its id."""
        request: dict[str, Any] = {
            "account": self.account,
            "inferenceService": service.id,
            "replicas": replicas,
        }
        if gpu is not None:
            request["accelerator"] = {"kind": "GPU", "gpu": {"hardwareTypes": [gpu], "count": gpus}}
        return self.client.inferencesessions.create(request).inferencesession.id

    def infer(self, session_id: str, body: Any) -> list[Any]:
        """Call a session once."""
        sessions = self.client.inferencesessions
        with sessions.client(session_id, sessions.token(session_id), endpoint="echo") as calls:
            return calls.infer(body)

    def facts(self, session_id: str) -> Any:
        """Return what a ready replica of a session says of itself; see the test image."""
        status = self.client.inferencesessions.status(session_id)
        address = next(one.address for one in status.replicas if one.phase == "Ready")
        with urllib.request.urlopen(f"http://{address}/facts", timeout=10) as response:
            return json.load(response)

    def full(self, session_id: str) -> bool:
        """Whether all replicas of a session take calls."""
        status = self.client.inferencesessions.status(session_id)
        return status.ready_replicas == status.desired_replicas

    def end_all(self) -> None:
        """Terminate all sessions."""
        for session in self.client.inferencesessions.query():
            self.client.inferencesessions.terminate(session.id)

    def containers(self) -> dict[str, list[dict[str, Any]]]:
        """What the engines have of this installation, by node: inspected containers.

        Without the helpers that look at nodes and carry files.
        """
        mine = {
            "label": [
                f"dev.podbay.installation={self.docker.installation}",
                "dev.podbay.replica",
            ]
        }
        found: dict[str, list[dict[str, Any]]] = {}
        for name, engine in self.engines.items():
            client = engine.client()
            try:
                listed = client.containers(all=True, filters=mine)
                found[name] = []
                for one in listed:
                    # One that is removed meanwhile is not there.
                    with suppress(NotFound):
                        found[name].append(client.inspect_container(one["Id"]))
            finally:
                client.close()
        return found

    def left(self) -> dict[str, dict[str, list[str]]]:
        """What the engines have of this installation, by node and kind; nothing where empty."""
        found = {name: self.docker.left(engine) for name, engine in self.engines.items()}
        return {name: left for name, left in found.items() if left}

    def leases(self) -> set[tuple[str, str, str]]:
        """The GPUs that are taken: node, id, and the replica that has it."""
        return {
            (node.name, gpu.id, gpu.replica_id)
            for node in self.client.nodes.list()
            for gpu in node.gpus
            if gpu.replica_id
        }


def _declaration(name: str, engine: Engine, options: NodeOptions) -> str:
    lines = ["[[nodes]]", f'name = "{name}"', f'engine = "{options.engine or engine.url}"']
    if options.cpu:
        lines.append(f'cpu = "{options.cpu}"')
    if options.memory:
        lines.append(f'memory = "{options.memory}"')
    for id_, hardware_type in options.gpus:
        lines += ["[[nodes.gpus]]", f'id = "{id_}"', f'hardwareType = "{hardware_type}"']
    return "\n".join(lines)


@contextmanager
def docker_platform(
    docker: Docker,
    folder: Path,
    *,
    nodes: Mapping[int, NodeOptions] | None = None,
    count: int = NODES,
    arguments: Sequence[str] = (),
) -> Iterator[DockerPlatform]:
    """Run `podbay up` with engines as nodes n0, n1, and so on.

    Args:
        docker: The engines; the platform's installation becomes its own.
        folder: Where the platform lives.
        nodes: What is declared of the engines, by their indices.
        count: How many of the first engines are nodes in any case.
        arguments: Further arguments of `podbay up`.
    """
    chosen = {index: NodeOptions() for index in range(count)} | dict(nodes or {})
    engines = {f"n{index}": docker.machine.engines[index] for index in chosen}
    file = folder / "nodes.toml"
    declared = [
        _declaration(f"n{index}", docker.machine.engines[index], options)
        for index, options in chosen.items()
    ]
    file.write_text("\n\n".join(declared), encoding="utf-8")
    options = ("--workers=1", "--drivers=docker", f"--nodes={file}", *arguments)
    with Platform(folder / "data", options) as platform, platform.client() as client:
        # What a node has is told by its engine, a moment after the start.
        eventually_sync(
            lambda: [node.state for node in client.nodes.list()] == ["Ready"] * len(engines),
            "all nodes are ready",
            timeout=60,
        )
        yield DockerPlatform(platform, client, docker, engines)
