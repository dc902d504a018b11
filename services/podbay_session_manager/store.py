"""The session manager's store: sessions as people see them, and what the planner works with.

A session has two forms, written in one transaction: the resource (`platform.InferenceSession`,
with filters, labels and a change log) and the record (`SessionRecord`). The record decides; the
resource shows its status, reason and message.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import sqlalchemy as sa

from podbay.schema import platform
from podbay_kit.resource_feed import ChangeFeed
from podbay_kit.resources import RequestKey, ResourceStore
from podbay_kit.storage import Database
from podbay_session_manager.codec import read_replica, read_session, write_record
from podbay_session_manager.key_store import KeyStore
from podbay_session_manager.kinds import SESSIONS as SESSION_KIND
from podbay_session_manager.machine import SessionState
from podbay_session_manager.node_store import NodeStore, free_leases, put_leases
from podbay_session_manager.records import ReplicaRecord, SessionRecord
from podbay_session_manager.tables import (
    GPU_LEASES,
    INSTALLATION,
    REPLICAS,
    RESOURCES,
    ROUTERS,
    SESSIONS,
)
from podbay_session_manager.texts import whole_message

__all__ = ["SessionStore"]

_ROW = 1


class SessionStore:
    """What the session manager keeps.

    All methods raise `ServiceError` STORE_UNAVAILABLE where the database cannot be used now.

    Args:
        database: Where it is kept.
        progress_interval: Seconds after which an idle watch sends progress.
    """

    def __init__(self, database: Database, *, progress_interval: float = 5.0) -> None:
        self.database = database
        self.resources = ResourceStore(RESOURCES)
        self.feed = ChangeFeed(database, self.resources, progress_interval=progress_interval)
        self.nodes = NodeStore(database)
        self.keys = KeyStore(database)

    async def load_live(
        self,
    ) -> tuple[dict[str, SessionRecord], dict[str, dict[str, ReplicaRecord]]]:
        """Return the sessions that have not ended, and their replicas by session and id."""

        def load(
            conn: sa.Connection,
        ) -> tuple[dict[str, SessionRecord], dict[str, dict[str, ReplicaRecord]]]:
            live = SESSIONS.c.state != SessionState.ENDED.value
            rows = conn.execute(sa.select(SESSIONS.c.record).where(live))
            sessions = {s.id: s for s in (read_session(row.record) for row in rows)}
            replicas: dict[str, dict[str, ReplicaRecord]] = {key: {} for key in sessions}
            joined = sa.join(REPLICAS, SESSIONS, REPLICAS.c.session_id == SESSIONS.c.id)
            found = conn.execute(sa.select(REPLICAS.c.record).select_from(joined).where(live))
            for row in found:
                replica = read_replica(row.record)
                replicas[replica.session_id][replica.id] = replica
            return sessions, replicas

        return await self.database.read(load)

    async def load_ended(self, since: float, limit: int) -> list[SessionRecord]:
        """Return the sessions that ended last, oldest first.

        Args:
            since: Only those that ended after this time.
            limit: At most so many.
        """

        def load(conn: sa.Connection) -> list[SessionRecord]:
            rows = conn.execute(
                sa.select(SESSIONS.c.record)
                .where(SESSIONS.c.state == SessionState.ENDED.value, SESSIONS.c.ended_at > since)
                .order_by(SESSIONS.c.ended_at.desc())
                .limit(limit)
            )
            return [read_session(row.record) for row in rows][::-1]

        return await self.database.read(load)

    async def find_session(
        self, session_id: str
    ) -> tuple[SessionRecord, dict[str, ReplicaRecord]] | None:
        """Return a session with its replicas, whether it has ended or not; None where unknown."""

        def load(
            conn: sa.Connection,
        ) -> tuple[SessionRecord, dict[str, ReplicaRecord]] | None:
            text = conn.execute(
                sa.select(SESSIONS.c.record).where(SESSIONS.c.id == session_id)
            ).scalar_one_or_none()
            if text is None:
                return None
            rows = conn.execute(
                sa.select(REPLICAS.c.record).where(REPLICAS.c.session_id == session_id)
            )
            replicas = [read_replica(row.record) for row in rows]
            return read_session(text), {replica.id: replica for replica in replicas}

        return await self.database.read(load)

    async def create(
        self,
        entity: platform.InferenceSession,
        record: SessionRecord,
        *,
        now: datetime,
        request: RequestKey | None,
    ) -> tuple[platform.InferenceSession, bool]:
        """Add a session.

        Returns:
            The session, and whether it was made now; where the same request came before, what it
            made then.

        Raises:
            ServiceError: REQUEST_ID_REUSED.
        """

        def write(conn: sa.Connection) -> tuple[platform.InferenceSession, bool]:
            inserted = self.resources.insert(conn, SESSION_KIND, entity, now=now, request=request)
            if inserted.created:
                conn.execute(sa.insert(SESSIONS).values(**_session_row(record)))
            return inserted.entity, inserted.created

        return await self.feed.write(write)

    async def replay(self, request: RequestKey, now: datetime) -> platform.InferenceSession | None:
        """Return what the same request made before; None where it is new.

        Raises:
            ServiceError: REQUEST_ID_REUSED.
        """
        return await self.database.read(
            lambda conn: self.resources.replay(conn, SESSION_KIND, request, now=now)
        )

    async def get(self, session_id: str) -> platform.InferenceSession:
        """Return a session as people see it.

        Raises:
            ServiceError: INFERENCE_SESSION_NOT_FOUND.
        """
        return await self.database.read(
            lambda conn: self.resources.get(conn, SESSION_KIND, session_id)
        )

    async def modify(
        self,
        session_id: str,
        change: Callable[[platform.InferenceSession], platform.InferenceSession],
        now: datetime,
    ) -> platform.InferenceSession:
        """Change the resource of a session, but not its status.

        Raises:
            ServiceError: INFERENCE_SESSION_NOT_FOUND.
        """
        return await self.feed.write(
            lambda conn: self.resources.modify(conn, SESSION_KIND, session_id, change, now=now)
        )

    async def apply(
        self,
        *,
        sessions: Iterable[SessionRecord] = (),
        replicas: Iterable[ReplicaRecord] = (),
        forgotten: Iterable[str] = (),
        now: datetime,
    ) -> None:
        """Store what was decided, as one transaction, with the GPUs that replicas have.

        Args:
            sessions: Sessions that changed; their resources follow.
            replicas: Replicas that changed or are new.
            forgotten: The ids of replicas that are kept no longer.
            now: The time of the change.

        Raises:
            sqlalchemy.exc.IntegrityError: A GPU was to be given to two replicas, which is a
                defect; nothing of the decision is stored.
        """
        sessions, replicas, forgotten = list(sessions), list(replicas), list(forgotten)

        def write(conn: sa.Connection) -> None:
            for session in sessions:
                self._put_session(conn, session, now)
            for replica in replicas:
                _put_replica(conn, replica)
            # What is given back in this step may be given out in it.
            free_leases(conn, [*(r.id for r in replicas if not r.holds_node), *forgotten])
            put_leases(conn, replicas)
            if forgotten:
                conn.execute(sa.delete(REPLICAS).where(REPLICAS.c.id.in_(forgotten)))

        await self.feed.write(write)

    async def installation_id(self) -> str:
        """Return the id of this session manager's data, which is the issuer of its tokens."""

        def write(conn: sa.Connection) -> str:
            known = conn.execute(sa.select(INSTALLATION.c.id)).scalar_one_or_none()
            if known is not None:
                return str(known)
            made = uuid.uuid4().hex
            conn.execute(sa.insert(INSTALLATION).values(row=_ROW, id=made))
            return made

        return await self.database.write(write)

    async def routers(self) -> set[str]:
        """Return the routers that may have shares of limits."""
        return await self.database.read(
            lambda conn: {str(row.id) for row in conn.execute(sa.select(ROUTERS))}
        )

    async def add_router(self, router: str) -> None:
        """Remember that a router may have shares of limits. Idempotent."""

        def write(conn: sa.Connection) -> None:
            conn.execute(sa.delete(ROUTERS).where(ROUTERS.c.id == router))
            conn.execute(sa.insert(ROUTERS).values(id=router))

        await self.database.write(write)

    async def remove_router(self, router: str) -> None:
        """Remember that a router has no share of any limit. Idempotent."""
        await self.database.write(
            lambda conn: conn.execute(sa.delete(ROUTERS).where(ROUTERS.c.id == router))
        )

    async def replica_ids_since(self, since: float) -> frozenset[str]:
        """Return the replicas of sessions that live, or ended after a time: their logs are kept."""

        def load(conn: sa.Connection) -> frozenset[str]:
            joined = sa.join(REPLICAS, SESSIONS, REPLICAS.c.session_id == SESSIONS.c.id)
            recent = sa.or_(
                SESSIONS.c.state != SessionState.ENDED.value, SESSIONS.c.ended_at > since
            )
            rows = conn.execute(sa.select(REPLICAS.c.id).select_from(joined).where(recent))
            return frozenset(row.id for row in rows)

        return await self.database.read(load)

    async def maintain(self, now: datetime) -> None:
        """Forget old changes, old request ids and what was deleted long ago."""

        def write(conn: sa.Connection) -> None:
            self.resources.maintain(conn, now=now)
            gone = sa.select(SESSIONS.c.id).where(
                SESSIONS.c.state == SessionState.ENDED.value,
                ~sa.exists().where(RESOURCES.resources.c.id == SESSIONS.c.id),
            )
            replicas = sa.select(REPLICAS.c.id).where(REPLICAS.c.session_id.in_(gone))
            conn.execute(sa.delete(GPU_LEASES).where(GPU_LEASES.c.replica_id.in_(replicas)))
            conn.execute(sa.delete(REPLICAS).where(REPLICAS.c.session_id.in_(gone)))
            conn.execute(sa.delete(SESSIONS).where(SESSIONS.c.id.in_(gone)))

        await self.feed.write(write)

    def _put_session(self, conn: sa.Connection, session: SessionRecord, now: datetime) -> None:
        conn.execute(
            sa.update(SESSIONS).where(SESSIONS.c.id == session.id).values(**_session_row(session))
        )
        entity = self.resources.get(conn, SESSION_KIND, session.id)
        shown = (entity.status, entity.reason, entity.message)
        message = whole_message(session)
        wanted = (session.status, session.status_reason, message)
        if shown != wanted:
            changed = entity.model_copy(
                update={
                    "status": session.status,
                    "reason": session.status_reason,
                    "message": message,
                    "lastTransitionTime": now.astimezone(UTC),
                }
            )
            self.resources.update(conn, SESSION_KIND, changed, now=now)


def _session_row(session: SessionRecord) -> Mapping[str, object]:
    return {
        "id": session.id,
        "state": session.state.value,
        "ended_at": session.ended_at,
        "record": write_record(session),
    }


def _put_replica(conn: sa.Connection, replica: ReplicaRecord) -> None:
    row = {"session_id": replica.session_id, "record": write_record(replica)}
    done = conn.execute(sa.update(REPLICAS).where(REPLICAS.c.id == replica.id).values(**row))
    if done.rowcount == 0:
        conn.execute(sa.insert(REPLICAS).values(id=replica.id, **row))
