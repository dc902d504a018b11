"""The keys of session tokens in the session manager's database."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import sqlalchemy as sa

from podbay_kit.storage import Database
from podbay_session_manager.key_plan import SigningKeyRow, signing_key
from podbay_session_manager.tables import SIGNING_KEYS

__all__ = ["KeyStore"]


class KeyStore:
    """The keys, as rows.

    All methods raise `ServiceError` STORE_UNAVAILABLE where the database cannot be used now.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[SigningKeyRow]:
        """Return the keys, newest first."""
        return await self._database.read(_read)

    async def load_or_add(self, make: Callable[[], SigningKeyRow]) -> list[SigningKeyRow]:
        """Return the keys, newest first; add the first where none signs.

        Args:
            make: Makes a key that signs at once.
        """

        def write(conn: sa.Connection) -> list[SigningKeyRow]:
            found = _read(conn)
            if signing_key(found) is None:
                _add(conn, make())
                found = _read(conn)
            return found

        return await self._database.write(write)

    async def add(self, key: SigningKeyRow) -> None:
        """Add a key."""
        await self._database.write(lambda conn: _add(conn, key))

    async def activate(self, kid: str, now: float) -> None:
        """Write down that a key signs from now on."""

        def write(conn: sa.Connection) -> None:
            conn.execute(
                sa.update(SIGNING_KEYS).where(SIGNING_KEYS.c.kid == kid).values(activated_at=now)
            )

        await self._database.write(write)

    async def extend(self, kid: str, until: float) -> bool:
        """Write down that a key has signed a token which ends by then; say whether it is there."""

        def write(conn: sa.Connection) -> bool:
            there = SIGNING_KEYS.c.kid == kid
            conn.execute(
                sa.update(SIGNING_KEYS)
                .where(there, SIGNING_KEYS.c.verifies_until < until)
                .values(verifies_until=until)
            )
            return bool(conn.execute(sa.select(SIGNING_KEYS.c.kid).where(there)).all())

        return await self._database.write(write)

    async def remove(self, kids: Iterable[str]) -> None:
        """Remove keys whose tokens have all ended."""
        gone = list(kids)

        def write(conn: sa.Connection) -> None:
            conn.execute(sa.delete(SIGNING_KEYS).where(SIGNING_KEYS.c.kid.in_(gone)))

        await self._database.write(write)


def _read(conn: sa.Connection) -> list[SigningKeyRow]:
    order = (SIGNING_KEYS.c.created_at.desc(), SIGNING_KEYS.c.kid)
    return [
        SigningKeyRow(
            row.kid,
            bytes(row.private_key),
            row.created_at,
            row.activated_at,
            row.verifies_until,
        )
        for row in conn.execute(sa.select(SIGNING_KEYS).order_by(*order))
    ]


def _add(conn: sa.Connection, key: SigningKeyRow) -> None:
    conn.execute(
        sa.insert(SIGNING_KEYS).values(
            kid=key.kid,
            private_key=key.private_key,
            created_at=key.created_at,
            activated_at=key.activated_at,
            verifies_until=key.verifies_until,
        )
    )
