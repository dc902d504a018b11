"""The row by which one session manager leads, and the check that stands in every write."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from podbay_kit.storage import Database
from podbay_session_manager.lease import FREE, LeaseRow
from podbay_session_manager.tables import LEADERSHIP

__all__ = ["LeaseStore"]

_ROW: Final = 1
_NOBODY: Final = LeaseRow(term=0, holder=FREE, address="", beat=0, seconds=0.0)


class LeaseStore:
    """Reads and writes the row.

    All methods raise `ServiceError` STORE_UNAVAILABLE where the database cannot be used now.

    Args:
        database: The database, without the check of a term.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> LeaseRow:
        """Return the row as it is."""
        return await self._database.read(_find) or _NOBODY

    async def take(self, seen: LeaseRow, holder: str, address: str, seconds: float) -> int | None:
        """Hold the row from now on, where nothing of it has changed.

        Args:
            seen: The row as it was seen.
            holder: Who takes it.
            address: Where that one is reached.
            seconds: How long the holder trusts a renewal.

        Returns:
            The new term; None where another was faster, or the holder lives after all.
        """

        def write(conn: sa.Connection) -> int | None:
            if seen == _NOBODY and _find(conn) is None:
                values = {"holder": holder, "address": address, "seconds": seconds}
                conn.execute(sa.insert(LEADERSHIP).values(row=_ROW, term=1, beat=1, **values))
                return 1
            done = conn.execute(
                sa.update(LEADERSHIP)
                .where(
                    LEADERSHIP.c.row == _ROW,
                    LEADERSHIP.c.term == seen.term,
                    LEADERSHIP.c.beat == seen.beat,
                )
                .values(
                    term=LEADERSHIP.c.term + 1,
                    beat=LEADERSHIP.c.beat + 1,
                    holder=holder,
                    address=address,
                    seconds=seconds,
                )
            )
            return seen.term + 1 if done.rowcount else None

        return await self._database.write(write)

    async def renew(self, term: int) -> bool:
        """Give a sign of life; say whether the term still is the present one."""

        def write(conn: sa.Connection) -> bool:
            done = conn.execute(
                sa.update(LEADERSHIP)
                .where(
                    LEADERSHIP.c.row == _ROW,
                    LEADERSHIP.c.term == term,
                    LEADERSHIP.c.holder != FREE,
                )
                .values(beat=LEADERSHIP.c.beat + 1)
            )
            return bool(done.rowcount)

        return await self._database.write(write)

    async def release(self, holder: str) -> None:
        """Give the row up, where this one holds it."""

        def write(conn: sa.Connection) -> None:
            conn.execute(
                sa.update(LEADERSHIP)
                .where(LEADERSHIP.c.row == _ROW, LEADERSHIP.c.holder == holder)
                .values(beat=LEADERSHIP.c.beat + 1, holder=FREE, address="")
            )

        await self._database.write(write)

    @staticmethod
    def leads(conn: sa.Connection, term: int) -> bool:
        """Say whether a term is the present one, for as long as the transaction lasts.

        To be called in a writing transaction: nobody can take the row over before its end.
        """
        row = conn.execute(
            # SQLite has one writer anyway; elsewhere the row is locked against a taking over,
            # but not against other writes of the same term.
            sa.select(LEADERSHIP.c.term, LEADERSHIP.c.holder)
            .where(LEADERSHIP.c.row == _ROW)
            .with_for_update(read=True)
        ).one_or_none()
        return row is not None and bool(row.term == term and row.holder != FREE)


def _find(conn: sa.Connection) -> LeaseRow | None:
    found = conn.execute(sa.select(LEADERSHIP).where(LEADERSHIP.c.row == _ROW)).one_or_none()
    if found is None:
        return None
    return LeaseRow(found.term, found.holder, found.address, found.beat, found.seconds)
