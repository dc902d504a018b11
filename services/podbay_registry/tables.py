"""The registry's tables, as the migrations leave them."""

from __future__ import annotations

import sqlalchemy as sa

from podbay_kit.resource_tables import define_resource_tables

__all__ = ["ACCOUNTS", "API_TOKENS", "INSTALLATION", "METADATA", "RESOURCES"]

METADATA = sa.MetaData()

RESOURCES = define_resource_tables(METADATA)

INSTALLATION = sa.Table(
    "installation",
    METADATA,
    # One row, 1.
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(64), nullable=False),
    # The token in the admin token file.
    sa.Column("admin_token_id", sa.String(64), nullable=False),
)

ACCOUNTS = sa.Table(
    "accounts",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("creation_time", sa.String(32), nullable=False),
)

API_TOKENS = sa.Table(
    "api_tokens",
    METADATA,
    # The public prefix of the secret.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("account", sa.String(64), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    # SHA-256 of the whole secret: it is random, so that a slow hash would buy nothing.
    sa.Column("secret_hash", sa.String(64), nullable=False),
    # A list of grants as JSON text.
    sa.Column("grants", sa.Text, nullable=False),
    sa.Column("creation_time", sa.String(32), nullable=False),
    sa.Column("expires", sa.String(32)),
    sa.Column("revoked", sa.String(32)),
    sa.ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_api_tokens_account"),
    sa.Index("ix_api_tokens_account", "account"),
    sa.Index("ix_api_tokens_creation_time", "creation_time", "id"),
)
