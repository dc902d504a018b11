"""The quotas of accounts, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from podbay_kit.audit_tables import create_audit_table_1, drop_audit_table_1

revision = "registry_0003"
down_revision = "registry_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "account_quotas",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("quota", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_account_quotas_account"),
    )
    op.create_index("ix_account_quotas_revision", "account_quotas", ["revision"])
    create_audit_table_1()


def downgrade() -> None:
    """Remove the tables."""
    drop_audit_table_1()
    op.drop_table("account_quotas")
