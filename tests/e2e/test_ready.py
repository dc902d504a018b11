"""Ready means that the next call succeeds."""

from __future__ import annotations

import pytest

from podbay import Client
from podbay.local import mocks

SESSIONS = 200


@pytest.mark.timeout(600)
def test_every_session_takes_a_call_the_moment_it_reports_ready(client: Client, account: str):
    service = client.inferenceservices.create_mock(mocks.TextCompletion, account=account)
    for number in range(SESSIONS):
        made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
        session = made.inferencesession
        status = client.inferencesessions.wait_ready(session.id, timeout=60)
        assert status.ready
        with client.inferencesessions.client(
            session.id, made.token, interface=service.interface
        ) as calls:
            answers = calls.infer({"text": f"Session {number}"})
        assert [answer["text"][: len(f"Session {number}")] for answer in answers] == [
            f"Session {number}"
        ] * 2
        client.inferencesessions.terminate(session.id)


def test_ready_is_false_before_and_after(client: Client, account: str):
    service = client.inferenceservices.create_mock(
        mocks.TextCompletion, account=account, serving={"readiness_path": "/never"}
    )
    made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    assert client.inferencesessions.ready(made.inferencesession.id) is False
    client.inferencesessions.terminate(made.inferencesession.id)
    assert client.inferencesessions.ready(made.inferencesession.id) is False
