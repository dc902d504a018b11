"""The table of an audit log. Each service has one in its own database."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["create_audit_table_1", "define_audit_table", "drop_audit_table_1"]


def define_audit_table(metadata: sa.MetaData) -> sa.Table:
    """Define the table, as the migrations leave it."""
    return sa.Table(
        "audit_records",
        metadata,
        *_columns(),
        sa.Index("ix_audit_records_time", "time", "id"),
        sa.Index("ix_audit_records_account", "account", "time", "id"),
        sa.Index("ix_audit_records_code", "code", "time", "id"),
    )


def create_audit_table_1() -> None:
    """Make the table as the first release that has it does; never changed, as all migrations."""
    from alembic import op  # noqa: PLC0415 # takes long, and only a migration needs it

    op.create_table("audit_records", *_columns())
    op.create_index("ix_audit_records_time", "audit_records", ["time", "id"])
    op.create_index("ix_audit_records_account", "audit_records", ["account", "time", "id"])
    op.create_index("ix_audit_records_code", "audit_records", ["code", "time", "id"])


def drop_audit_table_1() -> None:
    """Remove it."""
    from alembic import op  # noqa: PLC0415 # as above

    op.drop_table("audit_records")


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("id", sa.String(32), primary_key=True),
        # As text that sorts as time does.
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("actor_account", sa.Text, nullable=False),
        sa.Column("actor_token", sa.Text, nullable=False),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("code", sa.Integer, nullable=False),
        sa.Column("reason", sa.Integer, nullable=False),
        sa.Column("call_id", sa.String(32), nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("first_time", sa.String(32)),
        # A map of texts as JSON text.
        sa.Column("details", sa.Text, nullable=False),
    ]
