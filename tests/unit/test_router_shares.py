"""What a router may use of limits, and what it tells of that."""

from __future__ import annotations

import pytest

from podbay.v1.session_manager_service_pb2 import WatchRoutesResponse
from podbay_inference_router.leases import LeaseFile, make_lease_file
from podbay_inference_router.router_shares import RouterShares
from podbay_inference_router.settings import Settings
from podbay_inference_router.share_link import Use
from podbay_inference_router.shares import LimitShares
from podbay_inference_router.table import RouteTable
from podbay_inference_router.tenancy import AccountLoad
from tests.support.router_fakes import route

LIMIT = 8


class World:
    """A worker's table and shares, with a clock that the test moves."""

    def __init__(self, leases: LeaseFile | None = None, workers: int = 1) -> None:
        self.now = 0.0
        settings = Settings(workers=workers, leases=leases is not None)
        self.table = RouteTable(lambda _host, _port: _Upstream(), settings)
        self.limits = LimitShares()
        self.accounts: list[AccountLoad] = []
        self.shares = RouterShares(
            self.limits, self.table, lambda: self.accounts, leases, lambda: self.now
        )

    def tell_route(self, **fields: int) -> None:
        self.table.apply(WatchRoutesResponse(routes=[route("s", [1], **fields)]), self.now)

    def give(self, *, sole: bool = False, **shares: int) -> bool:
        given = {key.replace("_", "-"): share for key, share in shares.items()}
        return self.limits.take(1, given, self.now + 20, self.now, sole=sole)


class _Upstream:
    def close(self) -> None:
        pass


def test_a_share_counts_as_held_before_its_route_is_known() -> None:
    world = World()
    world.give(s_r0=3)
    assert world.shares.uses() == {"s-r0": Use(3, 0, usable=3)}
    world.tell_route(max_concurrency=LIMIT)
    (endpoint,) = world.table.sessions()[0].endpoints
    assert world.shares.of_replica(endpoint, LIMIT) == 3


def test_calls_from_before_are_held_until_they_end() -> None:
    world = World()
    world.tell_route(max_concurrency=LIMIT)
    world.give(sole=True)
    (endpoint,) = world.table.sessions()[0].endpoints
    assert world.shares.of_replica(endpoint, LIMIT) == LIMIT
    endpoint.outstanding = 6
    world.give(s_r0=2)
    assert world.shares.uses()["s-r0"] == Use(6, 6, more=True, usable=2)
    endpoint.outstanding = 1
    assert world.shares.uses()["s-r0"] == Use(2, 1, usable=2)


def test_calls_of_a_session_are_held_by_a_share_that_nobody_was_told_of() -> None:
    world = World()
    world.tell_route(max_in_flight=6)
    world.give(s=2)
    assert world.shares.uses()["s"] == Use(2, 0, usable=2)
    world.give(s=5)
    (session,) = world.table.sessions()
    assert world.shares.of_session(session) == 5
    account = session.tenant(AccountLoad("a"))
    account.running = 5
    # Before it was told that the five run.
    world.give(s=3)
    assert world.shares.uses()["s"] == Use(5, 5, more=True, usable=3)
    account.running = 3
    assert world.shares.uses()["s"] == Use(3, 3, usable=3)


def test_nothing_is_used_past_its_time_before_somebody_was_asked() -> None:
    world = World()
    world.tell_route(max_in_flight=6)
    (session,) = world.table.sessions()
    assert not world.shares.holds()
    world.give(s=4)
    assert world.shares.of_session(session) == 4
    world.now = 21.0
    assert not world.shares.holds()
    assert world.shares.of_session(session) == 0
    # Asked before it ran out: that tells nothing.
    assert not world.limits.unreachable(19.0)
    assert world.shares.of_session(session) == 0
    assert world.limits.unreachable(21.0)
    assert world.shares.of_session(session) == 4
    world.limits.begin_stream(30.0)
    assert world.shares.uses()["s"].held == 4  # told to the next one that leads
    assert world.give(s=1)
    assert world.shares.of_session(session) == 1


def test_a_process_that_slept_holds_nothing_on_its_next_stream() -> None:
    world = World()
    world.give(sole=True)
    world.now = 60.0
    world.limits.begin_stream(world.now)
    assert not world.limits.sole
    assert world.shares.uses() == {}


@pytest.mark.parametrize("share", [0, 1, 3, 40, 100])
def test_the_workers_of_a_router_share_its_share(share: int) -> None:
    limit = 100
    with make_lease_file() as file:
        leases = LeaseFile(file.fileno(), 0, 2)
        world = World(leases, workers=2)
        world.tell_route(max_concurrency=limit)
        (endpoint,) = world.table.sessions()[0].endpoints
        while leases.grow(endpoint, limit, 0.0):
            pass
        assert leases.allowance(endpoint, limit) == limit
        assert leases.bound(endpoint) == 0, "leases without calls are given back"
        endpoint.outstanding = limit
        assert leases.bound(endpoint) == limit
        assert leases.allowance(endpoint, share) == share
        assert not leases.grow(endpoint, share, 0.0)
        world.give(s_r0=share)
        assert world.shares.uses()["s-r0"] == Use(limit, limit, more=share < limit, usable=share)
        endpoint.outstanding = share
        leases.shrink(endpoint, limit, 0.0)
        assert leases.bound(endpoint) == share
        assert leases.allowance(endpoint, share) == share
        assert world.shares.uses()["s-r0"] == Use(share, share, usable=share)


def test_a_share_of_a_larger_limit_than_is_known_counts_as_a_whole() -> None:
    world = World()
    world.tell_route(max_in_flight=6)
    world.give(s=9)
    (session,) = world.table.sessions()
    assert world.shares.of_session(session) == 6
    assert world.shares.uses()["s"] == Use(9, 0, usable=9)


def test_accounts_with_a_quota_are_told_of() -> None:
    world = World()
    account, free = AccountLoad("acme"), AccountLoad("free")
    world.accounts += [account, free]
    account.told_limit, account.running, account.waiting = 6, 3, 9
    world.limits.take(1, {account.lease_key: 4}, 20.0, 0.0, sole=False)
    assert world.shares.of_account(account, 6) == 4
    assert world.shares.uses() == {account.lease_key: Use(4, 6, usable=4)}
