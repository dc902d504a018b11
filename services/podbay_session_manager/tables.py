"""The session manager's tables, as the migrations leave them."""

from __future__ import annotations

import sqlalchemy as sa

from podbay_kit.audit_tables import define_audit_table
from podbay_kit.resource_tables import define_resource_tables

__all__ = [
    "ACCOUNT_QUOTAS",
    "AUDIT",
    "GPU_LEASES",
    "INSTALLATION",
    "LEADERSHIP",
    "METADATA",
    "NODES",
    "REPLICAS",
    "RESOURCES",
    "ROUTERS",
    "SESSIONS",
    "SIGNING_KEYS",
]

METADATA = sa.MetaData()

RESOURCES = define_resource_tables(METADATA)

SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    # A value of machine.SessionState.
    sa.Column("state", sa.String(16), nullable=False),
    # Seconds since 1970; null while it shall run.
    sa.Column("ended_at", sa.Float),
    # A records.SessionRecord as JSON text. The resource that people see is in `resources`.
    sa.Column("record", sa.Text, nullable=False),
    sa.Index("ix_sessions_state", "state", "ended_at"),
)

REPLICAS = sa.Table(
    "replicas",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("session_id", sa.Text, nullable=False),
    # A records.ReplicaRecord as JSON text.
    sa.Column("record", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_replicas_session"),
    sa.Index("ix_replicas_session", "session_id"),
)

NODES = sa.Table(
    "nodes",
    METADATA,
    # What people decided about a node; what a node is, its driver tells.
    sa.Column("name", sa.String(253), primary_key=True),
    sa.Column("cordoned", sa.Boolean, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
    # A declared_nodes.DeclaredNode as JSON text; null for a node that was not declared.
    sa.Column("declaration", sa.Text),
    # Where it was declared: "file" or "api"; null for a node that was not declared.
    sa.Column("origin", sa.String(8)),
)

GPU_LEASES = sa.Table(
    "gpu_leases",
    METADATA,
    # The key lets nobody have a GPU that another one has.
    sa.Column("node", sa.String(253), primary_key=True),
    sa.Column("gpu", sa.String(253), primary_key=True),
    sa.Column("replica_id", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["replica_id"], ["replicas.id"], name="fk_gpu_leases_replica"),
    sa.Index("ix_gpu_leases_replica", "replica_id"),
)

# As the registry told them last, for when it is away.
ACCOUNT_QUOTAS = sa.Table(
    "account_quotas",
    METADATA,
    sa.Column("account", sa.String(64), primary_key=True),
    # A podbay_kit.quotas.Quota as JSON text.
    sa.Column("quota", sa.Text, nullable=False),
    # The registry's revision of it.
    sa.Column("revision", sa.BigInteger, nullable=False),
)

AUDIT = define_audit_table(METADATA)

SIGNING_KEYS = sa.Table(
    "signing_keys",
    METADATA,
    sa.Column("kid", sa.String(64), primary_key=True),
    # The raw Ed25519 private key: 32 bytes.
    sa.Column("private_key", sa.LargeBinary, nullable=False),
    # Seconds since 1970, all of them.
    sa.Column("created_at", sa.Float, nullable=False),
    # Since when it signs; null while routers are told of it.
    sa.Column("activated_at", sa.Float),
    # No token that it signed ends later.
    sa.Column("verifies_until", sa.Float, nullable=False, server_default="0"),
)

INSTALLATION = sa.Table(
    "installation",
    METADATA,
    # One row, 1.
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    # The issuer of session tokens.
    sa.Column("id", sa.String(64), nullable=False),
)

LEADERSHIP = sa.Table(
    "leadership",
    METADATA,
    # One row, 1: a lease.LeaseRow.
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("term", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("address", sa.String(300), nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

ROUTERS = sa.Table(
    "routers",
    METADATA,
    # The routers that may have a share of a limit.
    sa.Column("id", sa.String(64), primary_key=True),
)
