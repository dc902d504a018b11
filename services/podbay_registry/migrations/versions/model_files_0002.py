"""The files of models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "registry_0002"
down_revision = "registry_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("md5", sa.String(24), nullable=False),
        sa.Column("last_used", sa.String(32), nullable=False),
        sa.Column("damaged", sa.String(64)),
    )
    op.create_index("ix_blobs_last_used", "blobs", ["last_used"])
    op.create_table(
        "blob_accounts",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(64), primary_key=True),
        sa.ForeignKeyConstraint(
            ["sha256"], ["blobs.sha256"], name="fk_blob_accounts_sha256", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "model_files",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="fk_model_files_sha256"),
    )
    op.create_index("ix_model_files_sha256", "model_files", ["sha256"])


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("model_files")
    op.drop_table("blob_accounts")
    op.drop_table("blobs")
