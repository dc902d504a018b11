"""A session manager whose declared nodes are engines in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from podbay_session_manager.policy import Policy
from tests.support.fake_nodes import FakeNodes, always_ready
from tests.support.fake_registry import fake_registry
from tests.support.session_manager import Rig


class FakeNodeRig(Rig):
    """A session manager with nodes."""

    nodes: FakeNodes


R = TypeVar("R", bound=FakeNodeRig)


@asynccontextmanager
async def fake_node_rig(kind: type[R], folder: Path, policy: Policy) -> AsyncIterator[R]:
    """Give a session manager that is not started, with a registry, and replicas that are ready.

    Args:
        kind: The class of it.
        folder: Where its data is.
        policy: How patient it is.
    """
    async with always_ready() as port, fake_registry() as (registry, endpoint):
        rig = kind(registry, endpoint, folder / "data")
        rig.nodes = FakeNodes(port)
        rig.settings = replace(
            rig.settings, drivers=("docker",), node_drivers=rig.nodes.make, policy=policy
        )
        yield rig
