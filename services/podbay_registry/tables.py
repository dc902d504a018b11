"""The registry's tables, as the migrations leave them."""

from __future__ import annotations

import sqlalchemy as sa

from podbay_kit.audit_tables import define_audit_table
from podbay_kit.resource_tables import define_resource_tables

__all__ = [
    "ACCOUNTS",
    "ACCOUNT_QUOTAS",
    "API_TOKENS",
    "AUDIT",
    "BLOBS",
    "BLOB_ACCOUNTS",
    "INSTALLATION",
    "METADATA",
    "MODEL_FILES",
    "RESOURCES",
]

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

ACCOUNT_QUOTAS = sa.Table(
    "account_quotas",
    METADATA,
    sa.Column("account", sa.String(64), primary_key=True),
    # A podbay_kit.quotas.Quota as JSON text.
    sa.Column("quota", sa.Text, nullable=False),
    # That of the store when it was changed last: who watches reads on from one.
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["account"], ["accounts.id"], name="fk_account_quotas_account"),
    sa.Index("ix_account_quotas_revision", "revision"),
)

AUDIT = define_audit_table(METADATA)

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

BLOBS = sa.Table(
    "blobs",
    METADATA,
    # In lower-case hex.
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    # In base64, as the JSON interface has it.
    sa.Column("md5", sa.String(24), nullable=False),
    sa.Column("last_used", sa.String(32), nullable=False),
    # The digest that was found where it was another, or ""; null while the file is sound.
    sa.Column("damaged", sa.String(64)),
    sa.Index("ix_blobs_last_used", "last_used"),
)

# Who has shown that it has a content: nobody gets at the files of others by their digest.
BLOB_ACCOUNTS = sa.Table(
    "blob_accounts",
    METADATA,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("account", sa.String(64), primary_key=True),
    sa.ForeignKeyConstraint(
        ["sha256"], ["blobs.sha256"], name="fk_blob_accounts_sha256", ondelete="CASCADE"
    ),
)

MODEL_FILES = sa.Table(
    "model_files",
    METADATA,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    # A content that a model refers to cannot be forgotten.
    sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="fk_model_files_sha256"),
    sa.Index("ix_model_files_sha256", "sha256"),
)
