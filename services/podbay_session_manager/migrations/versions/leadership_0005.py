"""The row by which one session manager leads, and the routers that have shares of limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "session_manager_0005"
down_revision = "session_manager_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "leadership",
        sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("address", sa.String(300), nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
    )
    op.create_table("routers", sa.Column("id", sa.String(64), primary_key=True))


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("routers")
    op.drop_table("leadership")
