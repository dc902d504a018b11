"""Session tokens end to end: a session manager, its keys, and a router in processes of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from podbay.v1 import errors_pb2
from podbay.v1 import inference_router_service_pb2 as router_pb
from podbay.v1 import session_manager_service_pb2 as pb
from tests.support.eventually import eventually
from tests.support.router_process import RouterProcess
from tests.support.router_rig import ExchangeClient, call, running_rig
from tests.support.router_rig import Rig as RouterRig
from tests.support.rpc import details_of
from tests.support.session_manager import Rig, session_manager

WORKERS = 2
# What the issue grants a router to hear of a revocation.
AT_MOST_SECONDS = 1.0


@dataclass
class Manager:
    """What a router process asks of its session manager here."""

    rig: Rig

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.rig.port}"

    def token(self, session: str) -> str:
        raise NotImplementedError("tokens come from the session manager itself")


class World:
    """A session that serves, and the router before it."""

    def __init__(self, rig: Rig, router: RouterProcess, session: str, token: str) -> None:
        self.rig = rig
        self.router = router
        self.session = session
        self.token = token

    async def infer(self, token: str | None = None, stub: Any = None) -> str:
        """Make a call, and return the reason why it failed; "" where it did not."""
        try:
            await (stub or self.router.stub()).Infer(
                router_pb.InferRequest(session_id=self.session, endpoint="infer", json=b"{}"),
                metadata=[("authorization", f"Bearer {token or self.token}")],
                timeout=20,
                wait_for_ready=True,
            )
        except grpc.aio.AioRpcError as error:
            return details_of(error)[0].reason
        return ""

    async def new_token(self) -> str:
        answer = await self.rig.call(
            "CreateSessionToken", pb.CreateSessionTokenRequest(id=self.session)
        )
        return str(answer.token)

    def exchange(self) -> ExchangeClient:
        metadata = [("authorization", f"Bearer {self.token}")]
        return ExchangeClient(self.router.stub().Exchange(metadata=metadata))

    async def refused_after(self, is_refusal: Callable[[str], bool]) -> tuple[float, int]:
        """Call again and again over several connections, from the moment of this.

        Returns:
            How many seconds it took until every connection was refused, and how many calls were
            answered meanwhile.
        """
        answered, stubs = 0, [self.router.stub() for _ in range(3 * WORKERS)]
        began = time.monotonic()
        for stub in stubs:
            while not is_refusal(await self.infer(stub=stub)):
                answered += 1
                assert time.monotonic() - began < 30
        return time.monotonic() - began, answered


@asynccontextmanager
async def running(
    folder: Path, command: list[str] | None = None, **settings: Any
) -> AsyncIterator[World]:
    async with session_manager(folder / "manager", **settings) as rig:
        made = await rig.create(rig.registry.add(command=command))
        (folder / "router").mkdir()
        router = RouterProcess(folder / "router", Manager(rig))
        await router.start("--workers", str(WORKERS))
        try:
            session = made.inferencesession.id
            await rig.ready(session)
            yield World(rig, router, session, made.token)
        finally:
            await router.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


async def test_revoked_tokens_end_at_every_router_with_the_answer(world: World) -> None:
    for _ in range(3 * WORKERS):
        assert await world.infer() == ""
    stream = world.exchange()
    await stream.send(call(1, endpoint="infer"))
    assert not (await stream.next()).HasField("error")
    revoked = await world.rig.call(
        "RevokeSessionTokens", pb.RevokeSessionTokensRequest(id=world.session)
    )
    seconds, answered = await world.refused_after(lambda reason: reason == "TOKEN_REVOKED")
    assert revoked.acknowledged
    # All workers had said so before the answer: not one call came through, on any machine.
    assert answered == 0, f"{answered} calls in {seconds:.3f} s"
    assert await stream.ended() is grpc.StatusCode.OK
    # A token of the new epoch is good everywhere.
    fresh = await world.new_token()
    for _ in range(3 * WORKERS):
        assert await world.infer(fresh) == ""


async def test_a_terminated_session_takes_no_new_calls(world: World) -> None:
    stream = world.exchange()
    await stream.send(call(1, endpoint="infer"))
    assert not (await stream.next()).HasField("error")
    await world.rig.call(
        "TerminateInferenceSession", pb.TerminateInferenceSessionRequest(id=world.session)
    )
    seconds, answered = await world.refused_after(lambda reason: reason == "SESSION_TERMINATED")
    # The answer waits for the routers for a second at most, so that they may lag on a busy machine.
    assert answered == 0 or seconds <= AT_MOST_SECONDS
    await stream.send(call(2, endpoint="infer"))
    result = await stream.next()
    assert result.error.reason == errors_pb2.ERROR_REASON_SESSION_TERMINATED


async def test_a_router_that_does_not_answer_is_told_of(world: World) -> None:
    workers = world.router.workers
    assert len(workers) == WORKERS
    stub = world.router.stub()
    assert await world.infer(stub=stub) == ""
    for worker in workers:
        worker.suspend()
    try:
        revoked = await world.rig.call(
            "RevokeSessionTokens", pb.RevokeSessionTokensRequest(id=world.session)
        )
        assert not revoked.acknowledged
    finally:
        for worker in workers:
            worker.resume()

    async def refused() -> bool:
        return await world.infer() == "TOKEN_REVOKED"

    await eventually(refused, "it refuses them as soon as it hears of it")


async def test_keys_follow_each_other_without_a_failed_call(world: World) -> None:
    async def kids() -> list[str]:
        listed = await world.rig.call("ListSigningKeys", pb.ListSigningKeysRequest())
        assert [key.signing for key in listed.keys].count(True) == 1
        return [key.kid for key in listed.keys]

    before = await kids()
    going, failures = asyncio.Event(), []

    async def keep_calling() -> None:
        stub = world.router.stub()
        while not going.is_set():
            failures.append(await world.infer(stub=stub))

    callers = [asyncio.ensure_future(keep_calling()) for _ in range(3)]
    tokens = [world.token]
    for _ in range(3):
        rotated = await world.rig.call("RotateSigningKeys", pb.RotateSigningKeysRequest())
        fresh = await world.new_token()
        assert jwt.get_unverified_header(fresh)["kid"] == rotated.keys[0].kid
        # At once, at whichever worker.
        for _ in range(2 * WORKERS):
            assert await world.infer(fresh) == ""
        tokens.append(fresh)
    going.set()
    await asyncio.gather(*callers)
    assert set(failures) == {""}
    assert [await world.infer(token) for token in tokens] == [""] * 4
    after = await kids()
    assert len(after) == 4
    assert after[-1:] == before


async def test_a_router_goes_on_without_its_session_manager(world: World) -> None:
    revoked_token, kept = world.token, ""
    await world.rig.call("RevokeSessionTokens", pb.RevokeSessionTokensRequest(id=world.session))
    kept = await world.new_token()
    await world.rig.stop()
    # It verifies with the keys that it holds, and refuses what it knows to be revoked.
    for _ in range(2 * WORKERS):
        assert await world.infer(kept) == ""
        assert await world.infer(revoked_token) == "TOKEN_REVOKED"
    # The next session manager has the same keys and epochs.
    await world.rig.start()
    assert await world.infer(kept) == ""
    assert await world.infer(revoked_token) == "TOKEN_REVOKED"
    await world.rig.ready(world.session)
    assert await world.infer(await world.new_token()) == ""


async def test_an_unknown_key_makes_nobody_ask() -> None:
    async with running_rig() as rig:
        await rig.session("s")
        assert isinstance(rig, RouterRig)
        forged = jwt.encode(
            jwt.decode(rig.manager.token("s"), options={"verify_signature": False}),
            Ed25519PrivateKey.generate(),
            algorithm="EdDSA",
            headers={"kid": "nobody's"},
        )
        metadata = [("authorization", f"Bearer {forged}")]
        for _ in range(50):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rig.infer("s", metadata=metadata)
            assert details_of(caught.value)[0].reason == "TOKEN_INVALID"
        assert rig.manager.watches == 1
