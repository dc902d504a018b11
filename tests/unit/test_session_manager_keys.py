"""Keys of session tokens: when they are made, how they follow each other, and when they go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podbay.v1 import errors_pb2
from podbay.v1 import session_manager_service_pb2 as pb
from podbay_kit.errors import ServiceError
from podbay_kit.storage import Database, migrate, sqlite_url
from podbay_session_manager.key_plan import (
    COVERED_SECONDS,
    SigningKeyRow,
    covered_until,
    plan_keys,
    signing_key,
)
from podbay_session_manager.key_ring import MAX_KEYS, KeyRing
from podbay_session_manager.key_store import KeyStore
from podbay_session_manager.route_acks import RouteAcks
from podbay_session_manager.routes import RouteTable
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.unit.test_session_manager_parts import SESSION

DAY = 24 * 3600.0


def row(
    kid: str, *, at: float | None = 0.0, until: float = 0.0, made: float = 0.0
) -> SigningKeyRow:
    return SigningKeyRow(kid, b"k" * 32, made, at, until)


def test_the_last_that_began_signs() -> None:
    keys = [row("c", at=None, made=9), row("b", at=5, made=5), row("a", at=1, made=1)]
    assert signing_key(keys) == keys[1]
    assert signing_key(keys[:1]) is None


def test_a_key_is_followed_by_another_when_it_is_old() -> None:
    keys = [row("a", at=0)]
    assert plan_keys(keys, 10, 100) == plan_keys(keys, 99, 100)
    assert plan_keys(keys, 99, 100).next_at == 100
    assert plan_keys(keys, 100, 100).make
    # Not a third one while the second is being told to the routers.
    assert not plan_keys([row("b", at=None), *keys], 100, 100).make


def test_a_key_goes_with_the_last_token_that_it_signed() -> None:
    keys = [row("b", at=50), row("a", at=0, until=200)]
    plan = plan_keys(keys, 200, 1e9)
    assert (plan.make, plan.remove) == (False, ())
    assert plan.next_at is not None
    assert plan_keys(keys, plan.next_at, 1e9).remove == ("a",)
    # The one that signs stays, whatever it has signed.
    assert plan_keys([row("a", at=0, until=1)], 1e8, 1e9).remove == ()


@given(st.floats(0, 4e9))
def test_what_is_written_down_covers_the_token(end: float) -> None:
    assert end < covered_until(end) <= end + COVERED_SECONDS + 1


_KEYS = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(0, 100)), st.floats(0, 300)), min_size=1, max_size=6
)


@given(_KEYS, st.floats(0, 400), st.floats(1, 100))
def test_no_plan_removes_what_is_needed(
    given_keys: list[tuple[float | None, float]], now: float, age: float
) -> None:
    keys = [row(f"k{i}", at=at, until=until) for i, (at, until) in enumerate(given_keys)]
    plan = plan_keys(keys, now, age)
    by_kid = {key.kid: key for key in keys}
    signs = signing_key(keys)
    for kid in plan.remove:
        assert by_kid[kid] is not signs
        assert by_kid[kid].activated_at is not None
        assert by_kid[kid].verifies_until < now
    assert plan.next_at is None or plan.next_at > now


# The ring.


class Routers:
    """Stand for the routers: they hear of keys, and say so when they are let."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def announce(self, keys: Sequence[pb.VerificationKey]) -> int:
        self.told.append([key.kid for key in keys])
        return len(self.told)

    async def heard(self, _revision: int, _seconds: float) -> bool:
        await self.may_answer.wait()
        return True


class Rig:
    """A ring over a real store."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.store = KeyStore(database)
        self.clock = clock
        self.routers = Routers()

    async def ring(self, max_age: float = 30 * DAY) -> KeyRing:
        made = KeyRing(
            self.store,
            "issuer",
            self.clock,
            announce=self.routers.announce,
            heard=self.routers.heard,
            max_age=max_age,
        )
        await made.load()
        return made

    async def sign(self, ring: KeyRing, hours: float) -> tuple[str, float]:
        now = self.clock.now()
        session = replace(SESSION, expires=None)
        token, end = await ring.sign(session, now, now + timedelta(hours=hours))
        return str(jwt.get_unverified_header(token)["kid"]), end.timestamp()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    url = sqlite_url(tmp_path / "db")
    migrate(url, "podbay_session_manager")
    database = Database(url)
    yield Rig(database, FakeClock())
    await database.close()


async def test_the_first_key_signs_at_once_and_stays(rig: Rig) -> None:
    first = await rig.ring()
    kid, _ = await rig.sign(first, 1)
    assert rig.routers.told == [[kid]]
    again = await rig.ring()
    assert (await rig.sign(again, 1))[0] == kid


async def test_a_new_key_signs_only_once_the_routers_know_it(rig: Rig) -> None:
    ring = await rig.ring()
    old, _ = await rig.sign(ring, 1)
    rig.routers.may_answer.clear()
    turning = asyncio.ensure_future(ring.rotate())
    await eventually(lambda: len(rig.routers.told) == 2, "the routers are told")
    assert len(rig.routers.told[-1]) == 2, "told before it signs"
    assert (await rig.sign(ring, 1))[0] == old
    rig.routers.may_answer.set()
    await turning
    new, _ = await rig.sign(ring, 1)
    assert new != old
    assert set(rig.routers.told[-1]) == {new, old}
    assert (await rig.sign(await rig.ring(), 1))[0] == new, "as after a restart"


async def test_what_a_caller_or_a_process_left_is_finished(rig: Rig) -> None:
    ring = await rig.ring()
    old, _ = await rig.sign(ring, 1)
    rig.routers.may_answer.clear()
    turning = asyncio.ensure_future(ring.rotate())
    await eventually(lambda: len(rig.routers.told) == 2, "the routers are told")
    turning.cancel()
    await asyncio.gather(turning, return_exceptions=True)
    await ring.close()
    # A process that starts now signs by the old key until routers know the new one.
    after = await rig.ring()
    assert (await rig.sign(after, 1))[0] == old
    rig.routers.may_answer.set()
    tending = asyncio.ensure_future(after.run())
    await eventually(lambda: after.signing.kid != old, "the new key signs")
    assert (await rig.sign(after, 1))[0] != old
    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)


async def test_keys_follow_each_other_by_age_and_go_with_their_tokens(rig: Rig) -> None:
    ring = await rig.ring(max_age=30 * DAY)
    old, end = await rig.sign(ring, 24 * 40)

    async def tend() -> None:
        running = asyncio.ensure_future(ring.run())
        await eventually(lambda: rig.clock.sleeping, "it has done what is due")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    rig.clock.advance(30 * DAY - 1)
    await tend()
    assert [key.kid for key in ring.keys] == [old]
    rig.clock.advance(1)
    await tend()
    assert len(ring.keys) == 2
    assert ring.signing.kid != old
    # The old one verifies until its last token has ended, and not for long after.
    rig.clock.advance(end - rig.clock.now().timestamp())
    await tend()
    assert old in {key.kid for key in ring.keys}
    rig.clock.advance(COVERED_SECONDS + 120)
    await tend()
    assert old not in {key.kid for key in ring.keys}
    assert old not in rig.routers.told[-1]
    assert old not in {key.kid for key in await rig.store.load()}


async def test_a_token_costs_a_write_only_now_and_then(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = await rig.ring()
    written: list[float] = []
    extend = rig.store.extend

    async def counted(kid: str, until: float) -> bool:
        written.append(until)
        return await extend(kid, until)

    monkeypatch.setattr(rig.store, "extend", counted)
    for _ in range(20):
        _, end = await rig.sign(ring, 1)
        rig.clock.advance(1)
    assert len(written) <= 2
    assert (await rig.store.load())[0].verifies_until >= end


async def test_a_token_of_a_key_that_goes_meanwhile_is_signed_again(rig: Rig) -> None:
    ring = await rig.ring()
    old, _ = await rig.sign(ring, 0.5)
    await rig.store.remove([old])
    new, _ = await rig.sign(ring, 5)
    assert new != old
    assert [key.kid for key in await rig.store.load()] == [new]
    assert rig.routers.told[-1] == [new]


async def test_there_are_not_more_keys_than_routers_shall_hold(rig: Rig) -> None:
    ring = await rig.ring()
    for _ in range(MAX_KEYS - 1):
        await rig.sign(ring, 1)
        await ring.rotate()
    with pytest.raises(ServiceError) as caught:
        await ring.rotate()
    assert caught.value.reason == errors_pb2.ERROR_REASON_TOO_MANY_SIGNING_KEYS
    assert len(await rig.store.load()) == MAX_KEYS


# How routers learn of them.


def key(kid: str) -> pb.VerificationKey:
    return pb.VerificationKey(kid=kid, ed25519_public_key=b"x" * 32)


def test_keys_are_a_change_of_the_routes() -> None:
    table = RouteTable(100)
    assert table.set_keys([key("a")])
    assert [k.kid for k in table.snapshot().keys] == ["a"]
    seen = table.revision
    assert not table.set_keys([key("a")])
    assert table.since(seen) is None
    assert table.set_keys([key("b"), key("a")])
    following = table.since(seen)
    assert following is not None
    assert [k.kid for k in following.keys] == ["b", "a"]
    later = table.revision
    table.put(pb.Route(session_id="s"))
    after = table.since(later)
    assert after is not None
    assert not after.keys, "they did not change"


def test_a_router_that_owes_its_word_is_told_of() -> None:
    acks = RouteAcks(away_after=2.0)
    assert acks.unanimous(5, 0.0), "nobody watches"
    acks.open("w", 0.0)
    acks.acknowledge("w", 5, 5, 0.0)
    assert acks.unanimous(5, 0.0)
    acks.publish(1.0)
    assert not acks.settled(6, 2.0)
    assert acks.settled(6, 3.5), "it is not waited for any longer"
    assert not acks.unanimous(6, 3.5), "and yet it has not said so"
    acks.acknowledge("w", 6, 6, 4.0)
    assert acks.unanimous(6, 4.0)
    acks.expect_reconnects(5.0)
    assert not acks.unanimous(6, 5.0), "others may be on their way"
    assert not acks.settled(6, 5.0)
    assert acks.heard(6, 5.0), "of those that are there"
