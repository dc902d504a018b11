"""How much accounts may have: the registry says so, and its last word holds while it is away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Final

from podbay.v1 import account_pb2
from podbay_kit.clock import Clock
from podbay_kit.quotas import Quota, quota_of
from podbay_session_manager.live_state import LiveState
from podbay_session_manager.quota_store import KnownQuota, QuotaStore
from podbay_session_manager.registry_client import RegistryClient, RegistryUnavailableError

__all__ = ["QuotaBook"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 2.0
_UNTOLD: Final[KnownQuota] = (Quota(), 0)


class QuotaBook:
    """Knows the quotas of accounts.

    Args:
        registry: Tells them.
        store: Keeps what it told.
        state: Held still while a quota changes; tells routers their part of it.
        clock: Where the time comes from.
        hint: Told when quotas have changed.
    """

    def __init__(
        self,
        registry: RegistryClient,
        store: QuotaStore,
        state: LiveState,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._state = state
        self._clock = clock
        self._hint = hint
        self._known: dict[str, KnownQuota] = {}
        self._asked: set[str] = set()
        self._quotas: dict[str, Quota] = {}
        self._in_flight: dict[str, int] = {}
        self._away = False

    @property
    def quotas(self) -> Mapping[str, Quota]:
        """The quotas of the accounts that have limits on sessions."""
        return self._quotas

    @property
    def in_flight(self) -> Mapping[str, int]:
        """How many calls of an account may run at once, of the accounts that have such a limit."""
        return self._in_flight

    def of(self, account: str) -> KnownQuota:
        """Return the quota of an account, and the registry's revision of it; 0 for none."""
        return self._known.get(account, _UNTOLD)

    async def load(self) -> None:
        """Read what was told before.

        Raises:
            ServiceError: STORE_UNAVAILABLE.
        """
        self._known = await self._store.load()
        self._look()
        table = self._state.announcer.table
        for account, (quota, _) in self._known.items():
            table.put_limit(account, quota.requests_in_flight)

    async def run(self) -> None:
        """Follow what the registry tells, for ever."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with aclosing(self._registry.watch_quotas()) as told:
                    async for news in told:
                        if self._away:
                            _LOG.info("the registry tells the quotas of accounts again")
                        self._away, pause = False, _FIRST_PAUSE
                        await self._take(news.quotas, snapshot=news.snapshot)
            except RegistryUnavailableError as error:
                if not self._away:
                    _LOG.warning(
                        "the registry does not tell the quotas of accounts (%s): going on with "
                        "those known",
                        error,
                    )
                self._away = True
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def ensure(self, account: str) -> None:
        """Ask for the quota of an account that nothing was told of, once.

        A change of it comes by itself; but an account may be so new that this did not come yet.
        Where the registry cannot be asked, what is known holds.

        Raises:
            ServiceError: ACCOUNT_NOT_FOUND or STORE_UNAVAILABLE.
        """
        if account in self._known or account in self._asked:
            return
        try:
            told = await self._registry.get_quota(account)
        except RegistryUnavailableError as error:
            _LOG.warning("the quota of a new account is not known (%s)", error)
            return
        self._asked.add(account)
        if told.revision:
            await self._take([told], snapshot=False)

    async def _take(self, told: Iterable[account_pb2.QuotaOfAccount], *, snapshot: bool) -> None:
        given = {each.account: (quota_of(each.quota), each.revision) for each in told}
        async with self._state.deciding:
            # What was asked for may be older than what was told meanwhile.
            changed = {
                account: known
                for account, known in given.items()
                if snapshot or known[1] > self.of(account)[1]
            }
            after = changed if snapshot else {**self._known, **changed}
            if after == self._known:
                return
            await self._store.put(changed, replace=snapshot)
            before, self._known = self._known, after
            self._look()
        announcer = self._state.announcer
        for account in before.keys() | changed.keys():
            limit = after.get(account, _UNTOLD)[0].requests_in_flight
            if announcer.table.put_limit(account, limit):
                announcer.acks.publish(self._clock.monotonic())
        self._hint()

    def _look(self) -> None:
        self._quotas = {
            account: quota for account, (quota, _) in self._known.items() if quota.limits
        }
        self._in_flight = {
            account: quota.requests_in_flight
            for account, (quota, _) in self._known.items()
            if quota.requests_in_flight is not None
        }
