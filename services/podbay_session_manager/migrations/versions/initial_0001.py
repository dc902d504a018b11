"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from podbay_kit.resource_migrations import create_resource_tables_1, drop_resource_tables_1

revision = "session_manager_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    create_resource_tables_1()
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("ix_sessions_state", "sessions", ["state", "ended_at"])
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_replicas_session"),
    )
    op.create_index("ix_replicas_session", "replicas", ["session_id"])
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("cordoned", sa.Boolean, nullable=False),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(64), primary_key=True),
        sa.Column("private_key", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "installation",
        sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("installation")
    op.drop_table("signing_keys")
    op.drop_table("nodes")
    op.drop_table("replicas")
    op.drop_table("sessions")
    drop_resource_tables_1()
