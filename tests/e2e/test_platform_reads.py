"""The platform's own entity models read what Podbay makes, services without an image included."""

from __future__ import annotations

import json
import sys

import pytest

from podbay import Client
from podbay.local import mocks
from tests.support.reference import Reference

pytestmark = pytest.mark.needs_reference


def test_services_and_sessions_read_under_the_platforms_models(client: Client, account: str):
    mock = client.inferenceservices.create_mock(
        mocks.TextCompletion, account=account, serving={"max_concurrency": 4}
    )
    command = client.inferenceservices.create_process(
        [sys.executable, "-c", "pass"],
        mocks.Echo().interface,
        account=account,
        name="command",
        args=["--flag"],
        env={"A": "b"},
        working_dir="/tmp",
        serving={"start_timeout": 5, "safe_to_retry": True},
    )
    model = client.models.create(
        {
            "account": account,
            "name": "m",
            "artifact": {"kind": "Mock"},
            "source": {"kind": "Mock"},
            "resources": {"memory": "1Gi"},
        }
    )
    session = client.inferencesessions.create(
        {"account": account, "inferenceService": mock.id, "replicas": 2}
    ).inferencesession
    client.inferencesessions.terminate(session.id)
    with Reference() as reference:
        for name, entity in [
            ("InferenceService", mock),
            ("InferenceService", command),
            ("Model", model),
            ("InferenceSession", session),
            ("InferenceSession", client.inferencesessions.get(session.id)),
        ]:
            (answer,) = reference.read(name, [entity.json()])
            assert "errors" not in answer, answer
            assert json.loads(answer["written"]) == json.loads(entity.json())
