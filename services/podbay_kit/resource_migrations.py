"""Steps of migrations that all services with a resource store share.

A step is never changed once it was released: a database that has it must not differ from one
that gets it later. Changes of the tables are new steps, in new migrations of each service.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["create_resource_tables_1", "drop_resource_tables_1"]


def create_resource_tables_1() -> None:
    """Make the tables of `podbay_kit.resource_tables` as the first release has them."""
    _create_resources()
    op.create_table(
        "resource_labels",
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_index("ix_resource_labels_value", "resource_labels", ["kind", "key", "value"])
    op.create_table(
        "resource_changes",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("type", sa.Integer, nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("previous", sa.Text),
    )
    op.create_index("ix_resource_changes_kind", "resource_changes", ["kind", "revision"])
    op.create_table(
        "resource_counter",
        sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("compacted", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "resource_request_ids",
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
    )
    op.create_index("ix_resource_request_ids_time", "resource_request_ids", ["time"])


def _create_resources() -> None:
    op.create_table(
        "resources",
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("creation_time", sa.String(32), nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("model_name", sa.Text),
        sa.Column("inference_service", sa.Text),
        sa.Column("inference_service_name", sa.Text),
        sa.Column("deleted_time", sa.String(32)),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    for name, columns in (
        ("account", ["kind", "account"]),
        ("creation_time", ["kind", "creation_time", "id"]),
        ("name", ["kind", "name", "id"]),
        ("status", ["kind", "status", "id"]),
        ("revision", ["kind", "revision"]),
        ("deleted_time", ["deleted_time"]),
    ):
        op.create_index(f"ix_resources_{name}", "resources", columns)


def drop_resource_tables_1() -> None:
    """Remove the tables of the first release."""
    for table in (
        "resource_request_ids",
        "resource_counter",
        "resource_changes",
        "resource_labels",
        "resources",
    ):
        op.drop_table(table)
