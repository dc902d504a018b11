"""The tables of a resource store, for the metadata of the service that owns them."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

__all__ = ["ResourceTables", "define_resource_tables"]


@dataclass(frozen=True)
class ResourceTables:
    """The tables of a resource store.

    Times are text of fixed form (`YYYY-MM-DDTHH:MM:SS.ffffffZ`), which sorts as time does in
    every database.
    """

    resources: sa.Table
    labels: sa.Table
    changes: sa.Table
    counter: sa.Table
    request_ids: sa.Table


def define_resource_tables(metadata: sa.MetaData) -> ResourceTables:
    """Add the tables of a resource store to the metadata of a service.

    The service's first migration must make the same tables.
    """
    return ResourceTables(
        resources=_resources(metadata),
        labels=sa.Table(
            "resource_labels",
            metadata,
            sa.Column("kind", sa.String(64), primary_key=True),
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
            sa.Index("ix_resource_labels_value", "kind", "key", "value"),
        ),
        changes=sa.Table(
            "resource_changes",
            metadata,
            sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("kind", sa.String(64), nullable=False),
            sa.Column("id", sa.Text, nullable=False),
            # A value of podbay.v1.ChangeType.
            sa.Column("type", sa.Integer, nullable=False),
            sa.Column("time", sa.String(32), nullable=False),
            sa.Column("document", sa.Text, nullable=False),
            # The resource before the change: a watch whose filter it matched must be told too.
            sa.Column("previous", sa.Text),
            sa.Index("ix_resource_changes_kind", "kind", "revision"),
        ),
        counter=sa.Table(
            "resource_counter",
            metadata,
            # One row, 1: every change takes its revision from it within its transaction, so that
            # revisions become visible in their order.
            sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("revision", sa.BigInteger, nullable=False),
            # Changes up to this revision are no longer kept.
            sa.Column("compacted", sa.BigInteger, nullable=False),
        ),
        request_ids=sa.Table(
            "resource_request_ids",
            metadata,
            sa.Column("kind", sa.String(64), primary_key=True),
            sa.Column("account", sa.Text, primary_key=True),
            sa.Column("request_id", sa.Text, primary_key=True),
            sa.Column("digest", sa.String(64), nullable=False),
            sa.Column("resource_id", sa.Text, nullable=False),
            sa.Column("time", sa.String(32), nullable=False),
            sa.Index("ix_resource_request_ids_time", "time"),
        ),
    )


def _resources(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "resources",
        metadata,
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
        # When the resource was marked as deleted; null while it is not.
        sa.Column("deleted_time", sa.String(32)),
        # The revision of the last change.
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Index("ix_resources_account", "kind", "account"),
        sa.Index("ix_resources_creation_time", "kind", "creation_time", "id"),
        sa.Index("ix_resources_name", "kind", "name", "id"),
        sa.Index("ix_resources_status", "kind", "status", "id"),
        sa.Index("ix_resources_revision", "kind", "revision"),
        sa.Index("ix_resources_deleted_time", "deleted_time"),
    )
