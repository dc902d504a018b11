"""Asks the session manager for shares of limits, for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import grpc

from podbay.schema.identities import SESSION_MANAGER
from podbay.v1.session_manager_service_pb2 import (
    LimitUse,
    ShareLimitsRequest,
    ShareLimitsResponse,
)
from podbay.v1.session_manager_service_pb2_grpc import SessionManagerServiceStub
from podbay_inference_router.leaders import Leaders, leader_of
from podbay_inference_router.shares import LimitShares
from podbay_inference_router.watch import CHANNEL_OPTIONS, pause_after
from podbay_kit.service_link import ServiceLink

if TYPE_CHECKING:
    from podbay_kit.tls_files import LiveTls

__all__ = ["ShareLink", "Use", "boot_seconds"]

_LOG = logging.getLogger(__name__)
# A word comes this often within the time for which shares hold.
_WORDS: Final = 4
_FIRST_LEASE: Final = 4.0
# Every word is answered at once. Of the time for which shares hold, what is left after a silence
# must be enough to find the session manager that leads since.
_PATIENCE: Final = 0.4
_FIRST_PATIENCE: Final = 5.0
# The second word on a stream waits for so long for the answer to the first, which comes at once.
_FIRST_ANSWER_SECONDS: Final = 1.0
_COALESCE_SECONDS: Final = 0.01
# How often it is looked whether less is wanted than was said.
_LOOK_SECONDS: Final = 0.25


def boot_seconds() -> float:
    """Return seconds that also grow while the machine sleeps, where it tells them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Use(NamedTuple):
    """What this process has and wants of a limit."""

    held: int
    """What all processes of the router may have running by what this one holds."""
    wanted: int
    """How many calls it has that run or wait."""
    more: bool = False
    """Whether it holds more than it was given last, as calls run that were begun before."""
    usable: int = 0
    """What all processes of the router may begin to have by what it was given."""


class ShareLink:
    """Tells the session manager what this process has and wants, and takes its shares.

    Args:
        endpoints: The session managers' "host:port", by commas.
        token: The token of the services; None where there is a certificate.
        router: The id of this router.
        workers: How many processes it has.
        shares: Where the shares are kept.
        uses: Returns what this process has and wants, by limit.
        on_change: Called when what may be used has changed.
        certificate: The router's certificate; None for plain text.
    """

    def __init__(
        self,
        endpoints: str,
        token: str | None,
        router: str,
        workers: int,
        shares: LimitShares,
        uses: Callable[[], Mapping[str, Use]],
        on_change: Callable[[], None],
        *,
        certificate: LiveTls | None = None,
    ) -> None:
        self._leaders = Leaders(endpoints)
        self._token = token
        self._certificate = certificate
        self._router = router
        self._worker = uuid.uuid4().hex
        self._workers = workers
        self._shares = shares
        self._uses = uses
        self._on_change = on_change
        self._lease = _FIRST_LEASE
        self._patience = _FIRST_PATIENCE
        self._sent: dict[int, float] = {}
        self._number = 0
        self._failures = 0
        self._leaving = False
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self.settled = asyncio.Event()
        """Set once it is known what may be used, or that nobody tells."""
        self._left = asyncio.Event()

    def want(self) -> None:
        """Tell soon what is wanted: calls wait for more."""
        self._wake.set()

    async def leave(self, patience: float) -> None:
        """Tell that this process uses nothing any more, for others to have it at once.

        Args:
            patience: How long that may take, in seconds.
        """
        self._leaving = True
        self._wake.set()
        self._heard.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._left.wait()

    async def run(self) -> None:
        """Ask until cancelled."""
        while not self._leaving:
            endpoint = self._leaders.endpoint
            began = boot_seconds()
            link = ServiceLink(
                endpoint,
                SESSION_MANAGER,
                SessionManagerServiceStub,
                options=CHANNEL_OPTIONS,
                certificate=self._certificate,
                service_token=self._token,
            )
            try:
                await self._talk(link)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self._shares.unshared()
                    self.settled.set()
                    self._on_change()
                    return
                self._note_failure(error, endpoint, began)
            except TimeoutError:
                self._note_failed(endpoint, began, "it is silent")
            finally:
                await link.close()
            self._failures += 1
            await asyncio.sleep(pause_after(1 + self._failures // self._leaders.count))

    async def _talk(self, link: ServiceLink) -> None:
        self._shares.begin_stream(boot_seconds())
        self._sent.clear()
        if not self._leaving:
            self._heard.clear()
        answers = link.stub.ShareLimits(self._requests(), metadata=link.metadata)
        try:
            while True:
                async with asyncio.timeout(self._patience):
                    answer = await answers.read()
                if not isinstance(answer, ShareLimitsResponse):
                    # The end; a status that is an error was raised.
                    return
                self._take(answer)
        finally:
            answers.cancel()

    def _take(self, answer: ShareLimitsResponse) -> None:
        self._failures = 0
        self._heard.set()
        self._lease = answer.lease.ToMilliseconds() / 1000
        self._patience = _PATIENCE * self._lease
        sent = self._sent.get(answer.answered, float("-inf"))
        self._sent = {key: at for key, at in self._sent.items() if key >= answer.answered}
        changed = self._shares.take(
            answer.number,
            {share.id: share.calls for share in answer.shares},
            sent + self._lease,
            boot_seconds(),
            sole=answer.sole,
            accounts=answer.accounts,
        )
        self.settled.set()
        if changed:
            # The session manager waits for the word that less is held.
            self._wake.set()
            self._on_change()

    async def _requests(self) -> AsyncIterator[ShareLimitsRequest]:
        told: dict[str, tuple[int, int, int]] | None = None
        kept = -1
        while True:
            self._wake.clear()
            uses = self._uses()
            now = {key: (use.held, use.wanted, use.usable) for key, use in uses.items()}
            due = told is None or now != told or kept != self._shares.kept
            if due or self._leaving or self._is_quiet():
                told, kept = now, self._shares.kept
                yield self._request(uses)
                if self._leaving:
                    self._left.set()
                    return
                # What is written while one who does not lead ends the stream would hide who does:
                # https://github.com/grpc/grpc/issues/36066
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FIRST_ANSWER_SECONDS):
                        await self._heard.wait()
                await asyncio.sleep(_COALESCE_SECONDS)
            pause = _LOOK_SECONDS
            if self._shares.sole:
                pause = self._lease / _WORDS
            elif any(use.more for use in uses.values()):
                pause = _COALESCE_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _is_quiet(self) -> bool:
        """Whether a sign of life is due."""
        last = max(self._sent.values(), default=float("-inf"))
        return boot_seconds() - last >= 0.9 * self._lease / _WORDS

    def _request(self, uses: Mapping[str, Use]) -> ShareLimitsRequest:
        self._number += 1
        self._sent[self._number] = boot_seconds()
        return ShareLimitsRequest(
            router_id=self._router,
            worker_id=self._worker,
            workers=self._workers,
            number=self._number,
            kept=self._shares.kept,
            leaving=self._leaving,
            sole=self._shares.sole,
            uses=[
                LimitUse(id=key, held=use.held, wanted=use.wanted, usable=use.usable)
                for key, use in uses.items()
            ],
        )

    def _note_failure(self, error: grpc.aio.AioRpcError, endpoint: str, began: float) -> None:
        leader = leader_of(error)
        if leader and self._leaders.follow(leader):
            return
        self._note_failed(endpoint, began, error.code().name)

    def _note_failed(self, endpoint: str, began: float, why: str) -> None:
        self._leaders.failed(endpoint)
        if self._failures == 0:
            _LOG.info("the session manager at %s gives no shares (%s)", endpoint, why)
        # All were asked, and none could be reached.
        if self._failures + 1 >= self._leaders.count:
            if self._shares.unreachable(began):
                self._on_change()
            self.settled.set()
