"""A whole platform whose nodes are real engines."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from podbay import Client
from podbay.schema.platform import InferenceService
from tests.support.docker.engines import Engine
from tests.support.docker.fixtures import Docker
from tests.support.platform import Platform

__all__ = ["DockerPlatform", "docker_platform"]


class DockerPlatform:
    """A platform, a client, and what tests say often."""

    def __init__(self, platform: Platform, client: Client, docker: Docker) -> None:
        self.platform = platform
        self.client = client
        self.docker = docker
        self.account = client.installation().account

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

    def containers(self) -> dict[str, list[dict[str, Any]]]:
        """What the engines have of this installation, by node: inspected containers."""
        mine = {"label": [f"dev.podbay.installation={self.docker.installation}"]}
        found: dict[str, list[dict[str, Any]]] = {}
        for index, engine in enumerate(self.docker.machine.engines):
            client = engine.client()
            try:
                listed = client.containers(all=True, filters=mine)
                found[f"n{index}"] = [client.inspect_container(one["Id"]) for one in listed]
            finally:
                client.close()
        return found


def _declaration(name: str, engine: Engine, gpus: Sequence[tuple[str, str]]) -> str:
    lines = ["[[nodes]]", f'name = "{name}"', f'engine = "{engine.url}"']
    for id_, hardware_type in gpus:
        lines += ["[[nodes.gpus]]", f'id = "{id_}"', f'hardwareType = "{hardware_type}"']
    return "\n".join(lines)


def _installation(platform: Platform) -> str:
    """Return what the platform calls itself on engines, which it tells nobody else."""
    (database,) = platform.data_dir.rglob("session-manager.sqlite3")
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return str(connection.execute("SELECT id FROM installation").fetchone()[0])


@contextmanager
def docker_platform(
    docker: Docker,
    folder: Path,
    *,
    gpus: Mapping[int, Sequence[tuple[str, str]]] | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[DockerPlatform]:
    """Run `podbay up` with the engines as nodes n0, n1, and so on.

    Args:
        docker: The engines; the platform's installation becomes its own.
        folder: Where the platform lives.
        gpus: The GPUs of each engine by its index: pairs of id and hardware type.
        arguments: Further arguments of `podbay up`.
    """
    nodes = folder / "nodes.toml"
    declared = [
        _declaration(f"n{index}", engine, (gpus or {}).get(index, ()))
        for index, engine in enumerate(docker.machine.engines)
    ]
    nodes.write_text("\n\n".join(declared), encoding="utf-8")
    options = ("--workers=1", "--drivers=docker", f"--nodes={nodes}", *arguments)
    with Platform(folder / "data", options) as platform, platform.client() as client:
        docker.installation = _installation(platform)
        yield DockerPlatform(platform, client, docker)
