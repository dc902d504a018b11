"""Tells routers their shares of limits, as their words come and time passes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from google.protobuf import duration_pb2

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.limit_keys import account_limit_key, is_account_limit
from podbay_session_manager.live_state import LiveState
from podbay_session_manager.shares import TURN_SECONDS, ShareBook, Word
from podbay_session_manager.store import SessionStore

__all__ = ["ShareDesk", "limits_of"]

_LOG = logging.getLogger(__name__)
_TICK_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 2.0


def limits_of(
    state: LiveState, quotas: Mapping[str, int], named: Collection[str] = ()
) -> dict[str, int]:
    """Return the limits that routers share: of replicas, of sessions as a whole, and of accounts.

    Of the accounts with a quota, which may be many, only those are in it that may call: those that
    have a session, and those of which routers have spoken.

    Args:
        state: The sessions.
        quotas: How many calls of an account may run at once, where that is limited.
        named: The limits of accounts of which routers have spoken.
    """
    limits: dict[str, int] = {}
    accounts = {session.account for session in state.sessions.values()}
    for account, quota in quotas.items():
        key = account_limit_key(account)
        # Of 0 there is nothing to share.
        if quota > 0 and (account in accounts or key in named):
            limits[key] = quota
    for session_id, session in state.sessions.items():
        if session.serving.max_in_flight > 0:
            limits[session_id] = session.serving.max_in_flight
        if session.serving.max_concurrency > 0:
            for replica in state.replicas[session_id].values():
                if not replica.phase.ended:
                    limits[replica.id] = session.serving.max_concurrency
    return limits


class ShareDesk:
    """Keeps the book, and says when there is news.

    Args:
        store: Remembers which routers may have shares.
        state: The sessions.
        quotas: Returns how many calls of each account may run at once, where that is limited.
        lease: For how long shares hold without a further word, in seconds.
        now: A clock that only grows.
        leads: Whether this process leads at this moment: without that nobody gets anything.
    """

    def __init__(
        self,
        store: SessionStore,
        state: LiveState,
        quotas: Callable[[], Mapping[str, int]],
        lease: float,
        now: Callable[[], float],
        leads: Callable[[], bool],
    ) -> None:
        self._store = store
        self._state = state
        self._quotas = quotas
        self._now = now
        self._leads = leads
        self._lease = duration_pb2.Duration()
        self._lease.FromMilliseconds(round(lease * 1000))
        self._book = ShareBook(lease, now())
        self._known: set[str] = set()
        self._named: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._streams: dict[str, object] = {}
        self._plan: tuple[dict[str, dict[str, int]], bool] | None = None
        self.news = asyncio.Event()
        """Set when a share may have changed, and then replaced by another one."""

    async def load(self) -> None:
        """Read which routers an earlier session manager gave shares."""
        self._known = await self._store.routers()
        # Routers may have shares of each quota: which accounts they spoke of is not written down.
        quotas = self._quotas()
        limits = limits_of(self._state, quotas, {account_limit_key(name) for name in quotas})
        self._book = ShareBook(self._book.lease, self._now(), self._known, limits.keys())

    async def hear(self, request: pb.ShareLimitsRequest, stream: object) -> None:
        """Take a process's word.

        Args:
            request: The word.
            stream: On which stream it came.

        Raises:
            ServiceError: STORE_UNAVAILABLE or NOT_LEADER; the word was not taken.
        """
        if request.leaving:
            self._book.leave(request.worker_id)
        else:
            if request.router_id not in self._known:
                # Before it gets anything: a later session manager must know that it may have.
                await self._store.add_router(request.router_id)
                self._known.add(request.router_id)
                _LOG.info("router %.64s shares the limits", request.router_id)
            word = Word(
                router=request.router_id,
                worker=request.worker_id,
                workers=request.workers,
                kept=request.kept,
                held={use.id: use.held for use in request.uses},
                wanted={use.id: use.wanted for use in request.uses},
                sole=request.sole,
                usable={use.id: use.usable for use in request.uses},
            )
            self._named |= {
                use.id
                for use in request.uses
                if is_account_limit(use.id) and (use.held or use.wanted)
            }
            self._streams[request.worker_id] = stream
            self._book.hear(word, self._now())
        self._wake()

    def lose(self, worker: str, stream: object) -> None:
        """Note that a stream has ended; a process may have opened another one before."""
        if self._streams.get(worker) is stream:
            del self._streams[worker]
            self._book.lose(worker)
            self._wake()

    def response(
        self, router: str, worker: str, answered: int, last: pb.ShareLimitsResponse | None
    ) -> pb.ShareLimitsResponse | None:
        """Return what a process is to be told now; None where that is nothing new.

        Args:
            router: The router.
            worker: The process.
            answered: The number of its last request.
            last: What it was told last.
        """
        # Looked at before the plan: what is decided while this process leads may arrive late.
        # One that has left, or was silent for too long, is told nothing before its next word.
        if not self._leads() or not self._book.knows(worker):
            return None
        sole = self._book.is_sole(router)
        shares: Mapping[str, int] = {} if sole else self._shares().get(router, {})
        made = pb.ShareLimitsResponse(
            number=0 if last is None else last.number,
            answered=answered,
            lease=self._lease,
            sole=sole,
            accounts=True,
            shares=[pb.LimitShare(id=key, calls=calls) for key, calls in sorted(shares.items())],
        )
        if made == last:
            return None
        # Numbers go on where an earlier stream of the process has ended.
        made.number = self._numbers[worker] = self._numbers.get(worker, 0) + 1
        self._book.tell(worker, made.number, shares, sole=sole)
        return made

    async def tick(self) -> None:
        """Wait until time alone may have changed something, and say so."""
        turns = self._plan is not None and self._plan[1]
        began = self._now()
        await asyncio.sleep(TURN_SECONDS if turns else _TICK_SECONDS)
        before, now = self._book.routers, self._now()
        if now - began > _LATE_SECONDS:
            # What routers said meanwhile may not have been read yet.
            self._book.forgive(now)
        self._book.expire(now)
        for router in self._known - self._book.routers:
            await self._store.remove_router(router)
            self._known.discard(router)
        if turns or before != self._book.routers or len(before) > 1:
            self._wake()

    def _shares(self) -> dict[str, dict[str, int]]:
        if self._plan is None:
            limits = limits_of(self._state, self._quotas(), self._named)
            self._plan = self._book.plan(limits, self._now())
        return self._plan[0]

    def _wake(self) -> None:
        self._plan = None
        self.news.set()
        self.news = asyncio.Event()
