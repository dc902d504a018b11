"""The keys of session tokens at work: they sign, follow each other, and go.

A new key is told to the routers first, and signs once they have acknowledged it: no router meets a
token of a key that it does not know. An old key goes on to verify until the last token that it
signed has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from podbay.v1 import errors_pb2
from podbay.v1 import session_manager_service_pb2 as manager_pb2
from podbay_kit.clock import Clock
from podbay_kit.errors import ServiceError
from podbay_session_manager.key_plan import (
    SigningKeyRow,
    covered_until,
    plan_keys,
    signing_key,
)
from podbay_session_manager.key_store import KeyStore
from podbay_session_manager.records import SessionRecord
from podbay_session_manager.tokens import TokenSigner, make_key

__all__ = ["DEFAULT_KEY_AGE", "MAX_KEYS", "KeyRing"]

DEFAULT_KEY_AGE: Final = 30 * 24 * 3600.0
"""Seconds after which a key is followed by another."""
MAX_KEYS: Final = 32
"""The most keys that are kept: every router holds them all."""

_LONGEST_PAUSE: Final = 3600.0
# What a router that owes its word may take before it is gone on without.
_ROUTERS_SECONDS: Final = 15.0


class KeyRing:
    """Signs session tokens, and sees to the keys.

    Args:
        store: Where the keys are kept.
        issuer: The installation.
        clock: Where the time comes from.
        announce: Tells the routers all keys, and returns the revision that holds them.
        heard: Returns once the routers have a revision, or after so many seconds.
        max_age: Seconds after which a key is followed by another.
    """

    def __init__(
        self,
        store: KeyStore,
        issuer: str,
        clock: Clock,
        *,
        announce: Callable[[Sequence[manager_pb2.VerificationKey]], int],
        heard: Callable[[int, float], Awaitable[bool]],
        max_age: float = DEFAULT_KEY_AGE,
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._clock = clock
        self._announce = announce
        self._heard = heard
        self._max_age = max_age
        self._rows: dict[str, SigningKeyRow] = {}
        self._signer: TokenSigner | None = None
        self._changing = asyncio.Lock()
        self._work: set[asyncio.Task[Any]] = set()

    @property
    def keys(self) -> list[SigningKeyRow]:
        """The keys, newest first."""
        return sorted(self._rows.values(), key=lambda row: (-row.created_at, row.kid))

    @property
    def signing(self) -> SigningKeyRow:
        """The key that signs."""
        found = signing_key(self._rows.values())
        if found is None:
            raise LookupError("no key signs: the ring was not loaded")
        return found

    async def load(self) -> None:
        """Read the keys, and tell them; make the first where none signs.

        Before anybody serves: nobody has to hear of a first key before it signs.
        """
        now = self._now()
        rows = await self._store.load_or_add(lambda: replace(make_key(now), activated_at=now))
        self._rows = {row.kid: row for row in rows}
        self._use()

    async def sign(
        self,
        session: SessionRecord,
        now: datetime,
        expires: datetime | None = None,
        account: str = "",
    ) -> tuple[str, datetime]:
        """Return a token for the calls of a session, and when it ends; as `TokenSigner.sign`.

        Raises:
            ServiceError: INVALID_REQUEST or STORE_UNAVAILABLE.
        """
        while True:
            signer = self._signer
            if signer is None:
                raise LookupError("no key signs: the ring was not loaded")
            token, end = signer.sign(session, now, expires, account)
            # Before the token leaves: its key must be kept for as long as it.
            if await self._cover(signer.kid, end.timestamp()):
                return token, end
            if self._signer is signer:
                # Its key was removed from the store by somebody else.
                await self.load()

    async def rotate(self) -> None:
        """Make a new key, and sign by it once the routers know it.

        Raises:
            ServiceError: TOO_MANY_SIGNING_KEYS or STORE_UNAVAILABLE.
        """
        await self._whole(self._rotate())

    async def run(self) -> None:
        """Do what is due, once, and wait until more may be."""
        await self._whole(self._tend())
        now = self._now()
        following = plan_keys(self.keys, now, self._max_age).next_at
        pause = _LONGEST_PAUSE if following is None else following - now
        # A moment more, so that what is due then is due.
        await self._clock.sleep(min(_LONGEST_PAUSE, max(0.0, pause) + 0.01))

    async def close(self) -> None:
        """End what still runs; what it has begun, the next process finishes."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def _tend(self) -> None:
        async with self._changing:
            # What an earlier process had begun, or a caller that went away.
            for row in self.keys:
                if row.activated_at is None:
                    await self._activate(row)
            plan = plan_keys(self.keys, self._now(), self._max_age)
            if plan.remove:
                await self._store.remove(plan.remove)
                for kid in plan.remove:
                    del self._rows[kid]
                self._use()
        if plan.make and len(self._rows) < MAX_KEYS:
            await self._rotate()

    async def _rotate(self) -> None:
        async with self._changing:
            if len(self._rows) >= MAX_KEYS:
                raise _too_many()
            key = make_key(self._now())
            await self._store.add(key)
            self._rows[key.kid] = key
            await self._activate(key)

    async def _activate(self, row: SigningKeyRow) -> None:
        revision = self._use()
        await self._heard(revision, _ROUTERS_SECONDS)
        now = self._now()
        # Never before the one that signs: the clock may have gone back.
        latest = self.signing.activated_at or 0.0
        activated = replace(row, activated_at=max(now, latest + 1e-3))
        await self._store.activate(row.kid, activated.activated_at or now)
        self._rows[row.kid] = replace(activated, verifies_until=self._rows[row.kid].verifies_until)
        self._use()

    def _use(self) -> int:
        """Sign by the key that signs, and tell the routers all of them."""
        signs = self.signing
        others = [row for row in self.keys if row is not signs]
        self._signer = TokenSigner(self._issuer, [signs, *others])
        return self._announce(self._signer.verification_keys)

    async def _cover(self, kid: str, end: float) -> bool:
        """Keep a key until a time; say whether it is still there."""
        row = self._rows.get(kid)
        if row is None:
            return False
        if end <= row.verifies_until:
            return True
        until = covered_until(end)
        if not await self._store.extend(kid, until):
            return False
        row = self._rows.get(kid)
        if row is None:
            return False
        self._rows[kid] = replace(row, verifies_until=max(row.verifies_until, until))
        return True

    async def _whole(self, work: Coroutine[Any, Any, None]) -> None:
        """Do all of it, also where the caller goes away."""
        task = asyncio.get_running_loop().create_task(work, name="change-keys")
        self._work.add(task)
        task.add_done_callback(self._done)
        await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            # Where the caller went away, nobody asks for it any more.
            task.exception()

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _too_many() -> ServiceError:
    return ServiceError(
        errors_pb2.ERROR_REASON_TOO_MANY_SIGNING_KEYS,
        f"There are {MAX_KEYS} keys already, which is the most: the tokens of earlier ones have "
        "not all ended. Rotate again when one is gone (podbay key list shows when), or revoke the "
        "tokens of single sessions (podbay session revoke-tokens).",
        metadata={"keys": str(MAX_KEYS)},
    )
