"""The files of models in the registry's database: which model has which content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from podbay_kit.blob_files import Digests
from podbay_kit.resource_log_store import text_time
from podbay_kit.resources import DELETED
from podbay_registry.kinds import MODELS
from podbay_registry.tables import BLOB_ACCOUNTS, BLOBS, MODEL_FILES, RESOURCES

__all__ = ["Blob", "FileStore", "StoredFile"]


@dataclass(frozen=True, slots=True)
class Blob:
    """A content that the registry keeps.

    Attributes:
        digests: Its size and digests.
        damaged: The digest that was found instead, or ""; None while the file is sound.
    """

    digests: Digests
    damaged: str | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a model.

    Attributes:
        path: Where it lies in the model's folder.
        blob: What it holds.
    """

    path: str
    blob: Blob


class FileStore:
    """Files and contents. All methods run within a transaction of the caller."""

    def blob(self, conn: sa.Connection, sha256: str) -> Blob | None:
        """Return a content; None where there is none with this digest."""
        row = conn.execute(sa.select(BLOBS).where(BLOBS.c.sha256 == sha256)).one_or_none()
        return None if row is None else _blob(row)

    def shown_by(self, conn: sa.Connection, sha256: str, account: str) -> bool:
        """Say whether an account has shown that it has a content."""
        found = conn.execute(
            sa.select(BLOB_ACCOUNTS.c.sha256).where(
                BLOB_ACCOUNTS.c.sha256 == sha256, BLOB_ACCOUNTS.c.account == account
            )
        )
        return found.one_or_none() is not None

    def put(self, conn: sa.Connection, digests: Digests, account: str, now: datetime) -> None:
        """Write down a content that is in its file, and whose it is; mends a damaged one."""
        used = text_time(now)
        if self.blob(conn, digests.sha256) is None:
            conn.execute(
                sa.insert(BLOBS).values(
                    sha256=digests.sha256, size=digests.size, md5=digests.md5, last_used=used
                )
            )
        else:
            conn.execute(
                sa.update(BLOBS)
                .where(BLOBS.c.sha256 == digests.sha256)
                .values(last_used=used, damaged=None)
            )
        if not self.shown_by(conn, digests.sha256, account):
            conn.execute(sa.insert(BLOB_ACCOUNTS).values(sha256=digests.sha256, account=account))

    def link(self, conn: sa.Connection, model: str, path: str, sha256: str, now: datetime) -> None:
        """Make a content that is there the file of a model."""
        here = sa.and_(MODEL_FILES.c.model == model, MODEL_FILES.c.path == path)
        conn.execute(sa.delete(MODEL_FILES).where(here))
        conn.execute(sa.insert(MODEL_FILES).values(model=model, path=path, sha256=sha256))
        self.touch(conn, sha256, now)

    def touch(self, conn: sa.Connection, sha256: str, now: datetime) -> None:
        """Note that a content was used."""
        conn.execute(
            sa.update(BLOBS).where(BLOBS.c.sha256 == sha256).values(last_used=text_time(now))
        )

    def file(self, conn: sa.Connection, model: str, path: str) -> StoredFile | None:
        """Return a file of a model; None where nothing was stored at the path."""
        row = conn.execute(_files(model).where(MODEL_FILES.c.path == path)).one_or_none()
        return None if row is None else StoredFile(row.path, _blob(row))

    def files(
        self, conn: sa.Connection, model: str, *, after: str = "", limit: int | None = None
    ) -> list[StoredFile]:
        """Return the files of a model that are stored, ordered by path.

        Args:
            conn: The transaction.
            model: The id of the model.
            after: Only those whose path comes after this one.
            limit: The most to return; all unless given.
        """
        query = _files(model).where(MODEL_FILES.c.path > after).order_by(MODEL_FILES.c.path)
        rows = conn.execute(query if limit is None else query.limit(limit)).all()
        return [StoredFile(row.path, _blob(row)) for row in rows]

    def release(self, conn: sa.Connection) -> None:
        """Take their files from models that are deleted, or gone."""
        resources = RESOURCES.resources
        living = sa.select(resources.c.id).where(
            resources.c.kind == MODELS.name, resources.c.status != DELETED
        )
        conn.execute(sa.delete(MODEL_FILES).where(MODEL_FILES.c.model.not_in(living)))

    def total(self, conn: sa.Connection) -> int:
        """Return how many bytes all contents have."""
        return int(conn.execute(sa.select(sa.func.coalesce(sa.func.sum(BLOBS.c.size), 0))).scalar())  # type: ignore[arg-type] # a sum of integers

    def every(self, conn: sa.Connection) -> dict[str, int]:
        """Return the size of every content by its digest."""
        rows = conn.execute(sa.select(BLOBS.c.sha256, BLOBS.c.size)).all()
        return {row.sha256: row.size for row in rows}

    def unused(
        self, conn: sa.Connection, *, before: datetime | None = None
    ) -> list[tuple[str, int]]:
        """Return digest and size of what no model refers to, the least recently used first.

        Args:
            conn: The transaction.
            before: Only what was not used since this time.
        """
        query = sa.select(BLOBS.c.sha256, BLOBS.c.size).where(
            BLOBS.c.sha256.not_in(sa.select(MODEL_FILES.c.sha256))
        )
        if before is not None:
            query = query.where(BLOBS.c.last_used < text_time(before))
        rows = conn.execute(query.order_by(BLOBS.c.last_used, BLOBS.c.sha256)).all()
        return [(row.sha256, row.size) for row in rows]

    def forget(self, conn: sa.Connection, digests: Iterable[str]) -> None:
        """Forget contents that no model refers to."""
        for sha256 in digests:
            conn.execute(sa.delete(BLOBS).where(BLOBS.c.sha256 == sha256))

    def damage(self, conn: sa.Connection, sha256: str, found: str) -> None:
        """Note that the file of a content is another one now, or gone."""
        conn.execute(sa.update(BLOBS).where(BLOBS.c.sha256 == sha256).values(damaged=found))


def _files(model: str) -> sa.Select[Any]:
    joined = MODEL_FILES.join(BLOBS, BLOBS.c.sha256 == MODEL_FILES.c.sha256)
    return (
        sa.select(MODEL_FILES.c.path, BLOBS.c.sha256, BLOBS.c.size, BLOBS.c.md5, BLOBS.c.damaged)
        .select_from(joined)
        .where(MODEL_FILES.c.model == model)
    )


def _blob(row: sa.Row[Any]) -> Blob:
    return Blob(Digests(row.size, row.sha256, row.md5), row.damaged)
