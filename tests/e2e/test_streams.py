"""Answers in pieces, through an output pipeline."""

from __future__ import annotations

from podbay import Client
from tests.support.platform import Platform
from tests.support.replica_mocks import Handshake

FIRST, SECOND = [{"said": "one"}, {"said": "two"}], [{"said": "three"}]


def test_a_piece_leaves_the_pipeline_before_the_replica_sends_the_next(
    client: Client, account: str
) -> None:
    service = client.inferenceservices.create_mock(Handshake, account=account)
    made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    session_id = made.inferencesession.id
    client.inferencesessions.wait_ready(session_id, timeout=60)
    with (
        client.inferencesessions.client(
            session_id, made.token, interface=service.interface
        ) as calls,
        client.inferencesessions.client(session_id, made.token, endpoint="go") as go,
    ):
        pieces = calls.stream({})
        assert [next(pieces), next(pieces)] == FIRST
        # The replica waits for this: had the first piece waited for the second, we were not here.
        assert go.infer({}) == [{"went": True}]
        assert list(pieces) == SECOND
    client.inferencesessions.terminate(session_id)


async def test_the_same_with_the_asynchronous_client(platform: Platform) -> None:
    async with platform.async_client() as client:
        account = (await client.installation()).account
        service = await client.inferenceservices.create_mock(Handshake, account=account)
        made = await client.inferencesessions.create(
            {"account": account, "inferenceService": service.id}
        )
        session_id = made.inferencesession.id
        await client.inferencesessions.wait_ready(session_id, timeout=60)
        async with (
            client.inferencesessions.client(
                session_id, made.token, interface=service.interface
            ) as calls,
            client.inferencesessions.client(session_id, made.token, endpoint="go") as go,
        ):
            pieces = calls.stream({})
            assert [await anext(pieces), await anext(pieces)] == FIRST
            assert await go.infer({}) == [{"went": True}]
            assert [piece async for piece in pieces] == SECOND
        await client.inferencesessions.terminate(session_id)
