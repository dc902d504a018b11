"""Keys of session tokens that follow each other."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "session_manager_0003"
down_revision = "session_manager_0002"
branch_labels = None
depends_on = None

_YEAR = 366 * 24 * 3600.0


def upgrade() -> None:
    """Add the columns."""
    op.add_column("signing_keys", sa.Column("activated_at", sa.Float))
    op.add_column(
        "signing_keys", sa.Column("verifies_until", sa.Float, nullable=False, server_default="0")
    )
    # Until now there was one key, and nobody noted which tokens it signed: it is kept for a year.
    keys = sa.table(
        "signing_keys",
        sa.column("created_at", sa.Float),
        sa.column("activated_at", sa.Float),
        sa.column("verifies_until", sa.Float),
    )
    op.execute(
        sa.update(keys).values(activated_at=keys.c.created_at, verifies_until=time.time() + _YEAR)
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_column("signing_keys", "verifies_until")
    op.drop_column("signing_keys", "activated_at")
