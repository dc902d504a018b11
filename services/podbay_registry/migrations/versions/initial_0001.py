"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from podbay_kit.resource_migrations import create_resource_tables_1, drop_resource_tables_1

revision = "registry_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    create_resource_tables_1()
    op.create_table(
        "installation",
        sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("admin_token_id", sa.String(64), nullable=False),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("creation_time", sa.String(32), nullable=False),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("grants", sa.Text, nullable=False),
        sa.Column("creation_time", sa.String(32), nullable=False),
        sa.Column("expires", sa.String(32)),
        sa.Column("revoked", sa.String(32)),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_api_tokens_account"),
    )
    op.create_index("ix_api_tokens_account", "api_tokens", ["account"])
    op.create_index("ix_api_tokens_creation_time", "api_tokens", ["creation_time", "id"])


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("api_tokens")
    op.drop_table("accounts")
    op.drop_table("installation")
    drop_resource_tables_1()
