"""The quotas of accounts as the registry told them, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from podbay_kit.audit_tables import create_audit_table_1, drop_audit_table_1

revision = "session_manager_0004"
down_revision = "session_manager_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "account_quotas",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("quota", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    create_audit_table_1()


def downgrade() -> None:
    """Remove the tables."""
    drop_audit_table_1()
    op.drop_table("account_quotas")
