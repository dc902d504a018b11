"""Whom the session manager tells of its share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from podbay.v1 import session_manager_service_pb2 as pb
from podbay_session_manager.share_desk import ShareDesk

LEASE = 5.0


class Store:
    """Remembers routers."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    async def routers(self) -> set[str]:
        return set(self.known)

    async def add_router(self, router: str) -> None:
        self.known.add(router)


class World:
    """A desk with a session of six calls at once, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        store: Any = Store()
        session = SimpleNamespace(
            account="acme", serving=SimpleNamespace(max_in_flight=6, max_concurrency=0)
        )
        state: Any = SimpleNamespace(
            sessions={"s": session},
            replicas={"s": {}},
            announcer=SimpleNamespace(table=SimpleNamespace(put_limit=lambda *_: True)),
        )
        self.desk = ShareDesk(store, state, LEASE, lambda: self.now, lambda: True)

    async def say(self, worker: str, number: int = 1, *, leaving: bool = False) -> None:
        request = pb.ShareLimitsRequest(
            router_id=worker.split("-", maxsplit=1)[0],
            worker_id=worker,
            workers=2,
            number=number,
            leaving=leaving,
        )
        await self.desk.hear(request, self)

    def told(self, worker: str) -> dict[str, int] | None:
        answer = self.desk.response(worker.split("-", maxsplit=1)[0], worker, 1, None)
        return None if answer is None else {share.id: share.calls for share in answer.shares}


async def test_a_process_that_has_left_or_was_silent_is_told_nothing() -> None:
    world = World()
    for worker in ("a-0", "a-1", "b-0"):
        await world.say(worker)
    await world.say("a-0", 2, leaving=True)
    assert world.told("a-0") is None
    assert world.told("a-1") == {"s": 3}
    world.now = 0.9 * LEASE
    await world.say("b-0", 2)
    await world.say("a-0", 3)
    world.now = 1.5 * LEASE
    world.desk._book.expire(world.now)  # as its tick does
    assert world.told("a-1") is None
    assert world.told("a-0") == {"s": 3}
    await world.say("a-1", 2)
    assert world.told("a-1") == {"s": 3}
