"""Which limits the session manager shares out, and whom it tells of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.limit_keys import account_limit_key
from podbay_kit.quotas import Quota
from podbay_session_manager.quota_book import QuotaBook
from podbay_session_manager.share_desk import ShareDesk, limits_of

ACCOUNT = account_limit_key("acme")
LEASE = 5.0


class Store:
    """Remembers routers and quotas."""

    def __init__(self, quotas: dict[str, tuple[Quota, int]] | None = None) -> None:
        self.known: set[str] = set()
        self._quotas = quotas or {}

    async def routers(self) -> set[str]:
        return set(self.known)

    async def add_router(self, router: str) -> None:
        self.known.add(router)

    async def load(self) -> dict[str, tuple[Quota, int]]:
        return self._quotas


def session(account: str, **serving: int) -> Any:
    return SimpleNamespace(
        account=account, serving=SimpleNamespace(**{"max_in_flight": 0, **serving})
    )


def state(**sessions: Any) -> Any:
    for known in sessions.values():
        vars(known.serving).setdefault("max_concurrency", 0)
    table = SimpleNamespace(put_limit=lambda account, limit: True)
    return SimpleNamespace(
        sessions=sessions,
        replicas={name: {} for name in sessions},
        announcer=SimpleNamespace(table=table),
    )


class World:
    """A desk with a clock that the test moves."""

    def __init__(self, quotas: dict[str, int]) -> None:
        self.now = 0.0
        self.store: Any = Store()
        self.desk = ShareDesk(
            self.store,
            state(s=session("acme")),
            lambda: quotas,
            LEASE,
            lambda: self.now,
            lambda: True,
        )

    async def say(
        self, worker: str, number: int = 1, *, leaving: bool = False, **uses: int
    ) -> None:
        router = worker.split("-", maxsplit=1)[0]
        request = pb.ShareLimitsRequest(
            router_id=router,
            worker_id=worker,
            workers=2,
            number=number,
            leaving=leaving,
            uses=[pb.LimitUse(id=f"account {name}", wanted=most) for name, most in uses.items()],
        )
        await self.desk.hear(request, self)

    def told(self, worker: str) -> dict[str, int] | None:
        answer = self.desk.response(worker.split("-", maxsplit=1)[0], worker, 1, None)
        return None if answer is None else {share.id: share.calls for share in answer.shares}


async def test_a_quota_that_limits_nothing_but_calls_is_shared() -> None:
    quotas = {
        "acme": (Quota(requests_in_flight=6), 1),
        "beta": (Quota(sessions=2), 2),
        "none": (Quota(requests_in_flight=0), 3),
    }
    known = state(s=session("acme"), t=session("beta"), u=session("none"))
    registry: Any = None
    clock: Any = None
    store: Any = Store(quotas)
    book = QuotaBook(registry, store, known, clock, lambda: None)
    await book.load()
    assert book.in_flight == {"acme": 6, "none": 0}
    # Nobody may have any of 0, and no share tells that better than the quota itself.
    assert limits_of(known, book.in_flight) == {ACCOUNT: 6}


async def test_accounts_without_a_session_are_shared_once_a_router_has_spoken_of_them() -> None:
    world = World({"acme": 6, "guest": 4, "idle": 2})
    await world.say("a-0")
    await world.say("b-0")
    assert world.told("a-0") == {ACCOUNT: 3}
    await world.say("a-0", 2, guest=9)
    assert world.told("a-0") == {ACCOUNT: 3, account_limit_key("guest"): 3}


async def test_a_process_that_has_left_or_was_silent_is_told_nothing() -> None:
    world = World({"acme": 6})
    for worker in ("a-0", "a-1", "b-0"):
        await world.say(worker)
    await world.say("a-0", 2, leaving=True)
    assert world.told("a-0") is None
    assert world.told("a-1") == {ACCOUNT: 3}
    world.now = 0.9 * LEASE
    await world.say("b-0", 2)
    await world.say("a-0", 3)
    world.now = 1.5 * LEASE
    world.desk._book.expire(world.now)  # as its tick does
    assert world.told("a-1") is None
    assert world.told("a-0") == {ACCOUNT: 3}
    await world.say("a-1", 2)
    assert world.told("a-1") == {ACCOUNT: 3}
