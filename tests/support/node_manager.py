"""A session manager whose declared nodes run processes of this machine; started by a test.

What runs at a node outlives the session manager, however that ends, as containers do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from podbay_kit.process import Stop, run, write_address_file
from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode
from podbay_session_manager.drivers.contract import NodeFacts, ObservedReplica
from podbay_session_manager.drivers.process import ProcessDriver
from podbay_session_manager.policy import Policy
from podbay_session_manager.records import ServiceSpec
from podbay_session_manager.server import Settings, serving
from tests.support.session_manager import SERVICE_TOKEN

GPU_TYPE = "nvidia.com/gpu-t4"
NODES = [
    DeclaredNode(
        name,
        f"unix:///run/{name}.sock",
        gpus=tuple(DeclaredGpu(f"{n}", GPU_TYPE) for n in range(2)),
        cpus=64,
        memory_bytes=1 << 40,
    )
    for name in ("n1", "n2")
]


class NodeProcessDriver(ProcessDriver):
    """Runs the commands of containers as processes, and says that they are on its node."""

    kind = "docker"

    def __init__(self, folder: Path, node: DeclaredNode) -> None:
        super().__init__(folder)
        self.name = f"docker/{node.name}"
        self._node = node.name

    def supports(self, service: ServiceSpec) -> str | None:
        return None

    async def nodes(self) -> Sequence[NodeFacts]:
        return [NodeFacts(self._node, "127.0.0.1", 64, 1 << 40)]

    async def list(self) -> Sequence[ObservedReplica]:
        return [replace(seen, node=self._node) for seen in await super().list()]


def main() -> int:
    folder, registry = Path(sys.argv[1]), sys.argv[2]
    settings = Settings(
        listen="127.0.0.1:0",
        data_dir=folder,
        service_token=SERVICE_TOKEN,
        registry_endpoint=registry,
        drivers=("docker",),
        drain_seconds=1.0,
        policy=Policy(drain=0.1),
        nodes=NODES,
        node_drivers=lambda node: NodeProcessDriver(folder / f"node-{node.name}", node),
        stop_replicas_on_exit=os.environ.get("STOP_REPLICAS") == "1",
    )

    async def work(stop: Stop) -> None:
        async with serving(settings) as port:
            write_address_file(folder / "address.json", "127.0.0.1", port)
            await stop.wait()

    return run(work, name="session-manager", log_level="WARNING")


if __name__ == "__main__":
    sys.exit(main())
