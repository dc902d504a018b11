"""What is kept of nodes: declarations, what people decided, and which replica has which GPU."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from podbay_kit.storage import Database
from podbay_session_manager.declared_nodes import DeclaredGpu, DeclaredNode, EngineTls
from podbay_session_manager.records import ReplicaRecord
from podbay_session_manager.tables import GPU_LEASES, NODES

__all__ = [
    "NodeStore",
    "Origin",
    "StoredNode",
    "free_leases",
    "put_leases",
    "read_declaration",
    "write_declaration",
]

Origin = Literal["file", "left-file", "api"]
"""Where a node was declared: in the file of nodes; there, but not any more, so that it is emptied;
or by a call."""

# SQLite takes so many variables in a statement at least.
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node as it is kept."""

    name: str
    cordoned: bool = False
    draining: bool = False
    declared: DeclaredNode | None = None
    """None for a node that a driver of this machine brings."""
    origin: Origin | None = None


def write_declaration(node: DeclaredNode) -> str:
    """Return a declaration as text that `read_declaration` reads back without loss."""
    return json.dumps(asdict(node), separators=(",", ":"))


def read_declaration(text: str) -> DeclaredNode:
    """Read a declaration."""
    data: dict[str, Any] = json.loads(text)
    tls = data.pop("tls")
    return DeclaredNode(
        **{**data, "gpus": tuple(DeclaredGpu(**gpu) for gpu in data["gpus"])},
        tls=None if tls is None else EngineTls(**tls),
    )


class NodeStore:
    """What the session manager keeps of nodes.

    All methods raise `ServiceError` STORE_UNAVAILABLE where the database cannot be used now.

    Args:
        database: Where it is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[StoredNode]:
        """Return all nodes that anything is kept of, by name."""

        def read(conn: sa.Connection) -> list[StoredNode]:
            rows = conn.execute(sa.select(NODES).order_by(NODES.c.name))
            return [
                StoredNode(
                    row.name,
                    row.cordoned,
                    row.draining,
                    None if row.declaration is None else read_declaration(row.declaration),
                    row.origin,
                )
                for row in rows
            ]

        return await self._database.read(read)

    async def put(self, node: StoredNode) -> None:
        """Keep a node as it is now."""
        values = {
            "cordoned": node.cordoned,
            "draining": node.draining,
            "declaration": None if node.declared is None else write_declaration(node.declared),
            "origin": node.origin,
        }

        def write(conn: sa.Connection) -> None:
            found = conn.execute(sa.update(NODES).where(NODES.c.name == node.name).values(**values))
            if found.rowcount == 0:
                conn.execute(sa.insert(NODES).values(name=node.name, **values))

        await self._database.write(write)

    async def remove(self, name: str) -> None:
        """Keep nothing more of a node."""

        def write(conn: sa.Connection) -> None:
            conn.execute(sa.delete(NODES).where(NODES.c.name == name))

        await self._database.write(write)

    async def leases(self) -> dict[tuple[str, str], str]:
        """Return the replica that has each GPU, by node and GPU."""

        def read(conn: sa.Connection) -> dict[tuple[str, str], str]:
            rows = conn.execute(sa.select(GPU_LEASES))
            return {(row.node, row.gpu): row.replica_id for row in rows}

        return await self._database.read(read)


def free_leases(conn: sa.Connection, replica_ids: Sequence[str]) -> None:
    """Give back the GPUs of replicas that are verifiably gone."""
    for start in range(0, len(replica_ids), _BATCH):
        gone = replica_ids[start : start + _BATCH]
        conn.execute(sa.delete(GPU_LEASES).where(GPU_LEASES.c.replica_id.in_(gone)))


def put_leases(conn: sa.Connection, replicas: Iterable[ReplicaRecord]) -> None:
    """Give replicas the GPUs that were decided, where they do not have them already.

    Raises:
        sqlalchemy.exc.IntegrityError: Another replica has one of them.
    """
    for replica in replicas:
        if not replica.gpus or not replica.holds_node:
            continue
        mine = conn.execute(
            sa.select(GPU_LEASES.c.gpu).where(GPU_LEASES.c.replica_id == replica.id)
        )
        if {row.gpu for row in mine} == set(replica.gpus):
            continue
        conn.execute(
            sa.insert(GPU_LEASES),
            [{"node": replica.node, "gpu": gpu, "replica_id": replica.id} for gpu in replica.gpus],
        )
