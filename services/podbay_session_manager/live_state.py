"""The sessions that live, in memory: the same as in the store, which is always written first.

One process writes a store, so that what is in memory is true. Sessions that have ended are only
in the store: a long history costs a pass nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from podbay.schema import platform
from podbay.v1 import session_manager_service_pb2 as manager_pb2
from podbay_kit.clock import Clock
from podbay_kit.resources import RequestKey
from podbay_session_manager.announcer import Announcer
from podbay_session_manager.call_failures import CallFailures
from podbay_session_manager.machine import SessionState
from podbay_session_manager.records import ReplicaRecord, SessionRecord
from podbay_session_manager.replica_reports import ReplicaReports
from podbay_session_manager.router_usage import RouterUsage
from podbay_session_manager.store import SessionStore

__all__ = ["LiveState"]

T = TypeVar("T")

_ENDED_ROUTES_SECONDS = 600.0
_ENDED_ROUTES = 1000


class LiveState:
    """Sessions and replicas as they are stored, and who must be told of a change.

    Args:
        store: The store.
        announcer: Tells routers.
        clock: Where the time comes from.
    """

    def __init__(self, store: SessionStore, announcer: Announcer, clock: Clock) -> None:
        self.store = store
        self.announcer = announcer
        self.clock = clock
        self.deciding = asyncio.Lock()
        """Held from reading what is until the decision about it is stored."""
        self.revision = 0
        """Grows with every change."""
        self.reports = ReplicaReports()
        """What routers tell of replicas whose calls fail."""
        self.usage = RouterUsage()
        """What routers tell of the calls that run."""
        self.call_failures = CallFailures()
        """What routers tell of the calls that failed."""
        self._sessions: dict[str, SessionRecord] = {}
        self._replicas: dict[str, dict[str, ReplicaRecord]] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._changes: set[asyncio.Task[Any]] = set()
        self._heard = asyncio.Event()

    @property
    def sessions(self) -> Mapping[str, SessionRecord]:
        """The sessions that have not ended."""
        return self._sessions

    @property
    def replicas(self) -> Mapping[str, Mapping[str, ReplicaRecord]]:
        """Their replicas, by session and id."""
        return self._replicas

    def replica(self, session_id: str, replica_id: str) -> ReplicaRecord | None:
        """Return a replica of a session that lives."""
        return self._replicas.get(session_id, {}).get(replica_id)

    def holders(self) -> dict[str, list[ReplicaRecord]]:
        """Return the replicas that have a place on a node, by node."""
        found: dict[str, list[ReplicaRecord]] = {}
        for of_session in self._replicas.values():
            for replica in of_session.values():
                if replica.holds_node:
                    found.setdefault(replica.node, []).append(replica)
        return found

    async def load(self) -> None:
        """Read the store, and restore the routes."""
        now = self.clock.now().timestamp()
        monotonic = self.clock.monotonic()
        for ended in await self.store.load_ended(now - _ENDED_ROUTES_SECONDS, _ENDED_ROUTES):
            self.announcer.update(ended, {}, now, monotonic)
        self._sessions, self._replicas = await self.store.load_live()
        if self._sessions or await self.store.load_ended(0.0, 1):
            # Routers may have the routes of an earlier session manager, and none of new sessions.
            self.announcer.acks.expect_reconnects(monotonic)
        for session in self._sessions.values():
            self.announcer.restore(session, self._replicas[session.id], now, monotonic)
        # Revisions of an earlier process are smaller.
        self.revision = self.announcer.table.revision

    async def find(self, session_id: str) -> tuple[SessionRecord, Mapping[str, ReplicaRecord]]:
        """Return a session, whether it lives or has ended.

        Raises:
            ServiceError: INFERENCE_SESSION_NOT_FOUND.
        """
        session = self._sessions.get(session_id)
        if session is not None:
            return session, self._replicas[session_id]
        found = await self.store.find_session(session_id)
        if found is None:
            # Raises, with the text that all kinds of resources have.
            await self.store.get(session_id)
            raise LookupError(f"session {session_id} has a resource and no record")
        return found

    async def create(
        self,
        entity: platform.InferenceSession,
        record: SessionRecord,
        request: RequestKey | None,
    ) -> platform.InferenceSession:
        """Add a session; where the same request came before, return what it made then.

        Raises:
            ServiceError: REQUEST_ID_REUSED.
        """
        return await self._whole(self._create(entity, record, request))

    async def change(
        self, session_id: str, step: Callable[[SessionRecord, float], SessionRecord]
    ) -> SessionRecord:
        """Change a session with a pure function, as one step.

        Args:
            session_id: The session.
            step: From the session and the time, in seconds since 1970, to the changed session.

        Raises:
            ServiceError: INFERENCE_SESSION_NOT_FOUND.
        """
        return await self._whole(self._change(session_id, step))

    async def commit(
        self,
        *,
        sessions: Iterable[SessionRecord] = (),
        replicas: Iterable[ReplicaRecord] = (),
        forgotten: Mapping[str, str] | None = None,
    ) -> None:
        """Store what was decided, then remember it, and tell. To be called while `deciding`.

        Args:
            sessions: Sessions that changed.
            replicas: Replicas that changed or are new.
            forgotten: The sessions of replicas that are kept no longer, by the replica's id.
        """
        sessions, replicas, forgotten = list(sessions), list(replicas), forgotten or {}
        await self.store.apply(
            sessions=sessions, replicas=replicas, forgotten=forgotten, now=self.clock.now()
        )
        self._remember(sessions, replicas, forgotten)

    def settle(self) -> bool:
        """Take note of what has reached the routers; say whether that changed anything."""
        self._heard.set()
        self._heard = asyncio.Event()
        changed = self.announcer.settle(self.clock.monotonic())
        for session_id in changed:
            self.notify(session_id)
        return bool(changed)

    async def routers_have(self, revision: int, seconds: float, *, expected: bool = True) -> bool:
        """Wait until the routers serve by a revision of the routes.

        Args:
            revision: The revision.
            seconds: How long to wait at most. A router that owes its word for long is not waited
                for.
            expected: Whether to wait for routers, too, that watched an earlier session manager and
                are not back yet.

        Returns:
            Whether all that watch have said that they do.
        """
        acks = self.announcer.acks
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        settled = acks.settled if expected else acks.heard
        while not settled(revision, self.clock.monotonic()):
            left = deadline - loop.time()
            if left <= 0:
                break
            now = self.clock.monotonic()
            due = acks.next_change(now)
            if due is not None:
                left = min(left, max(0.0, due - now) + 0.01)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._heard.wait()
        return acks.unanimous(revision, self.clock.monotonic())

    def announce_keys(self, keys: Sequence[manager_pb2.VerificationKey]) -> int:
        """Tell routers the keys of session tokens, and return the revision that has them."""
        return self.announcer.announce_keys(keys, self.clock.monotonic())

    @contextlib.contextmanager
    def watch(self, session_id: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the session's status may have changed."""
        event = asyncio.Event()
        watchers = self._watchers.setdefault(session_id, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(session_id, None)

    def notify(self, session_id: str) -> None:
        """Tell those who watch a session."""
        self.revision += 1
        for event in self._watchers.get(session_id, ()):
            event.set()

    async def _create(
        self,
        entity: platform.InferenceSession,
        record: SessionRecord,
        request: RequestKey | None,
    ) -> platform.InferenceSession:
        async with self.deciding:
            made, created = await self.store.create(
                entity, record, now=self.clock.now(), request=request
            )
            if created:
                self._remember([record], [], {})
        return made

    async def _change(
        self, session_id: str, step: Callable[[SessionRecord, float], SessionRecord]
    ) -> SessionRecord:
        async with self.deciding:
            before, _ = await self.find(session_id)
            after = step(before, self.clock.now().timestamp())
            if after != before:
                await self.commit(sessions=[after])
            return after

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do all of it, also where the caller goes away: what is stored must be remembered."""
        task = asyncio.get_running_loop().create_task(work, name="change-session")
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            # Where the caller went away, nobody asks for it any more.
            task.exception()

    def _remember(
        self,
        sessions: Iterable[SessionRecord],
        replicas: Iterable[ReplicaRecord],
        forgotten: Mapping[str, str],
    ) -> None:
        touched: dict[str, SessionRecord] = {}
        for session in sessions:
            touched[session.id] = session
            self._sessions[session.id] = session
            self._replicas.setdefault(session.id, {})
        for replica in replicas:
            self._replicas[replica.session_id][replica.id] = replica
            touched[replica.session_id] = self._sessions[replica.session_id]
        for replica_id, session_id in forgotten.items():
            self._replicas.get(session_id, {}).pop(replica_id, None)
            self.announcer.forget(replica_id)
            self.reports.forget(replica_id)
        now, monotonic = self.clock.now().timestamp(), self.clock.monotonic()
        for session in touched.values():
            self.announcer.update(session, self._replicas[session.id], now, monotonic)
            if session.state is SessionState.ENDED:
                for replica_id in self._replicas.pop(session.id):
                    self.announcer.forget(replica_id)
                    self.reports.forget(replica_id)
                del self._sessions[session.id]
        for session_id in touched:
            self.notify(session_id)
        self.settle()
