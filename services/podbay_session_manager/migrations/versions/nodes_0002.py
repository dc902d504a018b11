"""Declared nodes, and the GPUs that replicas have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "session_manager_0002"
down_revision = "session_manager_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, and the columns."""
    op.add_column(
        "nodes", sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column("nodes", sa.Column("declaration", sa.Text))
    op.add_column("nodes", sa.Column("origin", sa.String(8)))
    op.create_table(
        "gpu_leases",
        sa.Column("node", sa.String(253), primary_key=True),
        sa.Column("gpu", sa.String(253), primary_key=True),
        sa.Column("replica_id", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["replica_id"], ["replicas.id"], name="fk_gpu_leases_replica"),
    )
    op.create_index("ix_gpu_leases_replica", "gpu_leases", ["replica_id"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("gpu_leases")
    op.drop_column("nodes", "origin")
    op.drop_column("nodes", "declaration")
    op.drop_column("nodes", "draining")
