"""How a router tells which calls failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import grpc
import pytest

from podbay.v1 import errors_pb2
from podbay.v1.session_manager_service_pb2 import FailedCalls
from tests.support.eventually import eventually
from tests.support.router_fakes import ReplicaCall, SigningKey, echo
from tests.support.router_rig import Rig, call, running_rig

R = errors_pb2


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as made:
        yield made


async def fail(request: ReplicaCall) -> None:
    await request.reply(b"out of memory", status=500)


async def quote(request: ReplicaCall) -> None:
    await request.reply(b'{"input": "' + request.body + b'"}', status=422)


def told(rig: Rig) -> list[FailedCalls]:
    """Return what was told, each list once."""
    lists = {
        usage.failed_calls_number: usage.failed_calls
        for usage in rig.manager.usages
        if usage.failed_calls
    }
    return [one for number in sorted(lists) for one in lists[number]]


async def until_told(rig: Rig, *reasons: int) -> dict[int, FailedCalls]:
    await eventually(
        lambda: set(reasons) <= {one.reason for one in told(rig)}, "the router has told of them"
    )
    return {one.reason: one for one in told(rig)}


async def refused(rig: Rig, session: str = "s", **options: object) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.infer(session, **options)


async def test_what_failed_is_told_once_with_its_evidence(rig: Rig) -> None:
    await rig.session("s", fail)
    for _ in range(3):
        await refused(rig)
    client = rig.exchange("s")
    await client.send(call(0), call(1))
    await client.results(2)
    await eventually(lambda: sum(one.count for one in told(rig)) >= 5, "all five were told")
    found = told(rig)
    assert sum(one.count for one in found) == 5
    assert {(one.session_id, one.reason) for one in found} == {
        ("s", R.ERROR_REASON_REPLICA_REFUSED)
    }
    assert found[-1].message == "Replica s-r0 answered with HTTP status 500: out of memory"
    assert found[-1].metadata["httpStatus"] == "500"
    assert found[-1].last_age.ToMilliseconds() < 30_000
    await client.finish()


async def test_a_replica_that_quotes_the_body_is_not_quoted(rig: Rig) -> None:
    await rig.session("s", quote)
    await refused(rig, body=b'{"a": "hidden-4711"}')
    one = (await until_told(rig, R.ERROR_REASON_REPLICA_REFUSED))[R.ERROR_REASON_REPLICA_REFUSED]
    assert "HTTP status 422" in one.message
    assert all(b"hidden-4711" not in usage.SerializeToString() for usage in rig.manager.usages)


async def test_an_expired_token_counts_for_its_session(rig: Rig) -> None:
    await rig.session("s", echo)
    gone = rig.metadata("s", exp=int(time.time()) - 5)
    await refused(rig, metadata=gone)
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.stub.Exchange(metadata=gone).read()
    await eventually(lambda: sum(one.count for one in told(rig)) == 2, "both were told")
    for one in told(rig):
        assert (one.session_id, one.reason) == ("s", R.ERROR_REASON_TOKEN_EXPIRED)
        assert not one.metadata


async def test_a_token_that_nobody_here_signed_counts_for_no_session(rig: Rig) -> None:
    await rig.session("s", fail)
    stranger = SigningKey(rig.manager.keys[0].kid)
    for exp in (int(time.time()) + 99, int(time.time()) - 99):
        forged = [("authorization", f"Bearer {stranger.token('s', exp=exp)}")]
        await refused(rig, metadata=forged)
    await refused(rig)
    await until_told(rig, R.ERROR_REASON_REPLICA_REFUSED)
    assert {one.reason for one in told(rig)} == {R.ERROR_REASON_REPLICA_REFUSED}


@pytest.mark.parametrize(
    ("called", "account", "shown"), [("t", "acct", "t"), ("t", "other", "s"), ("u", "acct", "s")]
)
async def test_a_foreign_token_shows_only_where_its_account_looks(
    rig: Rig, called: str, account: str, shown: str
) -> None:
    """The session "u" is not known."""
    await rig.session("s", echo)
    await rig.session("t", echo, account=account)
    await refused(rig, called, metadata=rig.metadata("s"))
    one = (await until_told(rig, R.ERROR_REASON_TOKEN_FOR_OTHER_SESSION))[
        R.ERROR_REASON_TOKEN_FOR_OTHER_SESSION
    ]
    assert (one.session_id, one.count, one.metadata["session"]) == (shown, 1, called)


async def test_a_list_that_was_not_taken_is_told_again_under_its_number(rig: Rig) -> None:
    await rig.session("s", fail)
    rig.manager.refuses_usage = grpc.StatusCode.UNAVAILABLE
    await refused(rig)

    def lists() -> list[int]:
        return [u.failed_calls_number for u in rig.manager.usages if u.failed_calls]

    await eventually(lambda: len(lists()) >= 2, "it is told again")
    assert len(set(lists())) == 1
    rig.manager.refuses_usage = grpc.StatusCode.OK
    before = len(lists())
    await eventually(lambda: len(lists()) > before, "it is taken")
    await refused(rig)
    await eventually(lambda: len(set(lists())) == 2, "what fails later has another number")
    assert sum(one.count for one in told(rig)) == 2
